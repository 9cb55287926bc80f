//! What an engine says of its KV cache, in words that no engine's wire form shows through.

use std::sync::Arc;

/// An engine's own name of a block: 64 bits that mean nothing outside that engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EngineHash(pub u64);

/// Where a block is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Medium {
    /// The accelerator's own memory.
    Gpu,
    /// The host's memory.
    Cpu,
    /// A disk, or storage behind a file system.
    Disk,
    /// Somewhere that has no name here.
    Other,
}

/// One change of an engine's KV cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// Blocks that follow each other were stored.
    Stored {
        /// One for each block.
        hashes: Vec<EngineHash>,
        /// The block before the first; `None` at the beginning of a prompt.
        parent: Option<EngineHash>,
        /// The tokens of all blocks, `block_size` each.
        tokens: Vec<u32>,
        /// Tokens in a block.
        block_size: u32,
        /// The adapter's name; `None` for the base model.
        lora: Option<Arc<str>>,
        /// The request's `cache_salt`.
        salt: Option<Arc<str>>,
        /// Where the blocks are held.
        medium: Medium,
    },
    /// Blocks left.
    Removed {
        /// One for each block.
        hashes: Vec<EngineHash>,
        /// What they left; `None` when the engine does not say.
        medium: Option<Medium>,
    },
    /// Everything left.
    Cleared,
}
