//! Which lanes of a plane hold a block: hash tables that readers need no lock for.
//!
//! A row is for up to seven consecutive blocks of a prompt and is found by the first one's key, so that
//! neighbours share two cache lines: walking along a prompt touches a seventh of the memory that a cell
//! for each block would. All that a search wants of a row's first block is in the first of its lines.
//! Where prompts part within a row, the cell is whoever's came first; others' blocks, up to the end of
//! that row, have rows of their own, found by their own keys.
//!
//! A key, once written, never changes as long as its table lives; a block that nobody holds any more
//! keeps its cell, with an empty set of lanes, until the table is replaced. So a reader that found the
//! key has found the set, whatever writers do meanwhile, and a reader of a table that has been replaced
//! sees what was true at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kv::chain::BlockKey;

/// Tables in a plane: replacing one copies a 64th of the blocks, so that no writer does much at once.
const SHARDS: usize = 64;
/// Rows of the smallest table.
const LEAST: usize = 2;
/// The tag of an unused row and the key of an unused cell; no block has it.
const NONE: u64 = 0;
/// Blocks in a row: with the first one's lanes, their keys fill a cache line of 64 bytes.
pub(super) const ROW: usize = 7;

#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Row {
    /// What it is found by: the key of its first block, or of its only one.
    tag: AtomicU64,
    /// The lanes of the first block; its key is the tag.
    first_lanes: AtomicU64,
    /// The other blocks'.
    keys: [AtomicU64; ROW - 1],
    lanes: [AtomicU64; ROW - 1],
    /// The key of the block where a row for its blocks begins.
    first: AtomicU64,
}

impl Row {
    /// Key and lanes of the blocks after the first, by how many are before them in the row.
    fn others(&self) -> impl Iterator<Item = (usize, &AtomicU64, &AtomicU64)> {
        (1..).zip(self.keys.iter().zip(&self.lanes)).map(|(at, (key, lanes))| (at, key, lanes))
    }

    /// Whether any lane has any of its blocks.
    fn is_live(&self) -> bool {
        [&self.first_lanes].into_iter().chain(&self.lanes).any(|lanes| lanes.load(Ordering::Relaxed) != 0)
    }

    /// Whether it is for a prompt's blocks up to the next row, and not for one that parts from them.
    fn is_whole(&self) -> bool {
        self.tag.load(Ordering::Relaxed) == self.first.load(Ordering::Relaxed)
    }
}

/// A block's place: its row, where in the row, and its own key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The key of the row's first block: the one before which a multiple of [`ROW`] others come.
    pub(super) first: BlockKey,
    /// Blocks before it, counted from the prompt's beginning.
    pub(super) position: usize,
    pub(super) key: BlockKey,
}

impl Place {
    /// The place of the prompt's block `position`.
    #[inline]
    pub(super) fn in_prompt(keys: &[BlockKey], position: usize) -> Option<Self> {
        let (first, key) = (keys.get(position - position % ROW)?, keys.get(position)?);
        Some(Self { first: *first, position, key: *key })
    }

    fn shard(&self) -> usize {
        shard(self.first)
    }
}

/// By the highest bits: the lowest choose the row.
fn shard(first: BlockKey) -> usize {
    (first.0 >> 58) as usize
}

/// Open addressing over rows with linear probing; tags are hashes already. A copy is the same table.
#[derive(Clone, Debug)]
struct Table {
    /// A power of two of them, at least a quarter of them unused.
    rows: Arc<[Row]>,
}

/// Where a block is, or would be.
enum Found<'a> {
    /// There: its lanes.
    Cell(&'a AtomicU64),
    /// A cell of a row is free: its key and its lanes.
    Free(&'a AtomicU64, &'a AtomicU64),
    /// A row is free, to be found by this tag.
    Row(&'a Row, u64),
    Nowhere,
}

impl Table {
    fn new(rows: usize) -> Self {
        Self { rows: (0..rows).map(|_| Row::default()).collect() }
    }

    /// Reads what tells whose the row is where the search for that tag begins, and the next one, whatever is there.
    #[inline]
    fn fetch(&self, tag: BlockKey) -> u64 {
        let next = BlockKey(tag.0.wrapping_add(1));
        let read = |tag: BlockKey| self.home(tag).map_or(0, |row| row.tag.load(Ordering::Relaxed));
        read(tag) ^ read(next)
    }

    /// Reads the second line of the row where the search for that tag begins.
    fn fetch_rest(&self, tag: BlockKey) -> u64 {
        self.home(tag).map_or(0, |row| row.first.load(Ordering::Relaxed))
    }

    /// Where the search for that tag begins.
    #[inline]
    fn home(&self, tag: BlockKey) -> Option<&Row> {
        self.rows.get(tag.0 as usize & self.rows.len().wrapping_sub(1))
    }

    /// The row of that tag, or the one that is free for it, and which of the two.
    #[inline]
    fn row(&self, tag: u64) -> Option<(&Row, bool)> {
        let mask = self.rows.len().wrapping_sub(1);
        for step in 0..self.rows.len() {
            let row = self.rows.get((tag as usize).wrapping_add(step) & mask)?;
            match row.tag.load(Ordering::Acquire) {
                NONE => return Some((row, false)),
                other if other == tag => return Some((row, true)),
                _ => {}
            }
        }
        None
    }

    #[inline]
    fn find(&self, place: Place) -> Found<'_> {
        for tag in [place.first.0, place.key.0] {
            let Some((row, exists)) = self.row(tag) else { return Found::Nowhere };
            if !exists {
                return Found::Row(row, tag);
            }
            let Some(at) = (place.position % ROW).checked_sub(1) else { return Found::Cell(&row.first_lanes) };
            let Some((key, lanes)) = row.keys.get(at).zip(row.lanes.get(at)) else { return Found::Nowhere };
            match key.load(Ordering::Acquire) {
                NONE => return Found::Free(key, lanes),
                own if own == place.key.0 => return Found::Cell(lanes),
                // Another prompt's: then it is in a row of its own, if anywhere.
                _ => {}
            }
        }
        Found::Nowhere
    }

    /// Writes a block that is not there; whether it took a row.
    fn add(&self, place: Place, bits: u64) -> bool {
        self.find(place).fill(place, bits)
    }
}

impl Found<'_> {
    /// Writes a block that is not there where it was looked for; whether it took a row.
    fn fill(self, place: Place, bits: u64) -> bool {
        match self {
            Self::Free(key, lanes) => {
                lanes.store(bits, Ordering::Relaxed);
                key.store(place.key.0, Ordering::Release);
                false
            }
            Self::Row(row, tag) => {
                match (place.position % ROW).checked_sub(1) {
                    None => row.first_lanes.store(bits, Ordering::Relaxed),
                    Some(at) => {
                        if let Some((key, lanes)) = row.keys.get(at).zip(row.lanes.get(at)) {
                            lanes.store(bits, Ordering::Relaxed);
                            key.store(place.key.0, Ordering::Relaxed);
                        }
                    }
                }
                row.first.store(place.first.0, Ordering::Relaxed);
                row.tag.store(tag, Ordering::Release);
                true
            }
            Self::Cell(_) | Self::Nowhere => false,
        }
    }
}

/// A plane's tables at one moment, for readers.
#[derive(Clone, Debug)]
pub(super) struct Tables(Vec<Table>);

impl Tables {
    /// Has the memory bring what [`Tables::lanes`] will want of a row that begins with this key. What it
    /// answers is of no use but to be needed: no branch hangs on it, so that several are under way at once.
    #[inline]
    pub(super) fn fetch(&self, first: BlockKey) -> u64 {
        self.0.get(shard(first)).map_or(0, |table| table.fetch(first))
    }

    /// The lanes that hold the block.
    #[inline]
    pub(super) fn lanes(&self, place: Place) -> u64 {
        match self.0.get(place.shard()).map(|table| table.find(place)) {
            Some(Found::Cell(lanes)) => lanes.load(Ordering::Acquire),
            _ => 0,
        }
    }
}

/// The same tables in the hand of the one who may write.
#[derive(Debug)]
pub(super) struct Writing {
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    table: Table,
    /// Rows with a tag.
    used: usize,
    /// Cells with a lane.
    live: usize,
}

/// What [`Writing::set`] found.
pub(super) struct Set {
    /// Whether the lane had the block already.
    pub(super) was_set: bool,
    /// Whether a table was replaced, and readers have to be given the new ones.
    pub(super) replaced: bool,
}

impl Writing {
    pub(super) fn new() -> Self {
        let shard = |_| Shard { table: Table::new(LEAST), used: 0, live: 0 };
        Self { shards: (0..SHARDS).map(shard).collect() }
    }

    pub(super) fn tables(&self) -> Tables {
        Tables(self.shards.iter().map(|shard| shard.table.clone()).collect())
    }

    /// Looks where blocks of rows that begin with these are, so that the memory is on its way for all of
    /// them when it is needed for the first.
    pub(super) fn fetch(&self, first: impl Iterator<Item = BlockKey>) {
        let table = |key: BlockKey| self.shards.get(shard(key)).map(|shard| &shard.table);
        let wanted = |key: BlockKey| table(key).map_or(0, |table| table.fetch(key) ^ table.fetch_rest(key));
        std::hint::black_box(first.fold(0, |all, key| all ^ wanted(key)));
    }

    /// Adds the lanes of `bit` to the block's.
    #[inline]
    pub(super) fn set(&mut self, place: Place, bit: u64) -> Set {
        let mut set = Set { was_set: false, replaced: false };
        let Some(shard) = self.shards.get_mut(place.shard()) else { return set };
        match shard.table.find(place) {
            Found::Cell(lanes) => {
                let before = lanes.load(Ordering::Relaxed);
                set.was_set = before & bit != 0;
                shard.live += usize::from(before == 0);
                lanes.store(before | bit, Ordering::Release);
                return set;
            }
            Found::Row(..) if (shard.used + 1) * 4 > shard.table.rows.len() * 3 => {
                shard.replace();
                set.replaced = true;
                shard.used += usize::from(shard.table.add(place, bit));
            }
            found => shard.used += usize::from(found.fill(place, bit)),
        }
        shard.live += 1;
        set
    }

    /// Takes the lanes of `bit` from the block's.
    pub(super) fn unset(&mut self, place: Place, bit: u64) {
        let Some(shard) = self.shards.get_mut(place.shard()) else { return };
        if let Found::Cell(lanes) = shard.table.find(place) {
            let before = lanes.load(Ordering::Relaxed);
            lanes.store(before & !bit, Ordering::Release);
            shard.live -= usize::from(before != 0 && before & !bit == 0);
        }
    }

    /// Gives memory back where most of it is not needed any more; whether any table was replaced.
    pub(super) fn shrink(&mut self) -> bool {
        let mut any = false;
        for shard in &mut self.shards {
            if shard.table.rows.len() > LEAST && shard.live < shard.table.rows.len() {
                shard.replace();
                any = true;
            }
        }
        any
    }

    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.rows.len() * size_of::<Row>()).sum()
    }
}

impl Shard {
    /// A table of only the cells that somebody holds, at most three eighths full: a good part of its
    /// size can be stored before the next.
    fn replace(&mut self) {
        let live = self.table.rows.iter().filter(|row| row.is_live()).count();
        let table = Table::new((live * 8 / 3 + 1).next_power_of_two().max(LEAST));
        self.used = 0;
        let load = |atomic: &AtomicU64| atomic.load(Ordering::Relaxed);
        // Whole rows at once, and then what has a row of its own: its place in the other may be free now.
        for row in self.table.rows.iter().filter(|row| row.is_whole() && row.is_live()) {
            let Some((free, false)) = table.row(load(&row.tag)) else { continue };
            free.first_lanes.store(load(&row.first_lanes), Ordering::Relaxed);
            for ((_, key, lanes), (_, free_key, free_lanes)) in row.others().zip(free.others()) {
                if load(lanes) != 0 {
                    free_key.store(load(key), Ordering::Relaxed);
                    free_lanes.store(load(lanes), Ordering::Relaxed);
                }
            }
            free.first.store(load(&row.first), Ordering::Relaxed);
            free.tag.store(load(&row.tag), Ordering::Relaxed);
            self.used += 1;
        }
        for row in self.table.rows.iter().filter(|row| !row.is_whole()) {
            let first = BlockKey(load(&row.first));
            for (position, key, lanes) in row.others().filter(|(_, _, lanes)| load(lanes) != 0) {
                let place = Place { first, position, key: BlockKey(load(key)) };
                self.used += usize::from(table.add(place, load(lanes)));
            }
        }
        self.table = table;
    }
}
