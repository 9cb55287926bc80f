//! The blocks of one endpoint from most to least recently used: a list whose nodes live in one
//! vector, 16 bytes each.

use crate::prefix::BlockHash;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Recency {
    nodes: Vec<Node>,
    /// Head of the list of unused nodes, linked by `older`.
    unused: u32,
    newest: u32,
    oldest: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    block: u64,
    newer: u32,
    older: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Self { nodes: Vec::new(), unused: NONE, newest: NONE, oldest: NONE, len: 0 }
    }
}

impl Recency {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a block as the most recent; its node.
    pub(super) fn push(&mut self, block: BlockHash) -> u32 {
        let node = Node { block: block.0, newer: NONE, older: NONE };
        let index = self.unused;
        let index = if let Some(unused) = self.nodes.get_mut(index as usize) {
            self.unused = unused.older;
            *unused = node;
            index
        } else {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
        };
        self.len += 1;
        self.link(index);
        index
    }

    /// Makes a node the most recent.
    pub(super) fn touch(&mut self, index: u32) {
        if index != self.newest {
            self.unlink(index);
            self.link(index);
        }
    }

    /// Takes the least recent block out.
    pub(super) fn pop_oldest(&mut self) -> Option<BlockHash> {
        let index = self.oldest;
        let block = self.nodes.get(index as usize)?.block;
        self.unlink(index);
        let unused = self.unused;
        if let Some(node) = self.nodes.get_mut(index as usize) {
            node.older = unused;
            self.unused = index;
        }
        self.len -= 1;
        Some(BlockHash(block))
    }

    fn link(&mut self, index: u32) {
        let newest = self.newest;
        if let Some(node) = self.nodes.get_mut(index as usize) {
            node.newer = NONE;
            node.older = newest;
        }
        match self.nodes.get_mut(newest as usize) {
            Some(node) => node.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, index: u32) {
        let Some(Node { newer, older, .. }) = self.nodes.get(index as usize).copied() else { return };
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }
}
