//! The blocks of one rank as its engine names them: what a parent, a duplicate and a removal refer to.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::kv::chain::{self, BlockKey};
use crate::kv::event::{Applied, EngineHash, KvEvent, Medium};
use crate::kv::names::Names;
use crate::kv::pieces::Pieces;
use crate::kv::plane::Hand;
use crate::kv::table::{Place, ROW};

const NONE: u32 = u32::MAX;

/// Blocks whose memory is asked for at once, ahead of the first of them: what that is fits into the nearest cache.
const AHEAD: usize = 32 * ROW;

/// Everything one rank holds, by whoever holds the pen.
#[derive(Debug)]
pub(super) struct Lane {
    blocks: Pieces<Block>,
    /// By the engine's name; a block may have several.
    names: Names,
    /// Head of the list of unused places in `blocks`, linked by `before`.
    unused: u32,
    len: usize,
    /// Copies beyond the 255 that a block counts itself, by block and medium.
    many: HashMap<(u32, Medium), u32, FixedState>,
    /// Blocks by key, and further names by block: only since the engine gave one block two names.
    twins: Option<Box<Twins>>,
    /// Where the search for the oldest block that nothing continues goes on.
    sweep: usize,
    /// The block before the last one that was forgotten: it may be the next.
    peeled: u32,
    /// The keys of an event's blocks: kept for its memory.
    keys: Vec<BlockKey>,
}

#[derive(Debug, Default)]
struct Twins {
    by_key: HashMap<u64, u32, FixedState>,
    names: HashMap<u32, Vec<u64>, FixedState>,
}

/// 32 bytes. One that is not held and that nothing continues is no block but an unused place.
#[derive(Clone, Copy, Debug)]
struct Block {
    key: BlockKey,
    name: u64,
    /// The block before it; [`NONE`] for the first of a prompt.
    before: u32,
    /// How many blocks continue it.
    after: u32,
    /// How many blocks precede it.
    position: u32,
    /// Copies by medium, a byte for each, the fastest lowest. One number, so that it is written and read
    /// as one: a byte's store would hold up the next reading of all four.
    copies: u32,
}

impl Block {
    fn is_held(&self) -> bool {
        self.copies != 0
    }

    /// The fastest place that has it.
    fn medium(&self) -> Option<Medium> {
        Medium::ALL.get((self.copies.trailing_zeros() / 8) as usize).copied()
    }

    fn copies(&self, medium: Medium) -> u32 {
        self.copies >> shift(medium) & MOST
    }
}

/// Copies of one medium that a block counts itself.
const MOST: u32 = 0xFF;

fn shift(medium: Medium) -> u32 {
    8 * medium as u32
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            blocks: Pieces::default(),
            names: Names::default(),
            unused: NONE,
            len: 0,
            many: HashMap::default(),
            twins: None,
            sweep: 0,
            peeled: NONE,
            keys: Vec::new(),
        }
    }
}

impl Lane {
    /// Blocks shown to readers, holes included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where all blocks are shown.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.blocks.iter().filter(|block| block.is_held() || block.after > 0).map(|block| self.place(block))
    }

    /// Where a block is shown: the beginning of its row is at most six blocks back.
    fn place(&self, block: &Block) -> Place {
        let position = block.position as usize;
        let mut first = block;
        for _ in 0..position % ROW {
            first = self.block(first.before).unwrap_or(first);
        }
        Place { first: first.key, position, key: block.key }
    }

    /// What it takes, by the capacities of its collections.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.bytes() + self.names.bytes()
    }

    /// Takes in a [`KvEvent::Stored`]; other events are none of its business.
    pub(super) fn store(&mut self, hand: &mut Hand<'_>, event: &KvEvent, capacity: usize, applied: &mut Applied) {
        let KvEvent::Stored { hashes, parent, tokens, block_size, lora, salt, medium } = event else { return };
        if *block_size == 0 || Some(tokens.len()) != hashes.len().checked_mul(*block_size as usize) {
            applied.malformed += hashes.len();
            return;
        }
        let (mut before, start) = match parent {
            None => (NONE, chain::root(*block_size, lora.as_deref(), salt.as_deref())),
            Some(parent) => match self.index_of(*parent).and_then(|index| Some((index, self.block(index)?.key))) {
                Some(parent) => parent,
                None => {
                    applied.unknown_parent += hashes.len();
                    return;
                }
            },
        };
        let mut first = self.block(before).map_or(start, |before| self.place(before).first);
        let begin = self.block(before).map_or(0, |before| before.position as usize + 1);
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        chain::extend(start, tokens, *block_size, &mut keys);
        for (position, (name, key)) in (begin..).zip(hashes.iter().zip(&keys)) {
            if (position - begin).is_multiple_of(AHEAD) {
                let ahead = hashes.iter().zip(&keys).skip(position - begin).take(AHEAD);
                self.fetch(ahead.clone().map(|(name, _)| *name));
                hand.fetch(ahead.map(|(_, key)| *key).skip((ROW - position % ROW) % ROW).step_by(ROW));
            }
            if position.is_multiple_of(ROW) {
                first = *key;
            }
            let known = self.index_of(*name);
            if known.is_some_and(|index| self.block(index).is_some_and(|block| block.key != *key)) {
                // The name is another block's: nothing that follows can be placed.
                applied.malformed += hashes.len() - (position - begin);
                break;
            }
            let (index, new) = match known {
                Some(index) => (index, false),
                None => {
                    if self.len >= capacity {
                        if !self.forget_oldest(hand, before) {
                            applied.over_capacity += hashes.len() - (position - begin);
                            break;
                        }
                        applied.over_capacity += 1;
                    }
                    self.named(hand, *name, Place { first, position, key: *key }, before)
                }
            };
            if new {
                applied.stored += 1
            } else {
                applied.duplicates += 1
            }
            self.add_copy(hand, index, *medium, new);
            before = index;
        }
        self.keys = keys;
    }

    /// Independent look-ups, which the processor overlaps, before those that depend on each other.
    fn fetch(&self, names: impl Iterator<Item = EngineHash>) {
        std::hint::black_box(names.fold(0, |wanted, name| wanted ^ self.names.fetch(name.0)));
    }

    /// Takes in a [`KvEvent::Removed`].
    pub(super) fn remove(
        &mut self,
        hand: &mut Hand<'_>,
        hashes: &[EngineHash],
        medium: Option<Medium>,
        applied: &mut Applied,
    ) {
        for hashes in hashes.chunks(AHEAD) {
            self.fetch(hashes.iter().copied());
            let known = hashes.iter().filter_map(|name| self.block(self.index_of(*name)?));
            hand.fetch(known.map(|block| self.place(block).first));
            for hash in hashes {
                let index = self.index_of(*hash).unwrap_or(NONE);
                if self.remove_copy(hand, index, medium) {
                    applied.removed += 1;
                } else {
                    applied.unknown_removed += 1;
                }
            }
        }
    }

    /// The block of that key under a name that is new, and whether the block is new too.
    fn named(&mut self, hand: &mut Hand<'_>, name: EngineHash, place: Place, before: u32) -> (u32, bool) {
        let key = place.key;
        if hand.show(place)
            && let Some(index) = self.twin(name, key)
        {
            return (index, false);
        }
        let position = u32::try_from(place.position).unwrap_or(NONE);
        let block = Block { key, name: name.0, before, after: 0, position, copies: 0 };
        let mut index = self.unused;
        if let Some(unused) = self.blocks.get_mut(index) {
            self.unused = unused.before;
            *unused = block;
        } else {
            index = u32::try_from(self.blocks.len()).unwrap_or(NONE);
            self.blocks.push(block);
        }
        self.names.insert(name.0, index);
        if let Some(twins) = &mut self.twins {
            twins.by_key.insert(key.0, index);
        }
        if let Some(before) = self.blocks.get_mut(before) {
            before.after += 1;
        }
        self.len += 1;
        (index, true)
    }

    /// Gives a block that is there a further name.
    fn twin(&mut self, name: EngineHash, key: BlockKey) -> Option<u32> {
        let blocks = &self.blocks;
        let twins = self.twins.get_or_insert_with(|| {
            let all = (0..).zip(blocks.iter()).filter(|(_, block)| block.is_held() || block.after > 0);
            Box::new(Twins { by_key: all.map(|(index, block)| (block.key.0, index)).collect(), ..Twins::default() })
        });
        let index = *twins.by_key.get(&key.0)?;
        twins.names.entry(index).or_default().push(name.0);
        self.names.insert(name.0, index);
        Some(index)
    }

    fn add_copy(&mut self, hand: &mut Hand<'_>, index: u32, medium: Medium, new: bool) {
        let Some(block) = self.blocks.get_mut(index) else { return };
        let before = if new { Some(Medium::Gpu) } else { block.medium() };
        if block.copies(medium) < MOST {
            block.copies += 1 << shift(medium);
        } else {
            *self.many.entry((index, medium)).or_default() += 1;
        }
        let after = block.medium();
        if before != after {
            hand.place(block.key, block.position, after);
        }
    }

    /// Whether there was such a copy.
    fn remove_copy(&mut self, hand: &mut Hand<'_>, index: u32, medium: Option<Medium>) -> bool {
        let Some(block) = self.blocks.get_mut(index) else { return false };
        let before = block.medium();
        let Some(medium) = medium.or(before) else { return false };
        if block.copies(medium) == 0 {
            return false;
        }
        if block.copies(medium) == MOST
            && let Some(more) = self.many.get_mut(&(index, medium))
        {
            *more -= 1;
            if *more == 0 {
                self.many.remove(&(index, medium));
            }
            return true;
        }
        block.copies -= 1 << shift(medium);
        let after = block.medium();
        if after.is_none() && block.after == 0 {
            self.forget(hand, index);
        } else if before != after {
            hand.place(block.key, block.position, after);
        }
        true
    }

    /// Forgets a block that nothing continues, and holes before it that nothing continues any more.
    fn forget(&mut self, hand: &mut Hand<'_>, mut index: u32) {
        while let Some(Block { key, name, before, .. }) = self.block(index).copied() {
            if let Some(block) = self.block(index) {
                hand.hide(self.place(block));
            }
            self.names.remove(name, is_named(&self.blocks, self.twins.as_deref(), name));
            let further = self.twins.as_ref().and_then(|twins| twins.names.get(&index).cloned());
            for name in further.into_iter().flatten() {
                self.names.remove(name, is_named(&self.blocks, self.twins.as_deref(), name));
            }
            if let Some(twins) = &mut self.twins {
                twins.by_key.remove(&key.0);
                twins.names.remove(&index);
            }
            let Some(block) = self.blocks.get_mut(index) else { return };
            block.copies = 0;
            block.before = self.unused;
            self.unused = index;
            self.len -= 1;
            if !self.many.is_empty() {
                self.many.retain(|(block, _), _| *block != index);
            }
            let Some(parent) = self.blocks.get_mut(before) else { return };
            parent.after -= 1;
            if parent.after > 0 || parent.is_held() {
                return;
            }
            index = before;
        }
    }

    /// Forgets the end of the oldest prompt, for room; not the block `kept`, and whether there was any.
    ///
    /// The end, because without its beginning a prompt is of no use. Places in `blocks` are given in
    /// the order of storing, and again where one was left, so that going round them is going by age.
    fn forget_oldest(&mut self, hand: &mut Hand<'_>, kept: u32) -> bool {
        let is_end =
            |index: u32| index != kept && self.block(index).is_some_and(|block| block.after == 0 && block.is_held());
        let mut found = Some(self.peeled).filter(|peeled| is_end(*peeled));
        if found.is_none() {
            let all = u32::try_from(self.blocks.len()).unwrap_or(NONE);
            let start = u32::try_from(self.sweep).unwrap_or(0);
            found = (start..all).chain(0..start.min(all)).find(|index| is_end(*index));
            self.sweep = found.map_or(0, |found| found as usize + 1);
        }
        let Some(found) = found else { return false };
        self.peeled = self.block(found).map_or(NONE, |block| block.before);
        self.forget(hand, found);
        true
    }

    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index)
    }

    /// The block of that name.
    #[inline]
    fn index_of(&self, name: EngineHash) -> Option<u32> {
        self.names.get(name.0, is_named(&self.blocks, self.twins.as_deref(), name.0))
    }
}

/// Whether a block has the name, its own or a further one.
fn is_named<'a>(blocks: &'a Pieces<Block>, twins: Option<&'a Twins>, name: u64) -> impl Fn(u32) -> bool + 'a {
    let further = move |index: u32| {
        twins.and_then(|twins| twins.names.get(&index)).is_some_and(|further| further.contains(&name))
    };
    move |index| blocks.get(index).is_some_and(|block| block.name == name) || further(index)
}
