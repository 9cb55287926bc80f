//! The workers' caches: least recently used blocks go first, of one prompt the end before the beginning,
//! as in vLLM.

use std::collections::{HashMap, VecDeque};

/// All workers' caches.
#[derive(Debug)]
pub(crate) struct Fleet {
    caches: Vec<Cache>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Cache {
    /// When each block was last used.
    used: HashMap<u64, u64>,
    /// In the order of use; out of date where `used` says something else.
    order: VecDeque<(u64, u64)>,
    clock: u64,
}

/// What serving a request changed.
#[derive(Debug)]
pub(crate) struct Change {
    /// The first block that the worker did not hold.
    pub(crate) from: usize,
    /// Evicted before the new ones were stored.
    pub(crate) evicted: Vec<u64>,
}

impl Fleet {
    pub(crate) fn new(workers: usize, capacity: usize) -> Self {
        Self { caches: (0..workers).map(|_| Cache::default()).collect(), capacity }
    }

    /// The worker computes the prompt and then holds all of it.
    pub(crate) fn serve(&mut self, worker: usize, names: &[u64]) -> Change {
        let Some(cache) = self.caches.get_mut(worker) else { return Change { from: 0, evicted: Vec::new() } };
        let from = names.iter().position(|name| !cache.used.contains_key(name)).unwrap_or(names.len());
        cache.clock += 1;
        for name in names.iter().rev() {
            cache.used.insert(*name, cache.clock);
            cache.order.push_back((*name, cache.clock));
        }
        let mut evicted = Vec::new();
        while cache.used.len() > self.capacity
            && let Some((name, at)) = cache.order.pop_front()
        {
            if at < cache.clock && cache.used.get(&name) == Some(&at) {
                cache.used.remove(&name);
                evicted.push(name);
            }
        }
        Change { from, evicted }
    }

    /// Blocks over all workers.
    pub(crate) fn held(&self) -> usize {
        self.caches.iter().map(|cache| cache.used.len()).sum()
    }
}
