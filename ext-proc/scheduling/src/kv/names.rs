//! A lane's blocks by the engine's names: open addressing over places in the lane's list of blocks.
//!
//! A slot is half of a name's hash and a block's place. Eight slots are a cache line, and the search for a
//! name begins with the first of a line: so it seldom reads a second one, hardly ever a block that is not
//! meant, and growing reads no block at all. Whether a block has the name is for whoever holds the blocks
//! to say.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

/// Slots in a line.
const WIDTH: usize = 8;

/// Lines of the smallest table that is not empty.
const LEAST: usize = 2;

/// A slot without a block: places are counted from 1.
const EMPTY: u64 = 0;

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line([u64; WIDTH]);

/// Name → place. Once there are some, between less than half and five eighths of the slots are used.
#[derive(Debug, Default)]
pub(super) struct Names {
    lines: Vec<Line>,
    used: usize,
}

/// The half of the name's hash that its slot has.
#[inline]
fn tag(name: u64) -> u64 {
    FixedState::default().hash_one(name) >> 32
}

impl Names {
    /// The place under that name; `is` says whether the block of a place has it.
    #[inline]
    pub(super) fn get(&self, name: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.find(name, is).map(|(_, place)| place)
    }

    /// Has the memory bring what a look-up of the name will want. What it answers is only to be needed.
    #[inline]
    pub(super) fn fetch(&self, name: u64) -> u64 {
        self.slot(self.home(tag(name))).unwrap_or(EMPTY)
    }

    /// Adds a name that is not there.
    pub(super) fn insert(&mut self, name: u64, place: u32) {
        if (self.used + 1) * 8 > self.slots() * 5 {
            self.grow();
        }
        self.used += 1;
        self.put(tag(name) << 32 | (u64::from(place) + 1));
    }

    /// Removes the name; `is` as in [`Names::get`].
    pub(super) fn remove(&mut self, name: u64, is: impl Fn(u32) -> bool) {
        let Some((mut hole, _)) = self.find(name, is) else { return };
        self.used -= 1;
        // What stands behind it moves up, unless it would come to stand before its home.
        let mut at = self.after(hole);
        while let Some(slot) = self.slot(at).filter(|slot| *slot != EMPTY) {
            if self.distance(self.home(slot >> 32), at) >= self.distance(hole, at) {
                self.write(hole, slot);
                hole = at;
            }
            at = self.after(at);
        }
        self.write(hole, EMPTY);
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    #[cold]
    fn grow(&mut self) {
        let length = (self.lines.len() * 3 / 2).max(LEAST);
        let before = std::mem::replace(&mut self.lines, vec![Line::default(); length]);
        before.iter().flat_map(|line| line.0).filter(|slot| *slot != EMPTY).for_each(|slot| self.put(slot));
    }

    #[inline]
    fn find(&self, name: u64, is: impl Fn(u32) -> bool) -> Option<(usize, u32)> {
        let tag = tag(name);
        let mut at = self.home(tag);
        loop {
            let slot = self.slot(at).filter(|slot| *slot != EMPTY)?;
            let place = (slot as u32).wrapping_sub(1);
            if slot >> 32 == tag && is(place) {
                return Some((at, place));
            }
            at = self.after(at);
        }
    }

    /// Writes a slot to where it is free, from its home on.
    fn put(&mut self, slot: u64) {
        let mut at = self.home(slot >> 32);
        while self.slot(at).is_some_and(|slot| slot != EMPTY) {
            at = self.after(at);
        }
        self.write(at, slot);
    }

    fn slots(&self) -> usize {
        self.lines.len() * WIDTH
    }

    #[inline]
    fn slot(&self, at: usize) -> Option<u64> {
        self.lines.get(at / WIDTH)?.0.get(at % WIDTH).copied()
    }

    fn write(&mut self, at: usize, slot: u64) {
        if let Some(place) = self.lines.get_mut(at / WIDTH).and_then(|line| line.0.get_mut(at % WIDTH)) {
            *place = slot;
        }
    }

    /// Where the search for a tag begins: tags in order have homes in order, whatever the length.
    #[inline]
    fn home(&self, tag: u64) -> usize {
        ((tag * self.lines.len() as u64) >> 32) as usize * WIDTH
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 < self.slots() { at + 1 } else { 0 }
    }

    /// Steps from one slot to the other.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots() - from }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    use proptest::prelude::*;

    use super::*;

    /// The names of the blocks, by place.
    fn is(all: &[u64], name: u64) -> impl Fn(u32) -> bool {
        move |place| all[place as usize] == name
    }

    proptest! {
        #[test]
        fn names_come_and_go_as_in_a_map(changes in prop::collection::vec((any::<bool>(), 0_u64..64), 0..400)) {
            let (mut names, mut map, mut all) = (Names::default(), HashMap::new(), Vec::new());
            for (add, name) in changes {
                // Names that share their lower half, and their upper.
                let name = if name % 2 == 0 { name << 40 } else { name };
                if !add {
                    names.remove(name, is(&all, name));
                    map.remove(&name);
                } else if let Entry::Vacant(free) = map.entry(name) {
                    let place = u32::try_from(all.len()).unwrap();
                    all.push(name);
                    names.insert(name, place);
                    free.insert(place);
                }
                prop_assert_eq!(names.used, map.len());
                prop_assert!(names.used * 8 <= names.slots() * 5);
                prop_assert_eq!(names.lines.iter().flat_map(|line| line.0).filter(|slot| *slot != EMPTY).count(), map.len());
                for name in (0..64).flat_map(|name| [name, name << 40]) {
                    prop_assert_eq!(names.get(name, is(&all, name)), map.get(&name).copied());
                }
            }
        }
    }

    #[test]
    fn what_shares_a_tag_is_told_apart_by_its_block() {
        let mut names = Names::default();
        // Two blocks of one name, as two names of one tag would be: only the block tells.
        names.insert(7, 0);
        names.insert(7, 1);
        assert_eq!((names.get(7, |place| place == 0), names.get(7, |place| place == 1)), (Some(0), Some(1)));
        assert_eq!(names.get(7, |_| false), None);
        names.remove(7, |place| place == 0);
        assert_eq!((names.get(7, |place| place == 0), names.get(7, |place| place == 1)), (None, Some(1)));
    }

    #[test]
    fn an_empty_table_has_no_memory_and_a_full_one_little_to_spare() {
        let mut names = Names::default();
        assert_eq!((names.bytes(), names.get(1, |_| true), names.fetch(1)), (0, None, EMPTY));
        names.remove(1, |_| true);
        for place in 0..10_000 {
            names.insert(u64::from(place), place);
            assert!(place < 100 || names.bytes() <= (place as usize + 1) * 20);
        }
        let is = |name: u32| move |place| place == name;
        assert!((0..10_000).all(|name| names.get(u64::from(name), is(name)) == Some(name)));
    }
}
