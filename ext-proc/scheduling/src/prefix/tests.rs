use std::borrow::Cow;
use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::request::Prompt;

fn prompt<'a>(pieces: &[&'a [u8]]) -> Prompt<'a> {
    Prompt { pieces: pieces.iter().map(|piece| Cow::Borrowed(*piece)).collect() }
}

fn blocks(range: std::ops::Range<u64>) -> Vec<BlockHash> {
    // Spread like real hashes, so that shards differ.
    range.map(|number| BlockHash(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect()
}

proptest! {
    #[test]
    fn where_pieces_begin_does_not_change_the_hashes(
        text in vec(any::<u8>(), 0..600), cuts in vec(0_usize..600, 0..8), block_bytes in 1_usize..300, max in 0_usize..20,
    ) {
        let cuts: BTreeSet<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        let cuts: Vec<usize> = cuts.into_iter().collect();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        let whole = chain("m", &prompt(&[&text]), block_bytes, max);
        prop_assert_eq!(whole.len(), text.len().div_ceil(block_bytes).min(max));
        prop_assert_eq!(chain("m", &prompt(&pieces), block_bytes, max), whole);
    }

    #[test]
    fn the_index_agrees_with_a_plain_model_of_it(
        steps in vec((0_u32..4, 0_u64..4, 1_u64..30, any::<bool>()), 1..60), capacity in 1_usize..40,
    ) {
        let index = PrefixIndex::default();
        // For each slot the blocks, most recent first.
        let mut model: Vec<Vec<BlockHash>> = vec![Vec::new(); 4];
        for (slot, family, depth, forget) in steps {
            // Families share their first ten blocks.
            let mut prompt = blocks(0..depth.min(10));
            prompt.extend(blocks(1000 * (family + 1)..1000 * (family + 1) + depth.saturating_sub(10)));
            let known = &mut model[slot as usize];
            if forget && family == 0 {
                index.forget(Slot(slot));
                known.clear();
            } else {
                index.learn(Slot(slot), &prompt, capacity);
                for block in prompt.iter().take(capacity).rev() {
                    known.retain(|other| other != block);
                    known.insert(0, *block);
                }
                known.truncate(capacity);
            }
            let expected: Vec<u32> = model
                .iter()
                .map(|known| prompt.iter().take_while(|block| known.contains(block)).count() as u32)
                .collect();
            let matched = index.matched(&prompt);
            let found: Vec<u32> = (0..4).map(|slot| matched.of(Slot(slot))).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(index.len(), model.iter().map(Vec::len).sum::<usize>());
        }
    }
}

#[test]
fn a_block_depends_on_the_model_and_on_everything_before_it() {
    let hashes = |model, text: &[u8]| chain(model, &prompt(&[text]), 4, 100);
    assert_eq!(hashes("m", b"aaaabbbb").len(), 2);
    assert_ne!(hashes("m", b"aaaabbbb"), hashes("n", b"aaaabbbb"));
    assert_ne!(hashes("m", b"aaaabbbb")[1], hashes("m", b"ccccbbbb")[1]);
    assert_eq!(hashes("m", b"aaaabbbb")[0], hashes("m", b"aaaacccc")[0]);
    assert_eq!(hashes("m", b"aaaab").len(), 2, "a short last block counts");
}

#[test]
fn eviction_takes_the_tail_of_the_least_recent_prompt_first() {
    let index = PrefixIndex::default();
    let (old, new) = (blocks(0..6), blocks(100..104));
    index.learn(Slot(0), &old, 8);
    index.learn(Slot(0), &new, 8);
    assert_eq!(index.matched(&old).of(Slot(0)), 4);
    assert_eq!(index.matched(&new).of(Slot(0)), 4);
    assert_eq!(index.len(), 8);
}

#[test]
fn a_prompt_longer_than_the_capacity_keeps_its_beginning() {
    let index = PrefixIndex::default();
    index.learn(Slot(0), &blocks(0..20), 5);
    assert_eq!(index.matched(&blocks(0..20)).of(Slot(0)), 5);
}

#[test]
fn forgetting_one_endpoint_leaves_the_others_and_no_trace() {
    let index = PrefixIndex::default();
    let shared = blocks(0..50);
    for slot in 0..3 {
        index.learn(Slot(slot), &shared, 100);
    }
    index.forget(Slot(1));
    assert_eq!([2, 1, 0].map(|slot| index.matched(&shared).of(Slot(slot))), [50, 0, 50]);
    index.forget(Slot(0));
    index.forget(Slot(2));
    assert!(index.is_empty());
    assert!(index.shards.iter().all(|shard| shard.read().is_empty()));
}

#[test]
fn readers_and_writers_at_once_leave_a_consistent_index() {
    let index = PrefixIndex::default();
    std::thread::scope(|scope| {
        for slot in 0..4 {
            let index = &index;
            scope.spawn(move || {
                for round in 0..200_u64 {
                    let prompt = blocks(round % 7 * 10..round % 7 * 10 + 40);
                    index.learn(Slot(slot), &prompt, 60);
                    assert_eq!(index.matched(&prompt).of(Slot(9)), 0);
                    if round % 50 == 49 {
                        index.forget(Slot(slot));
                    }
                }
            });
        }
    });
    assert!(index.is_empty());
}
