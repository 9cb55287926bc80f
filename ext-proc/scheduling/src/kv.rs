//! Which endpoint holds which block of which prompt, exactly, from what engines say of their caches.
//!
//! ```text
//! KvEvent ──> lane: engine's names ──> keys ──> plane: key → set of lanes ──> matches
//!             one for each rank                 one for each 64 lanes
//! ```
//!
//! A *lane* is one data-parallel rank of one endpoint: it has a cache of its own. Up to 64 lanes share a
//! *plane*, a table from a block's key to a bit set of lanes, so that one look-up of a block answers for
//! all of them. Writers of one plane take turns. Readers take no lock: they read atomics in tables that
//! are replaced, not moved (see `kv/table.rs`). Only a lane that has holes, or blocks elsewhere than in
//! the accelerator's memory, has a lock that readers share and a writer holds for one block's change.
//!
//! What is found of an endpoint was so at one moment during the look-up. Nothing is guessed: a store
//! that cannot be placed is dropped and counted, and the cap makes the index forget, never invent.

mod chain;
mod event;
mod lane;
mod names;
mod pieces;
mod plane;
mod prompt;
mod search;
mod table;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;
use parking_lot::Mutex;

use crate::endpoint::Slot;
use plane::{LANES, Owner, Plane};

pub use chain::{BlockKey, block_keys};
pub use event::{Applied, EngineHash, KvEvent, Medium};
pub use prompt::PromptKeys;
pub(crate) use prompt::{Held, KvPrompt};

/// Blocks remembered for each rank of an endpoint, unless said otherwise: 16 million tokens in blocks
/// of 16, more than engines keep in accelerators, and below 100 MiB.
const CAPACITY: usize = 1 << 20;

/// How often a look-up starts anew when endpoints come and go meanwhile.
const TRIES: usize = 4;

/// What each endpoint holds. Shared by all snapshots, as [`crate::PrefixIndex`].
#[derive(Debug)]
pub struct KvIndex {
    directory: ArcSwap<Directory>,
    /// Held while the directory changes.
    changing: Mutex<()>,
    capacity: usize,
}

/// Whose lane is whose. A change makes a new one.
#[derive(Clone, Debug, Default)]
struct Directory {
    planes: Vec<Arc<Plane>>,
    /// By lane; [`LANES`] for each plane.
    owners: Vec<Option<Owner>>,
    lanes: HashMap<Owner, usize, FixedState>,
}

impl Directory {
    /// The plane of a lane, and its number there.
    fn place(&self, lane: usize) -> Option<(&Arc<Plane>, usize)> {
        Some((self.planes.get(lane / LANES)?, lane % LANES))
    }

    /// The lanes of the endpoint, or one of them.
    fn lanes_of(&self, slot: Slot, rank: Option<u32>) -> Vec<(usize, Owner)> {
        let wanted = |(owner, lane): (&Owner, &usize)| {
            (owner.0 == slot && rank.is_none_or(|rank| rank == owner.1)).then_some((*lane, *owner))
        };
        self.lanes.iter().filter_map(wanted).collect()
    }
}

/// What one endpoint holds of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvMatch {
    /// Leading blocks.
    pub blocks: u32,
    /// The same, each weighted by the fastest place that has it ([`Medium::weight`]).
    pub weighted: f32,
    /// The rank that holds them: an engine serves a request from one rank's cache.
    pub rank: u32,
}

/// How large an index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvUsage {
    /// Blocks, counted once for each rank that holds them.
    pub blocks: usize,
    /// Bytes of its tables, by their capacities.
    pub bytes: usize,
}

impl Default for KvIndex {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl KvIndex {
    /// An empty index that remembers at most `capacity` blocks for each rank of an endpoint. Beyond
    /// them the oldest prompts are forgotten, from their ends.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { directory: ArcSwap::default(), changing: Mutex::new(()), capacity }
    }

    /// Takes in what one rank of an endpoint said, in its order; what became of it.
    ///
    /// Waits for other writers of the same plane, for the time of their events. Several ranks may be
    /// written at once; one rank's events have to come from one hand, or their order is lost.
    pub fn apply(&self, slot: Slot, rank: u32, events: &[KvEvent]) -> Applied {
        let owner = (slot, rank);
        loop {
            let directory = self.directory.load();
            let Some(lane) = directory.lanes.get(&owner).copied() else {
                if !events.iter().any(|event| matches!(event, KvEvent::Stored { .. })) {
                    return without_lane(events);
                }
                self.register(owner);
                continue;
            };
            let applied = directory.place(lane).and_then(|(plane, at)| plane.apply(at, owner, events, self.capacity));
            if let Some(applied) = applied {
                return applied;
            }
            // Forgotten in between: the directory does not have it any more.
        }
    }

    /// Forgets what an endpoint holds, or one of its ranks, in time proportional to that.
    pub fn forget(&self, slot: Slot, rank: Option<u32>) {
        let _changing = self.changing.lock();
        let mut directory = Directory::clone(&self.directory.load());
        let lanes = directory.lanes_of(slot, rank);
        if lanes.is_empty() {
            return;
        }
        for (lane, owner) in &lanes {
            directory.lanes.remove(owner);
            if let Some(place) = directory.owners.get_mut(*lane) {
                *place = None;
            }
        }
        let directory = Arc::new(directory);
        self.directory.store(Arc::clone(&directory));
        for (lane, owner) in lanes {
            if let Some((plane, at)) = directory.place(lane) {
                plane.hand_over(at, Some(owner), None);
            }
        }
    }

    /// The sizes of blocks, in tokens, that these endpoints store, ascending: a prompt has to be hashed
    /// once for each ([`block_keys`]). Empty while they have stored nothing.
    #[must_use]
    pub fn block_sizes(&self, slots: &[Slot]) -> Vec<u32> {
        let directory = self.directory.load();
        let mut sizes: Vec<u32> = Vec::new();
        for (lane, owner) in directory.owners.iter().enumerate() {
            let Some((slot, _)) = owner else { continue };
            let size = directory.place(lane).map_or(0, |(plane, at)| plane.block_size(at));
            if size > 0 && !sizes.contains(&size) && slots.contains(slot) {
                sizes.push(size);
            }
        }
        sizes.sort_unstable();
        sizes
    }

    /// How much of a prompt each of `slots` holds, in their order: of its ranks, the best one. Endpoints
    /// that use another block size than the keys' hold nothing of it.
    #[must_use]
    pub fn matches(&self, keys: &[BlockKey], slots: &[Slot]) -> Vec<KvMatch> {
        let all = slots.iter().map(|slot| slot.0 as usize + 1).max().unwrap_or(0);
        for _ in 0..TRIES {
            let directory = self.directory.load();
            // Blocks, their weight in hundredths, and the rank.
            let mut by_slot = vec![(0, 0, 0); all];
            let mut any = false;
            for (plane, owners) in directory.planes.iter().zip(directory.owners.chunks(LANES)) {
                for (lane, blocks, percents) in plane.depths(keys).iter() {
                    let Some(Some((slot, rank))) = owners.get(lane).copied() else { continue };
                    let Some(best) = by_slot.get_mut(slot.0 as usize) else { continue };
                    if best.0 == 0 || (percents, best.2) > (best.1, rank) {
                        *best = (blocks, percents, rank);
                        any = true;
                    }
                }
            }
            // A lane that changed hands meanwhile would speak for the wrong endpoint.
            if !any || Arc::ptr_eq(&directory, &self.directory.load()) {
                let of = |slot: &Slot| {
                    let (blocks, percents, rank) = by_slot.get(slot.0 as usize).copied().unwrap_or_default();
                    KvMatch { blocks, weighted: percents as f32 / 100.0, rank }
                };
                return slots.iter().map(of).collect();
            }
        }
        vec![KvMatch::default(); slots.len()]
    }

    /// How large it is. Waits for writers; for metrics, not for decisions.
    #[must_use]
    pub fn usage(&self) -> KvUsage {
        let directory = self.directory.load();
        directory.planes.iter().map(|plane| plane.usage()).fold(KvUsage::default(), |all, (blocks, bytes)| KvUsage {
            blocks: all.blocks + blocks,
            bytes: all.bytes + bytes,
        })
    }

    /// Gives the rank a lane.
    fn register(&self, owner: Owner) {
        let _changing = self.changing.lock();
        let mut directory = Directory::clone(&self.directory.load());
        if directory.lanes.contains_key(&owner) {
            return;
        }
        let lane = directory.owners.iter().position(Option::is_none).unwrap_or_else(|| {
            directory.planes.push(Arc::new(Plane::new()));
            directory.owners.resize(directory.planes.len() * LANES, None);
            directory.owners.len() - LANES
        });
        if let Some(place) = directory.owners.get_mut(lane) {
            *place = Some(owner);
        }
        directory.lanes.insert(owner, lane);
        if let Some((plane, at)) = directory.place(lane) {
            plane.hand_over(at, None, Some(owner));
        }
        self.directory.store(Arc::new(directory));
    }
}

/// What becomes of events of a rank that holds nothing, and stores nothing.
fn without_lane(events: &[KvEvent]) -> Applied {
    let mut applied = Applied::default();
    for event in events {
        match event {
            KvEvent::Removed { hashes, .. } => applied.unknown_removed += hashes.len(),
            KvEvent::Cleared => applied.cleared += 1,
            KvEvent::Stored { .. } => {}
        }
    }
    applied
}

#[cfg(test)]
mod tests;
