//! The prefix cache: blocks of tokens, known by the chained hash of all before them.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of text that are one token.
const TOKEN_BYTES: usize = 4;

/// The tokens of `text`: its bytes, four by four.
pub(super) fn tokens(text: &[u8]) -> Vec<u32> {
    let token = |bytes: &[u8]| bytes.iter().rev().fold(0, |token, byte| token << 8 | u32::from(*byte));
    text.chunks(TOKEN_BYTES).map(token).collect()
}

/// The chained hashes of the full blocks of `tokens`, as `model` (or adapter) sees it under `salt`.
pub(super) fn blocks(model: &str, salt: Option<&str>, tokens: &[u32], block_tokens: usize) -> Vec<u64> {
    let mut parent = xxh3_64_with_seed(model.as_bytes(), 0);
    if let Some(salt) = salt {
        parent = xxh3_64_with_seed(salt.as_bytes(), parent);
    }
    tokens
        .chunks_exact(block_tokens)
        .map(|block| {
            let bytes: Vec<u8> = block.iter().flat_map(|token| token.to_le_bytes()).collect();
            parent = xxh3_64_with_seed(&bytes, parent);
            parent
        })
        .collect()
}

/// Blocks and when each was last used; the least recently used leaves first.
#[derive(Debug)]
pub(super) struct PrefixCache {
    capacity: usize,
    clock: u64,
    used: HashMap<u64, Used>,
    order: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Used {
    at: u64,
    /// As vLLM does, a block that is computed again is stored again, and later leaves as often.
    copies: usize,
}

/// What a prompt changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The first block of the prompt that was stored; all behind it were too.
    pub(super) stored_from: usize,
    /// What had to leave for it.
    pub(super) evicted: Vec<u64>,
}

impl PrefixCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, used: HashMap::new(), order: BTreeMap::new() }
    }

    /// How many leading blocks are held.
    pub(super) fn matching(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    /// The blocks were just used, and those computed that were not held, or whose tokens were asked for
    /// to the last (`exact`). The last of a prompt leave before its first.
    pub(super) fn touch(&mut self, blocks: &[u64], exact: bool) -> Changes {
        let held = self.matching(blocks);
        let stored_from = if exact && held == blocks.len() { held.saturating_sub(1) } else { held };
        for (place, &block) in blocks.iter().enumerate().rev() {
            self.clock += 1;
            let used = self.used.entry(block).or_default();
            if used.at > 0 {
                self.order.remove(&used.at);
            }
            used.at = self.clock;
            used.copies += usize::from(place >= stored_from);
            self.order.insert(self.clock, block);
        }
        let mut changes = Changes { stored_from, evicted: Vec::new() };
        while self.used.len() > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            let copies = self.used.remove(&oldest).map_or(0, |used| used.copies);
            changes.evicted.extend(std::iter::repeat_n(oldest, copies));
        }
        changes
    }

    pub(super) fn clear(&mut self) {
        self.used.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_matches_as_far_as_it_is_the_same() {
        let mut cache = PrefixCache::new(10);
        cache.touch(&blocks("m", None, &tokens(&[1; 64]), 4), true);
        let mut other = vec![1; 48];
        other.extend([2; 16]);
        let other = tokens(&other);
        assert_eq!(cache.matching(&blocks("m", None, &other, 4)), 3);
        assert_eq!(cache.matching(&blocks("adapter", None, &other, 4)), 0, "an adapter's blocks are its own");
        assert_eq!(cache.matching(&blocks("m", Some("salt"), &other, 4)), 0, "and a tenant's");
    }

    #[test]
    fn the_end_of_the_least_recently_used_prompt_leaves_first() {
        let mut cache = PrefixCache::new(5);
        let [old, new] = [1, 2].map(|token| blocks("m", None, &[token; 12], 4));
        assert_eq!(cache.touch(&old, true), Changes::default());
        assert_eq!(cache.touch(&new, true), Changes { stored_from: 0, evicted: vec![old[2]] });
        assert_eq!((cache.matching(&old), cache.matching(&new)), (2, 3));
    }

    #[test]
    fn the_last_block_of_an_exact_prompt_is_stored_again_and_leaves_twice() {
        let mut cache = PrefixCache::new(2);
        let [old, new] = [1, 2].map(|token| blocks("m", None, &[token; 8], 4));
        cache.touch(&old, true);
        assert_eq!(cache.touch(&old, false).stored_from, 2);
        assert_eq!(cache.touch(&old, true).stored_from, 1);
        assert_eq!(cache.touch(&new, true).evicted, [old[1], old[1], old[0]]);
    }
}
