//! The prefix cache: blocks of tokens, known by the chained hash of all before them.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes that count as a token.
const TOKEN_BYTES: usize = 4;

/// How many tokens `text` is.
pub(super) fn tokens(text: &[u8]) -> usize {
    text.len().div_ceil(TOKEN_BYTES)
}

/// The chained hashes of the full blocks of `text`, as `model` (or adapter) sees it.
pub(super) fn blocks(model: &str, text: &[u8], block_tokens: usize) -> Vec<u64> {
    let mut parent = xxh3_64_with_seed(model.as_bytes(), 0);
    let full = text.chunks_exact(block_tokens * TOKEN_BYTES);
    full.map(|block| {
        parent = xxh3_64_with_seed(block, parent);
        parent
    })
    .collect()
}

/// Blocks and when each was last used; the least recently used leaves first.
#[derive(Debug)]
pub(super) struct PrefixCache {
    capacity: usize,
    clock: u64,
    used: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
}

impl PrefixCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, used: HashMap::new(), order: BTreeMap::new() }
    }

    /// How many leading blocks are held.
    pub(super) fn matching(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    /// The blocks were just computed or used. The last of a prompt leave before its first.
    pub(super) fn touch(&mut self, blocks: &[u64]) {
        for &block in blocks.iter().rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(block, self.clock) {
                self.order.remove(&before);
            }
            self.order.insert(self.clock, block);
        }
        while self.used.len() > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.used.remove(&oldest);
        }
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
        cache.touch(&blocks("m", &[1; 64], 4));
        let mut other = vec![1; 48];
        other.extend([2; 16]);
        assert_eq!(cache.matching(&blocks("m", &other, 4)), 3);
        assert_eq!(cache.matching(&blocks("adapter", &other, 4)), 0, "an adapter's blocks are its own");
    }

    #[test]
    fn the_end_of_the_least_recently_used_prompt_leaves_first() {
        let mut cache = PrefixCache::new(5);
        let [old, new] = [blocks("m", &[1; 48], 4), blocks("m", &[2; 48], 4)];
        cache.touch(&old);
        cache.touch(&new);
        assert_eq!((cache.matching(&old), cache.matching(&new)), (2, 3));
    }
}
