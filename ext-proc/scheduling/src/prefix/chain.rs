//! Chained hashes of a prompt's blocks.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::request::Prompt;

/// A block of the prompt together with everything before it: xxh3 chained over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(pub u64);

/// The chained hashes of a prompt's blocks: `block_bytes` bytes each, at most `max_blocks`; a short
/// last block counts. The hash of a block is xxh3-64 of its bytes seeded with the hash before it, the
/// first one's seed is the hash of the model's name. Blocks are cut from the text as a whole,
/// wherever its pieces begin and end, and the text is not copied.
#[must_use]
pub fn chain(model: &str, prompt: &Prompt<'_>, block_bytes: usize, max_blocks: usize) -> Vec<BlockHash> {
    if block_bytes == 0 {
        return Vec::new();
    }
    let expected = prompt.len().div_ceil(block_bytes).min(max_blocks);
    let mut blocks = Vec::with_capacity(expected);
    let mut previous = xxh3_64(model.as_bytes());
    // A block that straddles pieces: its hasher, and the bytes that it still lacks.
    let mut straddling: Option<(Xxh3, usize)> = None;
    for piece in &prompt.pieces {
        let mut rest: &[u8] = piece;
        while !rest.is_empty() && blocks.len() < expected {
            let (hasher, lacking) = match &mut straddling {
                Some((hasher, lacking)) => (hasher, lacking),
                None => {
                    if let Some((block, after)) = rest.split_at_checked(block_bytes) {
                        previous = xxh3_64_with_seed(block, previous);
                        blocks.push(BlockHash(previous));
                        rest = after;
                        continue;
                    }
                    let (hasher, lacking) = straddling.insert((Xxh3::with_seed(previous), block_bytes));
                    (hasher, lacking)
                }
            };
            let (part, after) = rest.split_at_checked(*lacking).unwrap_or((rest, &[]));
            hasher.update(part);
            *lacking -= part.len();
            rest = after;
            if *lacking == 0 {
                previous = hasher.digest();
                blocks.push(BlockHash(previous));
                straddling = None;
            }
        }
    }
    if let Some((hasher, _)) = straddling {
        blocks.push(BlockHash(hasher.digest()));
    }
    blocks.truncate(max_blocks);
    blocks
}
