//! The index against a naive model, and the cases that a set would get wrong.

mod model;
mod readers;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use model::{Model, Step, any_steps};

const SLOT: Slot = Slot(3);

/// Blocks of one token, named by `name`.
fn stored(parent: Option<u64>, names: &[u64], tokens: &[u32], medium: Medium) -> KvEvent {
    KvEvent::Stored {
        hashes: names.iter().copied().map(EngineHash).collect(),
        parent: parent.map(EngineHash),
        tokens: tokens.to_vec(),
        block_size: u32::try_from(tokens.len() / names.len()).unwrap(),
        lora: None,
        salt: None,
        medium,
    }
}

fn removed(names: &[u64]) -> KvEvent {
    KvEvent::Removed { hashes: names.iter().copied().map(EngineHash).collect(), medium: None }
}

fn matched(index: &KvIndex, tokens: &[u32]) -> KvMatch {
    index.matches(&block_keys(tokens, 1, None, None), &[SLOT])[0]
}

/// An index of one rank that holds the prompt 1, 2, … of so many blocks, named 101, 102, …
fn holding(blocks: u32) -> (KvIndex, Vec<u32>) {
    let index = KvIndex::default();
    let tokens: Vec<u32> = (1..=blocks).collect();
    let names: Vec<u64> = tokens.iter().map(|token| u64::from(*token) + 100).collect();
    let applied = index.apply(SLOT, 0, &[stored(None, &names, &tokens, Medium::Gpu)]);
    assert_eq!(applied, Applied { stored: blocks as usize, ..Applied::default() });
    (index, tokens)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// After every step of any history, every prompt is answered as the model answers it.
    #[test]
    fn every_history_is_answered_as_by_the_naive_model(steps in any_steps()) {
        let (index, mut model) = (KvIndex::default(), Model::default());
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Apply(slot, rank, events) => {
                    let (applied, expected) = (index.apply(*slot, *rank, events), model.apply(*slot, *rank, events));
                    prop_assert_eq!(applied, expected, "step {} of {:?}", number, steps);
                }
                Step::Forget(slot, rank) => {
                    index.forget(*slot, *rank);
                    model.forget(*slot, *rank);
                }
            }
            for (prompt, lora) in model::prompts() {
                let found = index.matches(&block_keys(&prompt, 1, lora, None), &model::SLOTS);
                let expected = model.matches(&prompt, lora);
                prop_assert_eq!(found, expected, "{:?} {:?} step {} of {:?}", prompt, lora, number, steps);
            }
        }
        prop_assert_eq!(index.usage().blocks, model.blocks());
    }
}

#[test]
fn a_block_stored_twice_and_removed_once_stays() {
    let (index, tokens) = holding(4);
    let again = index.apply(SLOT, 0, &[stored(Some(103), &[104], &[4], Medium::Gpu)]);
    assert_eq!(again, Applied { duplicates: 1, ..Applied::default() });
    index.apply(SLOT, 0, &[removed(&[104])]);
    assert_eq!(matched(&index, &tokens).blocks, 4);
    index.apply(SLOT, 0, &[removed(&[104])]);
    assert_eq!(matched(&index, &tokens).blocks, 3);
    let once_more = index.apply(SLOT, 0, &[removed(&[104])]);
    assert_eq!(once_more, Applied { unknown_removed: 1, ..Applied::default() });
}

#[test]
fn more_copies_than_a_byte_counts_are_counted() {
    let (index, tokens) = holding(1);
    for _ in 0..400 {
        index.apply(SLOT, 0, &[stored(None, &[101], &[1], Medium::Gpu)]);
    }
    for _ in 0..400 {
        index.apply(SLOT, 0, &[removed(&[101])]);
    }
    assert_eq!(matched(&index, &tokens).blocks, 1);
    index.apply(SLOT, 0, &[removed(&[101])]);
    assert_eq!(matched(&index, &tokens).blocks, 0);
    assert_eq!(index.usage().blocks, 0);
}

#[test]
fn a_block_evicted_from_the_middle_ends_the_match_until_it_is_back() {
    let (index, tokens) = holding(100);
    index.apply(SLOT, 0, &[removed(&[141, 161])]);
    assert_eq!(matched(&index, &tokens).blocks, 40);
    index.apply(SLOT, 0, &[stored(Some(140), &[141], &[41], Medium::Gpu)]);
    assert_eq!(matched(&index, &tokens).blocks, 60);
    index.apply(SLOT, 0, &[stored(Some(160), &[161], &[61], Medium::Gpu)]);
    assert_eq!(matched(&index, &tokens).blocks, 100);
}

#[test]
fn a_hole_is_forgotten_with_the_last_block_after_it() {
    let (index, tokens) = holding(3);
    index.apply(SLOT, 0, &[removed(&[101, 102])]);
    assert_eq!(index.usage().blocks, 3, "two holes and what is after them");
    index.apply(SLOT, 0, &[removed(&[103])]);
    assert_eq!((index.usage().blocks, matched(&index, &tokens).blocks), (0, 0));
}

#[test]
fn a_store_after_an_unknown_block_is_dropped_and_counted() {
    let (index, _) = holding(2);
    let applied = index.apply(SLOT, 0, &[stored(Some(999), &[103, 104], &[3, 4], Medium::Gpu)]);
    assert_eq!(applied, Applied { unknown_parent: 2, ..Applied::default() });
    assert_eq!(index.usage().blocks, 2);
    // Another rank's block is not this rank's parent.
    let other = index.apply(SLOT, 1, &[stored(Some(102), &[103], &[3], Medium::Gpu)]);
    assert_eq!(other, Applied { unknown_parent: 1, ..Applied::default() });
}

#[test]
fn hashes_and_tokens_that_do_not_fit_are_dropped_and_counted() {
    let index = KvIndex::default();
    let event = |block_size| KvEvent::Stored {
        hashes: vec![EngineHash(1), EngineHash(2)],
        parent: None,
        tokens: vec![1, 2, 3],
        block_size,
        lora: None,
        salt: None,
        medium: Medium::Gpu,
    };
    for block_size in [0, 1, 2, u32::MAX] {
        let applied = index.apply(SLOT, 0, &[event(block_size)]);
        assert_eq!(applied, Applied { malformed: 2, ..Applied::default() });
    }
    assert_eq!(index.usage().blocks, 0);
}

#[test]
fn adapters_salts_and_block_sizes_are_kept_apart() {
    let index = KvIndex::default();
    let event = |name, block_size, lora: Option<&str>, salt: Option<&str>| KvEvent::Stored {
        hashes: vec![EngineHash(name)],
        parent: None,
        tokens: vec![7; block_size as usize],
        block_size,
        lora: lora.map(Arc::from),
        salt: salt.map(Arc::from),
        medium: Medium::Gpu,
    };
    index.apply(Slot(0), 0, &[event(1, 16, Some("a"), None)]);
    index.apply(Slot(1), 0, &[event(1, 16, None, Some("s"))]);
    index.apply(Slot(2), 0, &[event(1, 32, None, None)]);
    let slots = [Slot(0), Slot(1), Slot(2)];
    let holders = |block_size, lora, salt| {
        let found = index.matches(&block_keys(&[7; 32], block_size, lora, salt), &slots);
        found.iter().map(|found| found.blocks).collect::<Vec<_>>()
    };
    assert_eq!(holders(16, Some("a"), None), [1, 0, 0]);
    assert_eq!(holders(16, None, Some("s")), [0, 1, 0]);
    assert_eq!(holders(16, Some("a"), Some("s")), [0, 0, 0]);
    assert_eq!(holders(32, None, None), [0, 0, 1]);
    assert_eq!(index.block_sizes(&slots), [16, 32]);
    assert_eq!(index.block_sizes(&slots[..2]), [16]);
    assert!(index.block_sizes(&[Slot(9)]).is_empty());
}

#[test]
fn slower_media_weigh_less_and_the_fastest_copy_counts() {
    let (index, tokens) = holding(4);
    index.apply(SLOT, 0, &[stored(Some(102), &[103, 104], &[3, 4], Medium::Cpu)]);
    assert_eq!(matched(&index, &tokens).weighted, 4.0, "still in the accelerator too");
    let gone = KvEvent::Removed { hashes: vec![EngineHash(104), EngineHash(103)], medium: Some(Medium::Gpu) };
    index.apply(SLOT, 0, &[gone]);
    let found = matched(&index, &tokens);
    assert_eq!(found.blocks, 4);
    assert!((found.weighted - 3.6).abs() < 1e-5, "{found:?}");
}

#[test]
fn an_endpoints_match_is_its_best_ranks() {
    let (index, tokens) = holding(2);
    index.apply(SLOT, 5, &[stored(None, &[1, 2, 3], &[1, 2, 3], Medium::Gpu)]);
    assert_eq!(matched(&index, &[1, 2, 3]), KvMatch { blocks: 3, weighted: 3.0, rank: 5 });
    assert_eq!(matched(&index, &tokens).rank, 0, "the first of two that are equal");
    index.apply(SLOT, 5, &[KvEvent::Cleared]);
    assert_eq!(matched(&index, &[1, 2, 3]), KvMatch { blocks: 2, weighted: 2.0, rank: 0 });
    index.forget(SLOT, Some(0));
    assert_eq!(matched(&index, &[1, 2, 3]), KvMatch::default());
}

#[test]
fn hundreds_of_endpoints_are_told_apart_and_a_lane_that_is_free_is_given_again() {
    let index = KvIndex::default();
    let slots: Vec<Slot> = (0..300).map(Slot).collect();
    for slot in &slots {
        let held = slot.0 % 7 + 1;
        let (names, tokens): (Vec<u64>, Vec<u32>) = (1..=held).map(|token| (u64::from(token), token)).unzip();
        index.apply(*slot, 0, &[stored(None, &names, &tokens, Medium::Gpu)]);
    }
    let keys = block_keys(&[1, 2, 3, 4, 5, 6, 7, 8], 1, None, None);
    let check = |index: &KvIndex| {
        for (found, slot) in index.matches(&keys, &slots).iter().zip(&slots) {
            assert_eq!(found.blocks, slot.0 % 7 + 1, "{slot:?}");
        }
    };
    check(&index);
    let planes = index.directory.load().planes.len();
    for slot in 100..200 {
        index.forget(Slot(slot), None);
        index.apply(Slot(slot + 500), 0, &[stored(None, &[1], &[1], Medium::Gpu)]);
        assert_eq!(index.matches(&keys, &[Slot(slot)])[0], KvMatch::default());
        index.forget(Slot(slot + 500), None);
        let held = u64::from(slot % 7 + 1);
        let names: Vec<u64> = (1..=held).collect();
        let tokens: Vec<u32> = (1..=held as u32).collect();
        index.apply(Slot(slot), 0, &[stored(None, &names, &tokens, Medium::Gpu)]);
    }
    check(&index);
    assert_eq!(index.directory.load().planes.len(), planes);
}

#[test]
fn beyond_its_capacity_the_oldest_prompt_is_forgotten_from_its_end() {
    let index = KvIndex::with_capacity(10);
    let prompt = |first: u32| -> Vec<u32> { std::iter::once(1).chain(first..first + 4).collect() };
    let mut forgotten = 0;
    for (number, first) in [10, 20, 30].into_iter().enumerate() {
        let names: Vec<u64> = prompt(first).iter().map(|token| u64::from(*token)).collect();
        let applied = index.apply(SLOT, 0, &[stored(None, &names, &prompt(first), Medium::Gpu)]);
        assert_eq!(applied.stored, if number == 0 { 5 } else { 4 });
        forgotten += applied.over_capacity;
    }
    assert_eq!((index.usage().blocks, forgotten), (10, 3));
    assert_eq!(matched(&index, &prompt(10)).blocks, 2, "the first has lost three from its end");
    assert_eq!(matched(&index, &prompt(20)).blocks, 5);
    assert_eq!(matched(&index, &prompt(30)).blocks, 5);
    let long: Vec<u32> = (100..120).collect();
    let names: Vec<u64> = (100..120).collect();
    index.apply(SLOT, 0, &[stored(None, &names, &long, Medium::Gpu)]);
    assert_eq!((index.usage().blocks, matched(&index, &long).blocks), (10, 10), "its beginning, and nothing else");
}

#[test]
fn memory_is_given_back_when_endpoints_leave() {
    let index = KvIndex::default();
    let tokens: Vec<u32> = (0..20_000).collect();
    let names: Vec<u64> = (0..20_000).collect();
    let mut sizes = Vec::new();
    for _ in 0..3 {
        index.apply(SLOT, 0, &[stored(None, &names, &tokens, Medium::Gpu)]);
        sizes.push(index.usage().bytes);
        index.forget(SLOT, None);
        assert!(index.usage().bytes < sizes[0] / 20, "{:?}", index.usage());
    }
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    assert!(sizes[0] / 20_000 < 160, "{} bytes for a block", sizes[0] / 20_000);
}
