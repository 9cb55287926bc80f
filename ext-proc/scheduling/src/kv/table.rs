//! Which lanes of a plane hold a block: hash tables that readers need no lock for.
//!
//! A cell is a key and a bit set of lanes, both atomic. A key, once written, never changes as long as
//! its table lives; a block that nobody holds any more keeps its cell, with an empty set, until the
//! table is replaced. So a reader that found the key has found the set, whatever writers do meanwhile,
//! and a reader of a table that has been replaced sees what was true at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kv::chain::BlockKey;

/// Tables in a plane: replacing one copies a 64th of the blocks, so that no writer does much at once.
const SHARDS: usize = 64;
/// The smallest table.
const LEAST: usize = 8;
/// The key of an empty cell; no block has it.
const EMPTY: u64 = 0;

#[derive(Debug, Default)]
struct Cell {
    key: AtomicU64,
    lanes: AtomicU64,
}

/// Open addressing with linear probing; keys are hashes already.
#[derive(Debug)]
struct Table {
    /// A power of two of them, at least a quarter of them empty.
    cells: Box<[Cell]>,
}

/// Where a key is, or would be.
enum Found<'a> {
    Cell(&'a Cell),
    Empty(&'a Cell),
    Nowhere,
}

impl Table {
    fn new(cells: usize) -> Self {
        Self { cells: (0..cells).map(|_| Cell::default()).collect() }
    }

    #[inline]
    fn find(&self, key: u64) -> Found<'_> {
        let mask = self.cells.len().wrapping_sub(1);
        let start = key as usize & mask;
        for step in 0..self.cells.len() {
            let Some(cell) = self.cells.get((start + step) & mask) else { return Found::Nowhere };
            match cell.key.load(Ordering::Acquire) {
                EMPTY => return Found::Empty(cell),
                other if other == key => return Found::Cell(cell),
                _ => {}
            }
        }
        Found::Nowhere
    }
}

/// A plane's tables at one moment, for readers.
#[derive(Clone, Debug)]
pub(super) struct Tables(Vec<Arc<Table>>);

impl Tables {
    /// The lanes that hold the block.
    #[inline]
    pub(super) fn lanes(&self, key: BlockKey) -> u64 {
        match self.0.get(shard(key)).map(|table| table.find(key.0)) {
            Some(Found::Cell(cell)) => cell.lanes.load(Ordering::Acquire),
            _ => 0,
        }
    }
}

/// The highest bits: the lowest choose the cell.
fn shard(key: BlockKey) -> usize {
    (key.0 >> 58) as usize
}

/// The same tables in the hand of the one who may write.
#[derive(Debug)]
pub(super) struct Writing {
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    table: Arc<Table>,
    /// Cells with a key.
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
        let shard = |_| Shard { table: Arc::new(Table::new(LEAST)), used: 0, live: 0 };
        Self { shards: (0..SHARDS).map(shard).collect() }
    }

    pub(super) fn tables(&self) -> Tables {
        Tables(self.shards.iter().map(|shard| Arc::clone(&shard.table)).collect())
    }

    /// Adds the lanes of `bit` to the block's.
    #[inline]
    pub(super) fn set(&mut self, key: BlockKey, bit: u64) -> Set {
        let mut set = Set { was_set: false, replaced: false };
        let Some(shard) = self.shards.get_mut(shard(key)) else { return set };
        if (shard.used + 1) * 4 > shard.table.cells.len() * 3 {
            shard.replace();
            set.replaced = true;
        }
        match shard.table.find(key.0) {
            Found::Cell(cell) => {
                let before = cell.lanes.load(Ordering::Relaxed);
                set.was_set = before & bit != 0;
                shard.live += usize::from(before == 0);
                cell.lanes.store(before | bit, Ordering::Release);
            }
            Found::Empty(cell) => {
                cell.lanes.store(bit, Ordering::Relaxed);
                cell.key.store(key.0, Ordering::Release);
                shard.used += 1;
                shard.live += 1;
            }
            Found::Nowhere => {}
        }
        set
    }

    /// Takes the lanes of `bit` from the block's.
    pub(super) fn unset(&mut self, key: BlockKey, bit: u64) {
        let Some(shard) = self.shards.get_mut(shard(key)) else { return };
        if let Found::Cell(cell) = shard.table.find(key.0) {
            let before = cell.lanes.load(Ordering::Relaxed);
            cell.lanes.store(before & !bit, Ordering::Release);
            shard.live -= usize::from(before != 0 && before & !bit == 0);
        }
    }

    /// Gives memory back where most of it is not needed any more; whether any table was replaced.
    pub(super) fn shrink(&mut self) -> bool {
        let mut any = false;
        for shard in &mut self.shards {
            if shard.table.cells.len() > LEAST && shard.live * 8 < shard.table.cells.len() {
                shard.replace();
                any = true;
            }
        }
        any
    }

    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.cells.len() * size_of::<Cell>()).sum()
    }
}

impl Shard {
    /// A table of only the cells that somebody holds, at most three eighths full: a good part of its
    /// size can be stored before the next.
    fn replace(&mut self) {
        let cells = (self.live * 8 / 3 + 1).next_power_of_two().max(LEAST);
        let table = Table::new(cells);
        for cell in &self.table.cells {
            let (key, lanes) = (cell.key.load(Ordering::Relaxed), cell.lanes.load(Ordering::Relaxed));
            if lanes != 0
                && let Found::Empty(free) = table.find(key)
            {
                free.lanes.store(lanes, Ordering::Relaxed);
                free.key.store(key, Ordering::Relaxed);
            }
        }
        self.used = self.live;
        self.table = Arc::new(table);
    }
}
