//! Readers beside a writer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The writer goes through states of which each differs from the next in one block, so that what is
/// true at any moment is known: of the long prompt, block 20 is a hole whenever block 60 is there.
#[test]
fn readers_beside_a_writer_never_see_a_match_that_was_never_true() {
    const LONG: u32 = 64;
    const ROUNDS: usize = 3000;
    let (index, tokens) = holding(LONG);
    let keys = block_keys(&tokens, 1, None, None);
    let done = AtomicBool::new(false);
    // The end goes before the hole is closed, and the hole is there before the end comes back.
    index.apply(SLOT, 0, &[removed(&[120])]);
    std::thread::scope(|scope| {
        let reader = || {
            let (mut short, mut closed) = (0, 0);
            loop {
                let last = done.load(Ordering::Acquire);
                let found = index.matches(&keys, &[SLOT])[0].blocks;
                // The hole at 20 ends it at 19; with the hole closed it ends before 60.
                assert!(found == 19 || found == 59, "{found}");
                if found == 19 {
                    short += 1
                } else {
                    closed += 1
                }
                if last {
                    return (short, closed);
                }
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        let end: Vec<u64> = (160..=164).rev().collect();
        let (names, again): (Vec<u64>, Vec<u32>) = (60..=64_u32).map(|token| (u64::from(token) + 100, token)).unzip();
        // Another prompt's blocks make tables be replaced meanwhile.
        let mut other = 1000_u32;
        for _ in 0..ROUNDS {
            index.apply(SLOT, 0, &[removed(&end)]);
            index.apply(SLOT, 0, &[stored(Some(119), &[120], &[20], Medium::Gpu)]);
            let (names_of_other, tokens_of_other): (Vec<u64>, Vec<u32>) =
                (other..other + 50).map(|token| (u64::from(token) + 100, token)).unzip();
            index.apply(Slot(9), 0, &[stored(None, &names_of_other, &tokens_of_other, Medium::Gpu)]);
            other += 50;
            if other > 20_000 {
                index.apply(Slot(9), 0, &[KvEvent::Cleared]);
                other = 1000;
            }
            index.apply(SLOT, 0, &[removed(&[120])]);
            index.apply(SLOT, 0, &[stored(Some(159), &names, &again, Medium::Gpu)]);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let (short, closed) = reader.join().unwrap();
            assert!(short + closed > 0);
        }
    });
    assert_eq!(matched(&index, &tokens).blocks, 19);
}

/// Endpoints come and go and take over each other's lanes; each only ever holds its own prompt.
#[test]
fn readers_never_see_an_endpoint_with_the_blocks_of_another_one() {
    const ENDPOINTS: u32 = 8;
    let index = KvIndex::default();
    let slots: Vec<Slot> = (0..ENDPOINTS).map(Slot).collect();
    let prompt = |slot: u32| -> Vec<u32> { (0..30).map(|token| slot * 100 + token).collect() };
    let keys: Vec<_> = slots.iter().map(|slot| block_keys(&prompt(slot.0), 1, None, None)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looked = 0;
            loop {
                let last = done.load(Ordering::Acquire);
                for (own, keys) in slots.iter().zip(&keys) {
                    for (found, slot) in index.matches(keys, &slots).iter().zip(&slots) {
                        assert!(slot == own || found.blocks == 0, "{slot:?} with {own:?}'s: {found:?}");
                        looked += 1;
                    }
                }
                if last {
                    return looked;
                }
            }
        });
        let names: Vec<u64> = (1..=30).collect();
        for round in 0..4000 {
            let slot = slots[round % slots.len()];
            index.apply(slot, 0, &[stored(None, &names, &prompt(slot.0), Medium::Gpu)]);
            index.forget(slots[(round * 5 + 3) % slots.len()], None);
        }
        done.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 0);
    });
}
