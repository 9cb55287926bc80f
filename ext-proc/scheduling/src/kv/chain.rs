//! Our own names of blocks: xxh3 chained over token ids.
//!
//! Engines' hashes cannot be continued from what their events say (the chain runs over the whole
//! digest, the seed may be random, an adapter's path takes part), and they differ between engines.
//! Token ids do not.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A block together with all that precedes it, the same in every engine that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(pub u64);

/// The largest block that is hashed without allocating; engines use 16 to 128 tokens.
const USUAL: usize = 128;

/// The keys of a prompt's whole blocks, at most all of them: tokens that fill no block are in no cache.
///
/// The key of a block is xxh3-64 of its token ids (each 4 bytes, little-endian) seeded with the key
/// before it. The first one's seed stands for the block size, the adapter and the salt, so that blocks
/// of different sizes, adapters or salts never meet.
#[must_use]
pub fn block_keys(tokens: &[u32], block_size: u32, lora: Option<&str>, salt: Option<&str>) -> Vec<BlockKey> {
    let mut keys = Vec::with_capacity(tokens.len() / block_size.max(1) as usize);
    extend(root(block_size, lora, salt), tokens, block_size, &mut keys);
    keys
}

/// What precedes the first block of a prompt.
pub(super) fn root(block_size: u32, lora: Option<&str>, salt: Option<&str>) -> BlockKey {
    let name = |value: Option<&str>| value.map_or(0, |value| xxh3_64_with_seed(value.as_bytes(), 1));
    let mut bytes = [0; 20];
    let parts = block_size.to_le_bytes().into_iter().chain(name(lora).to_le_bytes()).chain(name(salt).to_le_bytes());
    bytes.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
    BlockKey(xxh3_64(&bytes))
}

/// Appends the keys of the whole blocks in `tokens`, which continue `before`.
pub(super) fn extend(before: BlockKey, tokens: &[u32], block_size: u32, keys: &mut Vec<BlockKey>) {
    let size = block_size as usize;
    if size == 0 {
        return;
    }
    let mut buffer = [[0; 4]; USUAL];
    let mut large = Vec::new();
    let bytes = match buffer.get_mut(..size) {
        Some(bytes) => bytes,
        None => {
            large.resize(size, [0; 4]);
            large.as_mut_slice()
        }
    };
    let mut previous = before.0;
    for block in tokens.chunks_exact(size) {
        bytes.iter_mut().zip(block).for_each(|(bytes, token)| *bytes = token.to_le_bytes());
        // No key is 0: that is an empty cell in the index.
        previous = xxh3_64_with_seed(bytes.as_flattened(), previous).max(1);
        keys.push(BlockKey(previous));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: u32) -> Vec<u32> {
        (0..count).map(|token| token * 7).collect()
    }

    #[test]
    fn a_longer_prompt_begins_with_the_keys_of_the_shorter_and_a_part_of_a_block_has_none() {
        let (short, long) = (block_keys(&tokens(32), 16, None, None), block_keys(&tokens(47), 16, None, None));
        assert_eq!(short.len(), 2);
        assert_eq!(short, long);
        assert_eq!(block_keys(&tokens(48), 16, None, None)[..2], short);
        assert!(block_keys(&tokens(15), 16, None, None).is_empty());
        assert!(block_keys(&tokens(15), 0, None, None).is_empty());
    }

    #[test]
    fn a_block_after_another_one_has_another_key() {
        let mut other = tokens(32);
        other[0] += 1;
        let (one, other) = (block_keys(&tokens(32), 16, None, None), block_keys(&other, 16, None, None));
        assert!(one[0] != other[0] && one[1] != other[1]);
    }

    #[test]
    fn size_adapter_and_salt_keep_equal_tokens_apart() {
        let tokens = tokens(64);
        let first = |size, lora, salt| block_keys(&tokens, size, lora, salt)[0];
        let all = [
            first(16, None, None),
            first(32, None, None),
            first(16, Some("a"), None),
            first(16, Some("b"), None),
            first(16, None, Some("a")),
            first(16, Some("a"), Some("a")),
            first(16, Some(""), None),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn blocks_beyond_the_usual_size_are_hashed_too() {
        let tokens = tokens(1024);
        let keys = block_keys(&tokens, 512, None, None);
        assert_eq!(keys.len(), 2);
        assert_ne!(keys, block_keys(&tokens[1..], 512, None, None));
    }
}
