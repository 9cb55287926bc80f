//! Which endpoint probably holds which prompt prefix in its KV cache, learned from what was served.
//!
//! A block's hash covers everything before it, so an endpoint that holds a block holds its
//! predecessors, as long as the index forgets tails first: [`PrefixIndex::learn`] touches the deepest
//! block first, which makes it the first to be evicted. Sets of holders therefore only shrink along a
//! prompt, and a look-up gallops from one change to the next instead of walking every block.

mod chain;
mod recency;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::fast::FixedState;
use parking_lot::{Mutex, RwLock};

use crate::endpoint::Slot;

pub use chain::{BlockHash, chain};
use recency::Recency;

/// Enough that a writer seldom meets a reader, few enough that an empty index is small.
const SHARDS: usize = 16;

/// Block → endpoints, with a bounded number of blocks for each endpoint.
///
/// Readers and writers take short locks of a shard, for one block at a time; nobody waits for I/O.
/// A writer locks its endpoint's [`Recency`] first, so that what one endpoint holds changes by one
/// hand at a time.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    shards: [RwLock<Shard>; SHARDS],
    recency: RwLock<Vec<Arc<Mutex<Recency>>>>,
}

/// How many leading blocks of one prompt each endpoint probably holds.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    by_slot: Vec<u32>,
}

impl Matched {
    /// How many the endpoint with this slot holds.
    #[must_use]
    pub fn of(&self, slot: Slot) -> u32 {
        self.by_slot.get(slot.0 as usize).copied().unwrap_or(0)
    }

    /// These, by ascending slot, hold so many.
    fn deepen(&mut self, holders: &[(u32, u32)], depth: u32) {
        let slots = holders.last().map_or(0, |(slot, _)| *slot as usize + 1);
        if self.by_slot.len() < slots {
            self.by_slot.resize(slots, 0);
        }
        for (slot, _) in holders {
            if let Some(known) = self.by_slot.get_mut(*slot as usize) {
                *known = depth;
            }
        }
    }
}

type Shard = HashMap<u64, Holders, FixedState>;

/// Who holds a block: slot and the block's node in that slot's [`Recency`]. Most blocks have one
/// holder; the blocks of a shared system prompt have many.
#[derive(Debug)]
enum Holders {
    One((u32, u32)),
    /// By ascending slot.
    #[expect(clippy::box_collection, reason = "keeps the common case at 16 bytes")]
    Many(Box<Vec<(u32, u32)>>),
}

impl Holders {
    fn as_slice(&self) -> &[(u32, u32)] {
        match self {
            Self::One(holder) => std::slice::from_ref(holder),
            Self::Many(holders) => holders,
        }
    }

    fn node_of(&self, slot: Slot) -> Option<u32> {
        let holders = self.as_slice();
        let index = holders.binary_search_by_key(&slot.0, |(slot, _)| *slot).ok()?;
        holders.get(index).map(|(_, node)| *node)
    }

    fn insert(&mut self, slot: Slot, node: u32) {
        match self {
            Self::One(holder) => {
                let mut holders = vec![*holder, (slot.0, node)];
                holders.sort_unstable();
                *self = Self::Many(Box::new(holders));
            }
            Self::Many(holders) => {
                let place = holders.partition_point(|(other, _)| *other < slot.0);
                holders.insert(place, (slot.0, node));
            }
        }
    }

    /// Removes the slot; whether nobody is left.
    fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Self::One((holder, _)) => *holder == slot.0,
            Self::Many(holders) => {
                holders.retain(|(holder, _)| *holder != slot.0);
                if let [only] = holders.as_slice() {
                    *self = Self::One(*only);
                    return false;
                }
                holders.is_empty()
            }
        }
    }
}

impl PrefixIndex {
    /// Remembers that the endpoint has served a prompt of these blocks. What it was least recently
    /// seen with is forgotten beyond `capacity` blocks.
    pub fn learn(&self, slot: Slot, blocks: &[BlockHash], capacity: usize) {
        let recency = self.recency_of(slot);
        let mut recency = recency.lock();
        // From the tail on, all is new until something is known, and from there on all is known.
        let mut known = false;
        for block in blocks.iter().take(capacity).rev() {
            let Some(shard) = self.shard(*block) else { continue };
            if known && let Some(node) = shard.read().get(&block.0).and_then(|holders| holders.node_of(slot)) {
                recency.touch(node);
                continue;
            }
            match shard.write().entry(block.0) {
                Entry::Occupied(mut holders) => {
                    if let Some(node) = holders.get().node_of(slot) {
                        recency.touch(node);
                        known = true;
                    } else {
                        holders.get_mut().insert(slot, recency.push(*block));
                    }
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(Holders::One((slot.0, recency.push(*block))));
                }
            }
        }
        while recency.len() > capacity
            && let Some(block) = recency.pop_oldest()
        {
            self.remove(slot, block);
        }
    }

    /// Forgets all that the endpoint held, in time proportional to that.
    pub fn forget(&self, slot: Slot) {
        let Some(recency) = self.recency.read().get(slot.0 as usize).map(Arc::clone) else { return };
        let mut recency = recency.lock();
        while let Some(block) = recency.pop_oldest() {
            self.remove(slot, block);
        }
        *recency = Recency::default();
    }

    /// How many leading `blocks` each endpoint probably holds: from one change in the number of holders
    /// to the next.
    #[must_use]
    pub fn matched(&self, blocks: &[BlockHash]) -> Matched {
        let mut matched = Matched::default();
        let mut from = 0;
        loop {
            let holders = self.holders(blocks, from);
            if holders == 0 {
                return matched;
            }
            // Invariant: `last` has these holders, `end` has fewer.
            let (mut last, mut end, mut step) = (from, blocks.len(), 1);
            while last + step < end {
                if self.holders(blocks, last + step) < holders {
                    end = last + step;
                } else {
                    last += step;
                    step *= 2;
                }
            }
            while end - last > 1 {
                let middle = last.midpoint(end);
                if self.holders(blocks, middle) < holders {
                    end = middle;
                } else {
                    last = middle;
                }
            }
            if let Some((shard, block)) = blocks.get(last).and_then(|block| Some((self.shard(*block)?, block)))
                && let Some(holders) = shard.read().get(&block.0)
            {
                matched.deepen(holders.as_slice(), u32::try_from(end).unwrap_or(u32::MAX));
            }
            from = end;
        }
    }

    /// Blocks remembered over all endpoints, one counted for each endpoint that holds it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recency.read().iter().map(|recency| recency.lock().len()).sum()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many hold the block; none beyond the last.
    fn holders(&self, blocks: &[BlockHash], index: usize) -> usize {
        blocks
            .get(index)
            .and_then(|block| self.shard(*block)?.read().get(&block.0).map(|holders| holders.as_slice().len()))
            .unwrap_or(0)
    }

    fn remove(&self, slot: Slot, block: BlockHash) {
        if let Some(shard) = self.shard(block)
            && let Entry::Occupied(mut holders) = shard.write().entry(block.0)
            && holders.get_mut().remove(slot)
        {
            holders.remove();
        }
    }

    /// Always there; an option because the index is not known to the compiler.
    fn shard(&self, block: BlockHash) -> Option<&RwLock<Shard>> {
        self.shards.get(block.0 as usize % SHARDS)
    }

    fn recency_of(&self, slot: Slot) -> Arc<Mutex<Recency>> {
        let index = slot.0 as usize;
        if let Some(recency) = self.recency.read().get(index) {
            return Arc::clone(recency);
        }
        let mut all = self.recency.write();
        if all.len() <= index {
            all.resize_with(index + 1, Arc::default);
        }
        all.get(index).map(Arc::clone).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
