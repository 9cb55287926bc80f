//! Load that outlives its stream.
//!
//! In some modes Envoy ends the stream while the engine still works on the request: with no
//! request body at once, with FULL_DUPLEX_STREAMED at the answer or at the response's first byte,
//! unless `response_trailer_mode` is SEND. Dropping the count then would make a busy endpoint look
//! idle. Such a count is kept here until the request has probably ended: after the usual duration
//! of the pool's requests, or earlier when the engine's gauges show less work than we account for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use scheduling::{Moment, PoolName, Snapshot};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::duplicates::Shared;
use crate::fleet::Fleet;

/// Weight of the newest duration in the average: the last twenty requests or so decide.
const NEWEST: f64 = 0.05;

/// How often the gauges are asked whether held requests have ended, while there are any.
const CHECK: Duration = Duration::from_secs(1);

/// Keeps counts whose streams have ended, for an estimate.
#[derive(Debug)]
pub struct Holder {
    state: Mutex<State>,
    added: Notify,
    default: Duration,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    /// By the time of release; the number tells apart those of one instant.
    held: BTreeMap<(Instant, u64), Held>,
    next: u64,
    /// Average seconds from answer to end, of requests whose end was seen.
    durations: HashMap<PoolName, f64>,
    /// The scrape that was last used to release early, by endpoint.
    used: HashMap<SocketAddr, Moment>,
}

#[derive(Debug)]
struct Held {
    _picked: Shared,
    pool: PoolName,
    address: SocketAddr,
    since: Moment,
}

impl Holder {
    /// Holds for `default` as long as no request of a pool was seen to its end; at most `capacity` counts.
    #[must_use]
    pub fn new(default: Duration, capacity: usize) -> Self {
        Self { state: Mutex::default(), added: Notify::new(), default, capacity }
    }

    /// A request of `pool` took `duration` from its answer to its real end.
    pub fn observe(&self, pool: &PoolName, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let mut state = self.state.lock();
        match state.durations.get_mut(pool) {
            Some(average) => *average += (seconds - *average) * NEWEST,
            None => {
                state.durations.insert(pool.clone(), seconds);
            }
        }
    }

    /// Keeps the count of a request that was answered at `answered` and may still be served. When
    /// there are too many, the one that is due next ends now.
    pub fn hold(&self, picked: Shared, answered: Instant, now: Moment) {
        let decision = Arc::clone(&picked.lock().decision);
        let Some(address) = decision.endpoint().map(|endpoint| endpoint.address) else { return };
        let pool = decision.report.pool.clone();
        let mut state = self.state.lock();
        let estimate = state
            .durations
            .get(&pool)
            .and_then(|seconds| Duration::try_from_secs_f64(*seconds).ok())
            .unwrap_or(self.default);
        let number = state.next;
        state.next += 1;
        state.held.insert((answered + estimate, number), Held { _picked: picked, pool, address, since: now });
        if state.held.len() > self.capacity {
            state.held.pop_first();
        }
        drop(state);
        self.added.notify_one();
    }

    /// How many counts are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the counts whose time is over at `now`, and those that the gauges in `snapshot` disprove.
    pub fn release(&self, now: Instant, snapshot: &Snapshot) {
        let mut state = self.state.lock();
        let later = state.held.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.held, later);
        let disproved = state.disproved(snapshot);
        drop(state);
        drop((due, disproved));
    }

    /// Releases in time until `stop`. Run once, beside the service.
    pub async fn run(&self, fleet: &Fleet, stop: CancellationToken) {
        loop {
            let next = self.state.lock().held.first_key_value().map(|((due, _), _)| *due);
            let now = Instant::now();
            // Without anything held there is nothing to check until something is added.
            let wait = async {
                match next {
                    Some(due) => tokio::time::sleep_until(due.min(now + CHECK).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.added.notified() => {}
                () = wait => self.release(Instant::now(), &fleet.snapshot()),
            }
        }
    }
}

impl State {
    /// Takes out the oldest held counts of each endpoint whose engine had less work at its last
    /// scrape than we had in flight there. Each scrape is used once.
    fn disproved(&mut self, snapshot: &Snapshot) -> Vec<Held> {
        let mut surplus: HashMap<SocketAddr, (u32, Moment)> = HashMap::new();
        let mut addresses = HashSet::new();
        for held in self.held.values() {
            addresses.insert(held.address);
            if surplus.contains_key(&held.address) {
                continue;
            }
            let Some(pool) = snapshot.pools.get(&held.pool) else { continue };
            let found = pool.endpoints.binary_search_by_key(&held.address, |endpoint| endpoint.address);
            let gauges = found.ok().and_then(|index| pool.endpoints.get(index)).and_then(|it| it.gauges.as_ref());
            let Some(gauges) = gauges else { continue };
            if self.used.get(&held.address).is_none_or(|used| *used < gauges.read_at) {
                let working = gauges.running.saturating_add(gauges.waiting);
                surplus.insert(held.address, (gauges.in_flight_then.saturating_sub(working), gauges.read_at));
            }
        }
        let mut ended = Vec::new();
        for (key, held) in &self.held {
            if let Some((count, read_at)) = surplus.get_mut(&held.address)
                && *count > 0
                && held.since < *read_at
            {
                *count -= 1;
                ended.push(*key);
            }
        }
        self.used.retain(|address, _| addresses.contains(address));
        self.used.extend(surplus.into_iter().map(|(address, (_, read_at))| (address, read_at)));
        ended.into_iter().filter_map(|key| self.held.remove(&key)).collect()
    }
}

#[cfg(test)]
mod tests;
