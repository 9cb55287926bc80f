//! Two streams about one request are one request: gateways that carry several picker filters, or
//! one filter twice, ask twice. The second gets the first one's answer and is not counted again.
//!
//! One request means: same pool, same `x-request-id`, same path and body, as the client sent it or as
//! the first answer changed it. A stream without an `x-request-id` is never a duplicate.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use foldhash::quality;
use parking_lot::Mutex;
use scheduling::{Decision, PoolName, Refusal};

use crate::fleet::Picked;

/// A pick whose count lives until the last stream of the request has ended.
pub type Shared = Arc<Mutex<Picked>>;

/// Locks, so that requests which have nothing to do with each other seldom meet.
const SHARDS: usize = 16;

/// Entries looked at for expiry when one is added: more than one, so that the map shrinks.
const SWEEP: usize = 4;

/// Requests of a shard whose HTTP request has ended and that are still remembered.
const ENDED: usize = 32;

/// Which request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64, u64);

/// The requests of the last moments.
#[derive(Debug)]
pub struct Duplicates {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// Every bit of its hashes depends on every byte: they are compared, not looked up.
    bodies: quality::RandomState,
    ttl: Duration,
    shard_capacity: usize,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Key, Remembered, RandomState>,
    order: VecDeque<(Instant, Key)>,
    ended: VecDeque<Key>,
}

#[derive(Debug)]
struct Remembered {
    decision: Arc<Decision>,
    picked: Weak<Mutex<Picked>>,
    since: Instant,
    /// The body is one that we made, and no stream has come with it yet.
    made: bool,
}

impl Duplicates {
    /// Remembers each request for `ttl` and as long as one of its streams lives; at most `capacity` of them.
    #[must_use]
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            bodies: quality::RandomState::default(),
            ttl,
            shard_capacity: capacity.div_ceil(SHARDS).max(1),
        }
    }

    /// The request's key. Seeded by chance, so that nobody can make two requests look like one.
    #[must_use]
    pub fn key(&self, pool: &PoolName, request_id: &str, path: &str, body: &[u8]) -> Key {
        Key(self.hasher.hash_one((pool, request_id, path)), self.bodies.hash_one(body))
    }

    /// Picks, unless the request was picked for already. Returns the pick and whether it is a repetition.
    ///
    /// # Errors
    /// The refusal of `pick`. A refusal is not remembered.
    pub fn once(
        &self,
        key: Key,
        now: Instant,
        pick: impl FnOnce() -> Result<Picked, Refusal>,
    ) -> Result<(Shared, bool), Refusal> {
        let Some(shard) = self.shard(key) else { return pick().map(|picked| (Arc::new(Mutex::new(picked)), false)) };
        // Held while picking: two streams at the same instant must not both be the first.
        let mut shard = shard.lock();
        shard.sweep(now, self.ttl, self.shard_capacity);
        if let Some(entry) = shard.entries.get_mut(&key) {
            if let Some(picked) = entry.picked.upgrade() {
                return Ok((picked, true));
            }
            let again = (now.saturating_duration_since(entry.since) < self.ttl)
                .then(|| Picked::again(Arc::clone(&entry.decision)))
                .flatten();
            if let Some(picked) = again {
                let picked = Arc::new(Mutex::new(picked));
                entry.picked = Arc::downgrade(&picked);
                return Ok((picked, true));
            }
        }
        let picked = pick()?;
        let decision = Arc::clone(&picked.decision);
        let picked = Arc::new(Mutex::new(picked));
        shard.remember(key, Remembered { decision, picked: Arc::downgrade(&picked), since: now, made: false });
        Ok((picked, false))
    }

    /// The request that was picked for goes by `key` too: when its body changes, a later filter sees
    /// the new one.
    pub fn also(&self, key: Key, now: Instant, picked: &Shared) {
        let Some(shard) = self.shard(key) else { return };
        let decision = Arc::clone(&picked.lock().decision);
        let mut shard = shard.lock();
        shard.sweep(now, self.ttl, self.shard_capacity);
        shard.remember(key, Remembered { decision, picked: Arc::downgrade(picked), since: now, made: true });
    }

    /// Whether a stream whose key is `key` is the first to come with a body that we made, while the one
    /// that it was made for still lives: then it is the next filter of the same request, and what is in
    /// the body was not used yet. True once.
    pub fn passed_on(&self, key: Key) -> bool {
        let Some(shard) = self.shard(key) else { return false };
        let mut shard = shard.lock();
        let Some(entry) = shard.entries.get_mut(&key) else { return false };
        // The caller's own stream is one, the one before it another.
        std::mem::take(&mut entry.made) && entry.picked.strong_count() > 1
    }

    /// Forgets a request whose answer failed: a retry deserves a new decision.
    pub fn forget(&self, key: Key) {
        if let Some(shard) = self.shard(key) {
            // Its place in the order stays until it expires, and is then passed over.
            shard.lock().entries.remove(&key);
        }
    }

    /// The HTTP request has ended. Only the last of these are remembered for the rest of their time to
    /// live: seconds of all decisions are more memory than a processor caches, and a repetition
    /// that comes after the end is a client's, soon and seldom.
    pub fn ended(&self, key: Key) {
        if let Some(shard) = self.shard(key) {
            shard.lock().end(key);
        }
    }

    fn shard(&self, key: Key) -> Option<&Mutex<Shard>> {
        self.shards.get(usize::try_from(key.0).unwrap_or_default() % SHARDS)
    }
}

impl Shard {
    fn remember(&mut self, key: Key, entry: Remembered) {
        // Also where it replaces one that has expired: the place of that one is passed over.
        self.order.push_back((entry.since, key));
        self.entries.insert(key, entry);
    }

    fn end(&mut self, key: Key) {
        self.ended.push_back(key);
        if self.ended.len() > ENDED
            && let Some(oldest) = self.ended.pop_front()
            && let Entry::Occupied(entry) = self.entries.entry(oldest)
            && entry.get().picked.strong_count() == 0
        {
            entry.remove();
        }
    }

    fn sweep(&mut self, now: Instant, ttl: Duration, capacity: usize) {
        for _ in 0..SWEEP {
            let full = self.order.len() >= capacity;
            let Some((since, key)) = self.order.front().copied() else { return };
            if !full && now.saturating_duration_since(since) < ttl {
                return;
            }
            self.order.pop_front();
            match self.entries.get(&key) {
                // Forgotten and asked for again since: it has a place of its own further back.
                Some(entry) if entry.since > since => {}
                Some(entry) if !full && entry.picked.strong_count() > 0 => self.order.push_back((now, key)),
                _ => {
                    self.entries.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
