//! Which endpoint probably holds which prompt prefix in its KV cache, learned from what was served.

use crate::endpoint::Slot;
use crate::request::Prompt;

/// A block of the prompt together with everything before it: xxh3 chained over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(pub u64);

/// The chained hashes of a prompt's blocks: `block_bytes` bytes each, at most `max_blocks`.
#[must_use]
pub fn chain(model: &str, prompt: &Prompt<'_>, block_bytes: usize, max_blocks: usize) -> Vec<BlockHash> {
    let _ = (model, prompt, block_bytes, max_blocks);
    Vec::new()
}

/// Block → endpoints, with a bounded number of blocks for each endpoint.
///
/// Readers and writers take short locks of a shard; nobody waits for I/O.
#[derive(Debug, Default)]
pub struct PrefixIndex {}

impl PrefixIndex {
    /// Remembers that the endpoint has served a prompt of these blocks.
    pub fn learn(&self, slot: Slot, blocks: &[BlockHash], capacity: usize) {
        let _ = (slot, blocks, capacity);
    }

    /// Forgets all that the endpoint held.
    pub fn forget(&self, slot: Slot) {
        let _ = slot;
    }
}
