//! What engines say of their caches, decoded: the form that the wire has is not known here.

use std::ops::AddAssign;
use std::sync::Arc;

/// An engine's own name of a block: its hash as an integer, or the low 64 bits, big-endian, of the
/// bytes. It means nothing outside the one engine and rank that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EngineHash(pub u64);

/// Where an engine holds a block, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Medium {
    /// The accelerator's memory; also what an engine means that names none.
    Gpu,
    /// The host's memory: has to be copied before use.
    Cpu,
    /// A local disk.
    Disk,
    /// Anything else, such as a remote store.
    Other,
}

impl Medium {
    /// All of them, fastest first.
    pub const ALL: [Self; 4] = [Self::Gpu, Self::Cpu, Self::Disk, Self::Other];

    /// What a block there is worth, 0..=1, against computing it anew. 1.0 and 0.8 are the weights that
    /// llm-d's precise scorer gives its two tiers; the slower two are ours.
    #[must_use]
    pub fn weight(self) -> f32 {
        self.percent() as f32 / 100.0
    }

    /// The weight as a whole number, so that sums of it are exact.
    pub(super) fn percent(self) -> u32 {
        match self {
            Self::Gpu => 100,
            Self::Cpu => 80,
            Self::Disk => 50,
            Self::Other => 40,
        }
    }
}

/// One change of one rank's cache. Only blocks of full-attention layers belong here: of others a
/// prefix may be gone while its end is still there.
#[derive(Clone, Debug, PartialEq)]
pub enum KvEvent {
    /// Blocks came to be, each the continuation of the one before it.
    Stored {
        /// The engine's names, one for each block.
        hashes: Vec<EngineHash>,
        /// The block before the first; `None` at the beginning of a prompt.
        parent: Option<EngineHash>,
        /// The token ids of all blocks, `block_size` for each.
        tokens: Vec<u32>,
        /// Tokens in a block.
        block_size: u32,
        /// The adapter's name, where the prompt was for one.
        lora: Option<Arc<str>>,
        /// What else keeps equal prompts apart: the client's `cache_salt`.
        salt: Option<Arc<str>>,
        /// Where they are.
        medium: Medium,
    },
    /// Copies of blocks went away, one of each. A block of which another copy was stored stays.
    Removed {
        /// The engine's names.
        hashes: Vec<EngineHash>,
        /// Where the copies were; `None`: the fastest place that has one.
        medium: Option<Medium>,
    },
    /// The rank holds nothing any more.
    Cleared,
}

/// What became of events, in blocks unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Blocks that the rank did not have before.
    pub stored: usize,
    /// Further copies of blocks that it had.
    pub duplicates: usize,
    /// Copies that went away, each by name.
    pub removed: usize,
    /// Dropped: stored after a block that is not known, so that nobody can tell what precedes them.
    pub unknown_parent: usize,
    /// Ignored: removals of a copy that is not known, as after a dropped store.
    pub unknown_removed: usize,
    /// Dropped: tokens and hashes that do not fit each other.
    pub malformed: usize,
    /// Forgotten to stay below the cap, oldest first.
    pub over_capacity: usize,
    /// `Cleared` events.
    pub cleared: usize,
}

impl AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        let Self { stored, duplicates, removed, unknown_parent, unknown_removed, malformed, over_capacity, cleared } =
            other;
        self.stored += stored;
        self.duplicates += duplicates;
        self.removed += removed;
        self.unknown_parent += unknown_parent;
        self.unknown_removed += unknown_removed;
        self.malformed += malformed;
        self.over_capacity += over_capacity;
        self.cleared += cleared;
    }
}
