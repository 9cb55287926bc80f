use proptest::prelude::*;
use rmp::encode;

use super::*;

/// What is to be written as MessagePack.
#[derive(Clone)]
enum Value {
    Nil,
    Int(i64),
    Big(u64),
    Text(&'static str),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

use Value::{Big, Bytes, Int, List, Map, Nil, Text};

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Nil => encode::write_nil(out).unwrap(),
            Int(value) => drop(encode::write_sint(out, *value).unwrap()),
            Big(value) => drop(encode::write_uint(out, *value).unwrap()),
            Text(text) => encode::write_str(out, text).unwrap(),
            Bytes(bytes) => encode::write_bin(out, bytes).unwrap(),
            List(items) => {
                encode::write_array_len(out, u32::try_from(items.len()).unwrap()).unwrap();
                items.iter().for_each(|item| item.write(out));
            }
            Map(pairs) => {
                encode::write_map_len(out, u32::try_from(pairs.len()).unwrap()).unwrap();
                for (key, value) in pairs {
                    encode::write_str(out, key).unwrap();
                    value.write(out);
                }
            }
        }
    }
}

fn batch(events: &[Value], rank: Option<Value>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::write_array_len(&mut out, 2 + u32::from(rank.is_some())).unwrap();
    encode::write_f64(&mut out, 1_795_354_832.5).unwrap();
    List(events.to_vec()).write(&mut out);
    if let Some(rank) = rank {
        rank.write(&mut out);
    }
    out
}

fn ints(values: impl IntoIterator<Item = i64>) -> Value {
    List(values.into_iter().map(Int).collect())
}

fn decode(events: &[Value]) -> Batch {
    Decoder::default().decode(&batch(events, None)).unwrap()
}

fn event(event: Value) -> KvEvent {
    let batch = decode(&[event]);
    assert_eq!((batch.events.len(), batch.skipped), (1, Skipped::default()));
    batch.events[0].clone()
}

/// A `BlockStored` of two blocks of two tokens each, with `more` fields.
fn stored_map(more: &[(&'static str, Value)]) -> Value {
    let mut fields = vec![
        ("type", Text("BlockStored")),
        ("block_hashes", ints([7, 8])),
        ("parent_block_hash", Nil),
        ("token_ids", ints([1, 2, 3, 4])),
        ("block_size", Int(2)),
    ];
    fields.extend_from_slice(more);
    Map(fields)
}

fn two_blocks(lora: Option<&str>, salt: Option<&str>) -> KvEvent {
    KvEvent::Stored {
        hashes: vec![EngineHash(7), EngineHash(8)],
        parent: None,
        tokens: vec![1, 2, 3, 4],
        block_size: 2,
        lora: lora.map(Arc::from),
        salt: salt.map(Arc::from),
        medium: Medium::Gpu,
    }
}

#[test]
fn both_forms_of_an_event_mean_the_same() {
    let mut array = vec![Text("BlockStored"), ints([7, 8]), Nil, ints([1, 2, 3, 4]), Int(2), Nil, Text("GPU"), Nil];
    assert_eq!(event(List(array.clone())), two_blocks(None, None));
    array.truncate(5);
    assert_eq!(event(List(array.clone())), two_blocks(None, None), "trailing fields may be left out");
    array.extend([Int(1), Text("GPU"), Text("ad1"), List(vec![Nil, Nil]), Int(0), Text("mla_attention"), Nil, Int(9)]);
    assert_eq!(event(List(array)), two_blocks(Some("ad1"), None), "and fields may come that nobody knows");

    assert_eq!(event(stored_map(&[])), two_blocks(None, None));
    let more = [("lora_id", Int(1)), ("lora_name", Text("ad1")), ("news", Map(vec![("a", List(vec![Nil]))]))];
    assert_eq!(event(stored_map(&more)), two_blocks(Some("ad1"), None));

    let removed = KvEvent::Removed { hashes: vec![EngineHash(7)], medium: Some(Medium::Cpu) };
    assert_eq!(event(List(vec![Text("BlockRemoved"), ints([7]), Text("cpu")])), removed);
    let fields = vec![("medium", Text("CPU_PINNED")), ("block_hashes", ints([7])), ("type", Text("BlockRemoved"))];
    assert_eq!(event(Map(fields)), removed);
    let unsaid = KvEvent::Removed { hashes: vec![EngineHash(7)], medium: None };
    assert_eq!(event(List(vec![Text("BlockRemoved"), ints([7])])), unsaid);

    assert_eq!(event(List(vec![Text("AllBlocksCleared")])), KvEvent::Cleared);
    assert_eq!(event(Map(vec![("type", Text("AllBlocksCleared"))])), KvEvent::Cleared);
}

#[test]
fn a_batch_says_its_time_and_perhaps_its_rank() {
    let decode = |payload: &[u8]| Decoder::default().decode(payload).unwrap();
    let with_rank = decode(&batch(&[], Some(Int(3))));
    assert_eq!((with_rank.at, with_rank.rank), (1_795_354_832.5, Some(3)));
    assert_eq!(decode(&batch(&[], Some(Nil))).rank, None);
    assert_eq!(decode(&batch(&[], None)).rank, None);
}

#[test]
fn a_hash_is_its_last_eight_bytes_however_it_is_written() {
    let big = u64::MAX - 4;
    let mut bytes = vec![0xaa; 24];
    bytes.extend(big.to_be_bytes());
    let list = List(vec![Int(-5), Big(big), Bytes(bytes)]);
    let removed = KvEvent::Removed { hashes: vec![EngineHash(big); 3], medium: None };
    assert_eq!(event(List(vec![Text("BlockRemoved"), list])), removed);
}

#[test]
fn salts_and_adapters_are_read_from_the_keys_of_a_block() {
    let keys = |blocks: &[Value]| ("extra_keys", List(blocks.to_vec()));
    let ad1 = [("lora_id", Int(1)), ("lora_name", Text("ad1"))];
    let salted = two_blocks(None, Some("tenant-a"));

    let bare = keys(&[List(vec![Text("tenant-a")]), Nil]);
    assert_eq!(event(stored_map(&[bare])), salted);
    let tagged = keys(&[List(vec![List(vec![Text("cache_salt"), Text("tenant-a")])]), Nil]);
    assert_eq!(event(stored_map(&[tagged])), salted);
    assert_eq!(event(stored_map(&[("cache_salt", Text("tenant-a"))])), salted);

    let bare = keys(&[List(vec![Text("ad1"), Text("tenant-a")]), List(vec![Text("ad1")])]);
    let both = two_blocks(Some("ad1"), Some("tenant-a"));
    assert_eq!(event(stored_map(&[ad1.as_slice(), &[bare]].concat())), both);
    let lora = List(vec![Text("lora"), Text("ad1"), Text("/adapters/ad1")]);
    let tagged = keys(&[List(vec![lora.clone()]), List(vec![lora])]);
    assert_eq!(event(stored_map(&[ad1.as_slice(), &[tagged]].concat())), two_blocks(Some("ad1"), None));
}

#[test]
fn blocks_that_look_like_others_are_left_out() {
    let ambiguous = Skipped { ambiguous: 1, ..Skipped::default() };
    let image = List(vec![List(vec![Text("sha-of-an-image"), Int(3)])]);
    let pictured = decode(&[stored_map(&[("extra_keys", List(vec![image.clone(), image.clone()]))])]);
    assert_eq!((pictured.events, pictured.skipped), (vec![], ambiguous));

    let later = event(stored_map(&[("extra_keys", List(vec![Nil, image]))]));
    let KvEvent::Stored { hashes, tokens, .. } = later else { panic!("{later:?}") };
    assert_eq!((hashes, tokens), (vec![EngineHash(7)], vec![1, 2]), "what is before the image is text");

    assert_eq!(decode(&[stored_map(&[("lora_id", Int(4))])]).skipped, ambiguous, "an adapter without a name");
    assert_eq!(decode(&[stored_map(&[("block_size", Int(3))])]).skipped, ambiguous, "parts that do not fit");
    assert_eq!(decode(&[stored_map(&[("block_size", Int(0))])]).skipped, ambiguous);
}

#[test]
fn only_layers_that_hold_whole_prefixes_count() {
    let window =
        stored_map(&[("group_idx", Int(1)), ("kv_cache_spec_kind", Text("sliding_window")), ("medium", Text("GPU"))]);
    let full = stored_map(&[("group_idx", Int(0)), ("kv_cache_spec_kind", Text("full_attention"))]);
    let removed =
        |group| Map(vec![("type", Text("BlockRemoved")), ("block_hashes", ints([7])), ("group_idx", Int(group))]);
    let mut decoder = Decoder::default();
    let batch = decoder.decode(&batch(&[window, full, removed(1), removed(0)], None)).unwrap();
    let gone = KvEvent::Removed { hashes: vec![EngineHash(7)], medium: None };
    assert_eq!(batch.events, [two_blocks(None, None), gone], "the window's removal leaves the full layers' block");
    assert_eq!(batch.skipped, Skipped { partial: 2, ..Skipped::default() });
}

#[test]
fn unknown_events_are_skipped_and_counted() {
    let batch = decode(&[
        List(vec![Text("BlockMoved"), ints([1]), Map(vec![])]),
        Map(vec![("type", Text("BlockMoved")), ("to", Int(1))]),
        List(vec![Text("AllBlocksCleared")]),
    ]);
    assert_eq!(batch.events, [KvEvent::Cleared]);
    assert_eq!(batch.skipped, Skipped { unknown: 2, ..Skipped::default() });
}

#[test]
fn what_may_hide_a_removal_is_an_error() {
    let decode = |payload: &[u8]| Decoder::default().decode(payload);
    for (event, what) in [
        (List(vec![Text("BlockRemoved")]), "without hashes"),
        (List(vec![Text("BlockRemoved"), List(vec![Text("7")])]), "a block hash"),
        (List(vec![Text("BlockRemoved"), List(vec![Bytes(vec![1; 7])])]), "less than eight"),
        (Map(vec![("block_hashes", ints([7]))]), "without a type"),
        (Int(1), "an event"),
    ] {
        let error = decode(&batch(&[event], None)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let whole = batch(&[stored_map(&[])], None);
    for end in 0..whole.len() {
        assert!(decode(&whole[..end]).is_err(), "cut after {end} bytes");
    }
    let mut deep = vec![0x92, 0x00];
    deep.extend([0x91; 100]);
    assert_eq!(decode(&deep), Err(DecodeError::Shape("the type of an event")));
    let mut deep = batch(&[], Some(Nil));
    deep.pop();
    deep.extend([0x91; 100]);
    assert_eq!(decode(&deep), Err(DecodeError::Malformed("it is nested too deep")));
    let many = List(vec![Nil; MOST_EVENTS + 1]);
    let mut out = vec![0x92, 0x00];
    many.write(&mut out);
    assert_eq!(decode(&out), Err(DecodeError::Events));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_allocate_what_they_only_announce(
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        cut in 0_usize..200,
        at in 0_usize..200,
        byte in any::<u8>(),
    ) {
        let _ = Decoder::default().decode(&bytes);
        let mut bent = batch(&[stored_map(&[("extra_keys", List(vec![Nil, Nil]))]), List(vec![Text("BlockRemoved"), ints([7])])], Some(Int(0)));
        bent.truncate(cut.max(20));
        if let Some(place) = bent.get_mut(at) {
            *place = byte;
        }
        if let Ok(batch) = Decoder::default().decode(&bent) {
            for event in batch.events {
                if let KvEvent::Stored { hashes, tokens, block_size, .. } = event {
                    prop_assert_eq!(hashes.len() * block_size as usize, tokens.len());
                }
            }
        }
    }
}
