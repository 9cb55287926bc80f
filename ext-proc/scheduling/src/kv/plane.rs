//! Up to 64 lanes that share one table of blocks, and how much of a prompt each of them holds.
//!
//! A lane's blocks in the table are closed towards the beginning: with a block it has all before it.
//! Where an engine evicts a block out of the middle, the block stays in the table as a *hole* until
//! nothing after it is left. So a search need not look at every block (see `kv/search.rs`), and holes
//! are looked up afterwards, only for the few lanes that have any.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;
use parking_lot::{Mutex, RwLock};

use crate::endpoint::Slot;
use crate::kv::chain::BlockKey;
use crate::kv::event::{Applied, KvEvent, Medium};
use crate::kv::lane::Lane;
use crate::kv::search::search;
use crate::kv::table::{Place, Tables, Writing};

/// Lanes in a plane: the bits of a set.
pub(super) const LANES: usize = 64;

/// A rank of an endpoint.
pub(super) type Owner = (Slot, u32);

/// The blocks of a lane that are not simply in the accelerator's memory.
type Uneven = HashMap<u64, Exception, FixedState>;

#[derive(Clone, Copy, Debug)]
struct Exception {
    /// Blocks before it.
    position: u32,
    /// Where it is at best; `None`: a hole.
    medium: Option<Medium>,
}

/// Up to [`LANES`] lanes. One writer at a time; readers meet it only at the uneven blocks of a lane,
/// for one change at a time.
#[derive(Debug)]
pub(super) struct Plane {
    tables: ArcSwap<Tables>,
    /// Lanes that are not being cleared.
    active: AtomicU64,
    /// Lanes with uneven blocks.
    uneven: AtomicU64,
    /// Counts changes of `active` and of holes: what was read between two equal values is of one time.
    version: AtomicU64,
    exceptions: Vec<RwLock<Uneven>>,
    /// Tokens in a block as last stored; 0 before the first.
    block_sizes: Vec<AtomicU32>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    writing: Writing,
    lanes: Vec<(Option<Owner>, Lane)>,
}

/// What each lane of a plane holds of a prompt.
#[derive(Debug)]
pub(super) struct Depths {
    /// The lanes that hold anything.
    pub(super) matched: u64,
    blocks: [u32; LANES],
    /// In hundredths of a block.
    percents: [u32; LANES],
}

impl Depths {
    fn none() -> Self {
        Self { matched: 0, blocks: [0; LANES], percents: [0; LANES] }
    }

    /// Lane, blocks and their weight in hundredths of a block, for each that holds anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u32, u32)> {
        bits(self.matched).filter_map(|lane| Some((lane, *self.blocks.get(lane)?, *self.percents.get(lane)?)))
    }

    fn put(&mut self, lane: usize, blocks: u32, percents: u32) {
        if let (Some(place), Some(weight)) = (self.blocks.get_mut(lane), self.percents.get_mut(lane)) {
            (*place, *weight) = (blocks, percents);
        }
        self.matched = if blocks > 0 { self.matched | 1 << lane } else { self.matched & !(1 << lane) };
    }
}

/// The numbers of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (bit < LANES).then_some(bit)
    })
}

impl Plane {
    pub(super) fn new() -> Self {
        let writing = Writing::new();
        Self {
            tables: ArcSwap::from_pointee(writing.tables()),
            active: AtomicU64::new(u64::MAX),
            uneven: AtomicU64::new(0),
            version: AtomicU64::new(0),
            exceptions: (0..LANES).map(|_| RwLock::default()).collect(),
            block_sizes: (0..LANES).map(|_| AtomicU32::new(0)).collect(),
            writer: Mutex::new(Writer { writing, lanes: (0..LANES).map(|_| (None, Lane::default())).collect() }),
        }
    }

    /// How much of the prompt each lane holds, all of it at one moment during the call.
    pub(super) fn depths(&self, keys: &[BlockKey]) -> Depths {
        let mut depths = Depths::none();
        let version = self.version.load(Ordering::Acquire);
        let active = self.active.load(Ordering::Acquire);
        search(&self.tables.load(), keys, active, |lanes, blocks| {
            bits(lanes).for_each(|lane| depths.put(lane, blocks, blocks.saturating_mul(100)));
        });
        let uneven = self.uneven.load(Ordering::Acquire);
        let calm = self.version.load(Ordering::Acquire) == version;
        let doubtful = if calm { depths.matched & uneven } else { depths.matched };
        for lane in bits(doubtful) {
            let (blocks, percents) = self.depth(lane, keys);
            depths.put(lane, blocks, percents);
        }
        depths
    }

    /// How much of the prompt one lane holds, while its holes stand still.
    fn depth(&self, lane: usize, keys: &[BlockKey]) -> (u32, u32) {
        let Some(exceptions) = self.exceptions.get(lane) else { return (0, 0) };
        let exceptions = exceptions.read();
        let active = self.active.load(Ordering::Acquire) & 1 << lane;
        let mut depth = 0;
        search(&self.tables.load(), keys, active, |_, blocks| depth = blocks);
        let of_prompt = |key: &BlockKey| exceptions.get(&key.0).copied();
        let keys = keys.get(..depth as usize).unwrap_or_default();
        let mut lost = Vec::new();
        if exceptions.len() < keys.len() / 4 {
            let is_in = |(key, found): &(&u64, &Exception)| {
                keys.get(found.position as usize).is_some_and(|other| other.0 == **key)
            };
            lost.extend(exceptions.iter().filter(is_in).map(|(_, found)| *found));
        } else {
            lost.extend(keys.iter().filter_map(of_prompt));
        }
        let hole = lost.iter().filter(|found| found.medium.is_none()).map(|found| found.position).min();
        let depth = hole.map_or(depth, |hole| hole.min(depth));
        let before = lost.iter().filter(|found| found.position < depth);
        let less: u32 = before.filter_map(|found| found.medium).map(|medium| 100 - medium.percent()).sum();
        (depth, depth.saturating_mul(100) - less)
    }

    /// Takes in events of the lane, unless it is no longer `owner`'s; `None` then.
    pub(super) fn apply(&self, lane: usize, owner: Owner, events: &[KvEvent], capacity: usize) -> Option<Applied> {
        let mut writer = self.writer.lock();
        let Writer { writing, lanes } = &mut *writer;
        let (_, state) = lanes.get_mut(lane).filter(|(current, _)| *current == Some(owner))?;
        let mut applied = Applied::default();
        let mut hand = Hand { plane: self, writing, lane, bit: 1 << lane };
        for event in events {
            match event {
                KvEvent::Stored { block_size, .. } => {
                    if let Some(size) = self.block_sizes.get(lane) {
                        size.store(*block_size, Ordering::Relaxed);
                    }
                    state.store(&mut hand, event, capacity, &mut applied);
                }
                KvEvent::Removed { hashes, medium } => state.remove(&mut hand, hashes, *medium, &mut applied),
                KvEvent::Cleared => {
                    hand.clear(&std::mem::take(state));
                    applied.cleared += 1;
                }
            }
        }
        Some(applied)
    }

    /// Empties the lane, unless it is no longer `before`'s, and gives it to `after`.
    pub(super) fn hand_over(&self, lane: usize, before: Option<Owner>, after: Option<Owner>) {
        let mut writer = self.writer.lock();
        let Writer { writing, lanes } = &mut *writer;
        let Some((owner, state)) = lanes.get_mut(lane).filter(|(owner, _)| *owner == before) else { return };
        *owner = after;
        let mut hand = Hand { plane: self, writing, lane, bit: 1 << lane };
        hand.clear(&std::mem::take(state));
    }

    /// Tokens in a block of the lane; 0 before it has said so.
    pub(super) fn block_size(&self, lane: usize) -> u32 {
        self.block_sizes.get(lane).map_or(0, |size| size.load(Ordering::Relaxed))
    }

    /// Blocks over all lanes, and the bytes they take.
    pub(super) fn usage(&self) -> (usize, usize) {
        let writer = self.writer.lock();
        let mut bytes = writer.writing.bytes();
        let mut blocks = 0;
        for (_, lane) in &writer.lanes {
            blocks += lane.len();
            bytes += lane.bytes();
        }
        bytes += self
            .exceptions
            .iter()
            .map(|uneven| uneven.read().capacity() * size_of::<(u64, Exception)>())
            .sum::<usize>();
        (blocks, bytes)
    }
}

/// What a lane may do to its plane while it holds the pen.
pub(super) struct Hand<'a> {
    plane: &'a Plane,
    writing: &'a mut Writing,
    lane: usize,
    bit: u64,
}

impl Hand<'_> {
    /// See [`Writing::fetch`].
    pub(super) fn fetch(&self, first: impl Iterator<Item = BlockKey>) {
        self.writing.fetch(first);
    }

    /// Shows the block to readers; whether they saw it already. All before it must be shown.
    #[inline]
    pub(super) fn show(&mut self, place: Place) -> bool {
        let set = self.writing.set(place, self.bit);
        if set.replaced {
            self.plane.tables.store(Arc::new(self.writing.tables()));
        }
        set.was_set
    }

    /// Hides the block from readers. Nothing after it may be shown.
    pub(super) fn hide(&mut self, place: Place) {
        self.writing.unset(place, self.bit);
        if self.plane.uneven.load(Ordering::Relaxed) & self.bit != 0 {
            // Only now: as long as a hole is shown, it is known as one.
            self.change(|uneven| uneven.remove(&place.key.0).is_some_and(|before| before.medium.is_none()));
        }
    }

    /// Says where the block is at best; `None`: nowhere, although blocks after it are held.
    pub(super) fn place(&mut self, key: BlockKey, position: u32, medium: Option<Medium>) {
        self.change(|uneven| {
            let before = if medium == Some(Medium::Gpu) {
                uneven.remove(&key.0)
            } else {
                uneven.insert(key.0, Exception { position, medium })
            };
            medium.is_none() || before.is_some_and(|before| before.medium.is_none())
        });
    }

    /// Changes the lane's uneven blocks; `change` says whether holes were among them.
    fn change(&self, change: impl FnOnce(&mut Uneven) -> bool) {
        let Some(uneven) = self.plane.exceptions.get(self.lane) else { return };
        let mut uneven = uneven.write();
        let holes = u64::from(change(&mut uneven));
        // Before and after: a reader that sees the set as it is not to be trusted yet, or as it is no
        // longer, sees a version that differs.
        self.plane.version.fetch_add(holes, Ordering::AcqRel);
        if uneven.is_empty() {
            self.plane.uneven.fetch_and(!self.bit, Ordering::AcqRel);
        } else {
            self.plane.uneven.fetch_or(self.bit, Ordering::AcqRel);
        }
        self.plane.version.fetch_add(holes, Ordering::AcqRel);
    }

    /// Hides all blocks of the lane, in no particular order: readers do not look at it meanwhile.
    fn clear(&mut self, state: &Lane) {
        self.change(|uneven| {
            self.plane.active.fetch_and(!self.bit, Ordering::Release);
            *uneven = Uneven::default();
            true
        });
        state.places().for_each(|place| self.writing.unset(place, self.bit));
        if self.writing.shrink() {
            self.plane.tables.store(Arc::new(self.writing.tables()));
        }
        self.plane.active.fetch_or(self.bit, Ordering::Release);
        self.plane.version.fetch_add(1, Ordering::Release);
        if let Some(size) = self.plane.block_sizes.get(self.lane) {
            size.store(0, Ordering::Relaxed);
        }
    }
}
