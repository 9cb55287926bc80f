//! How much of a prompt each lane holds, by looking at few of its blocks.
//!
//! A lane that has a block has all before it. So where two blocks are held by the same lanes, none of
//! them ends in between, and only stretches at whose ends the lanes differ are looked at more closely.
//! What costs is memory: a block's row is in no cache of the processor. Rows that do not wait for each
//! other take little longer than one, so that the search goes in few wide steps, and all of a
//! row's blocks are looked at once it is there.

use crate::kv::chain::BlockKey;
use crate::kv::table::{Place, ROW, Tables};

/// Rows that are looked at without waiting for each other: about as many as a core can ask the memory for.
const AT_ONCE: usize = 12;

/// The rows of the first step: most lanes part from a prompt soon, after the system message.
const FIRST: [usize; AT_ONCE] = [0, 1, 3, 5, 9, 16, 30, 60, 110, 200, 420, 900];

/// Stretches that share a step.
const STRETCHES: usize = 4;

/// A part of the prompt in which lanes end.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    /// Leading blocks that all of `held` have.
    low: usize,
    /// Leading blocks that only `left` of them have.
    high: usize,
    held: u64,
    left: u64,
}

/// Calls `ended` with lanes among `wanted` and how many leading blocks they have, for all that have any.
///
/// A lane's depth rests on two reads, of the last block that it has and of the next one, which it has
/// not. Its blocks come and go one by one, so that at some moment between the two reads this was its depth.
pub(super) fn search(tables: &Tables, keys: &[BlockKey], wanted: u64, mut ended: impl FnMut(u64, u32)) {
    let mut open = Vec::with_capacity(2 * STRETCHES);
    open.push(Stretch { low: 0, high: keys.len() + 1, held: wanted, left: 0 });
    while !open.is_empty() {
        let mut step = [Stretch::default(); STRETCHES];
        let count = open.len().min(STRETCHES);
        step.iter_mut().zip(std::iter::from_fn(|| open.pop())).for_each(|(place, stretch)| *place = stretch);
        let step = step.get(..count).unwrap_or_default();
        let rows = AT_ONCE / count;
        // Wanted first, looked at then.
        let mut wanted = 0;
        for stretch in step {
            for row in stretch.rows(rows) {
                wanted ^= keys.get(row * ROW).map_or(0, |first| tables.fetch(*first));
            }
        }
        std::hint::black_box(wanted);
        for stretch in step {
            stretch.part(tables, keys, rows, &mut open, &mut ended);
        }
    }
}

impl Stretch {
    /// At most `most` rows to look at, of those of which the first block is undecided, ascending.
    fn rows(&self, most: usize) -> impl Iterator<Item = usize> {
        // Depth d is decided by block d - 1.
        let (first, end) = (self.low.div_ceil(ROW), (self.high - 1).div_ceil(ROW));
        let all = end.saturating_sub(first);
        let is_first = self.low == 0 && all > AT_ONCE;
        let count = if is_first { FIRST.partition_point(|row| row + 1 < all) + 1 } else { all }.min(most);
        let row = move |index: usize| {
            let near = FIRST.get(index).copied().filter(|_| is_first);
            near.map_or(index * all / count, |row| row.min(all - 1))
        };
        (0..count).map(move |index| first + row(index))
    }

    /// Looks at some rows; what stays undecided becomes stretches, and lanes that end are told.
    fn part(
        self,
        tables: &Tables,
        keys: &[BlockKey],
        rows: usize,
        open: &mut Vec<Stretch>,
        ended: &mut impl FnMut(u64, u32),
    ) {
        let lanes = |position: usize| Place::in_prompt(keys, position).map_or(0, |place| tables.lanes(place));
        let mut rest = self;
        let mut decide = |rest: &mut Stretch, high: usize, left: u64| {
            let left = left & rest.held;
            if left != rest.held {
                let part = Stretch { high, left, ..*rest };
                if high - rest.low == 1 {
                    part.tell(ended);
                } else if part.is_within_row() {
                    part.walk(lanes, ended);
                } else {
                    open.push(part);
                }
            }
            (rest.low, rest.held) = (high, left);
        };
        for row in self.rows(rows) {
            let left = lanes(row * ROW);
            decide(&mut rest, row * ROW + 1, left);
            if rest.held == self.left {
                return;
            }
        }
        decide(&mut rest, self.high, self.left);
    }

    /// Whether all undecided blocks are of one row.
    fn is_within_row(&self) -> bool {
        self.low / ROW == (self.high - 2) / ROW
    }

    /// Looks at every undecided block.
    fn walk(mut self, lanes: impl Fn(usize) -> u64, ended: &mut impl FnMut(u64, u32)) {
        while self.held != self.left {
            let next = if self.low + 1 < self.high { lanes(self.low) & self.held | self.left } else { self.left };
            Stretch { left: next, ..self }.tell(ended);
            (self.low, self.held) = (self.low + 1, next);
        }
    }

    fn tell(&self, ended: &mut impl FnMut(u64, u32)) {
        let lanes = self.held & !self.left;
        if lanes != 0 && self.low > 0 {
            ended(lanes, u32::try_from(self.low).unwrap_or(u32::MAX));
        }
    }
}
