//! A list that grows without moving what it has, and is never much larger than that.

/// Items in a piece.
const PIECE: usize = 1 << 10;

/// A list in pieces of the same length.
#[derive(Debug)]
pub(super) struct Pieces<T> {
    pieces: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }
}

impl<T> Pieces<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.pieces.get(index as usize / PIECE)?.get(index as usize % PIECE)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.pieces.get_mut(index as usize / PIECE)?.get_mut(index as usize % PIECE)
    }

    #[inline]
    pub(super) fn push(&mut self, item: T) {
        self.len += 1;
        if let Some(last) = self.pieces.last_mut().filter(|last| last.len() < PIECE) {
            return last.push(item);
        }
        // The first grows as it is filled: many lists are short.
        let mut piece = Vec::with_capacity(if self.pieces.is_empty() { 0 } else { PIECE });
        piece.push(item);
        self.pieces.push(piece);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.capacity() * size_of::<T>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_where_they_were_put() {
        let mut list = Pieces::default();
        assert_eq!((list.len(), list.bytes(), list.get(0)), (0, 0, None::<&u64>));
        for item in 0..5000_u64 {
            list.push(item);
        }
        *list.get_mut(2048).unwrap() = 7;
        assert_eq!((list.len(), list.get(0), list.get(4999), list.get(5000)), (5000, Some(&0), Some(&4999), None));
        assert!(list.iter().copied().eq((0..2048).chain([7]).chain(2049..5000)));
        assert_eq!(list.bytes(), 5 * PIECE * 8);
    }
}
