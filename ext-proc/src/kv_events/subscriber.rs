//! Follows the fleet: one subscription for each data-parallel rank of each endpoint, while the profile
//! asks for exact knowledge of caches.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, AbortRegistration, Abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::stream::SelectAll;
use scheduling::{Endpoint, Profile};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use super::callers::{Caller, Callers, callers};
use super::metrics::KvMetrics;
use super::rank::{Events, Heard, Rank};
use crate::fleet::Fleet;

/// How often the fleet and the profile are looked at for what has changed.
const TICK: Duration = Duration::from_millis(100);

/// As [`TICK`], while nobody wants KV events.
const SLOW_TICK: Duration = Duration::from_secs(1);

/// Replays at once, all engines together: each brings up to ten thousand batches.
const REPLAYS: usize = 8;

/// Where engines publish, on each pod's address. Rank n does so n ports above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// vLLM's `endpoint` of `--kv-events-config`: `tcp://*:5557`.
    pub port: u16,
    /// vLLM's `replay_endpoint`; `None` where engines have none.
    pub replay_port: Option<u16>,
    /// Only topics that begin so.
    pub topic: Arc<str>,
    /// Data-parallel ranks in an endpoint, at least one.
    pub ranks: u16,
}

/// Ports that cannot all be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// The ranks need more ports than there are.
    #[error("--kv-events-ranks {0} reaches beyond port 65535: lower {1}")]
    Beyond(u16, &'static str),
    /// One port would have to publish and to repeat.
    #[error("the ports of --kv-events-port and --kv-replay-port overlap for {0} ranks: set them at least {0} apart")]
    Overlap(u16),
}

impl Sources {
    /// Whether every rank has ports of its own.
    ///
    /// # Errors
    /// [`SourcesError`], which names the flag to change.
    pub fn check(&self) -> Result<(), SourcesError> {
        let last = self.ranks.saturating_sub(1);
        self.port.checked_add(last).ok_or(SourcesError::Beyond(self.ranks, "--kv-events-port"))?;
        let Some(replay_port) = self.replay_port else { return Ok(()) };
        replay_port.checked_add(last).ok_or(SourcesError::Beyond(self.ranks, "--kv-replay-port"))?;
        if self.port.abs_diff(replay_port) < self.ranks {
            return Err(SourcesError::Overlap(self.ranks));
        }
        Ok(())
    }
}

/// Subscribes to the engines' KV events.
pub struct Subscriber {
    fleet: Arc<Fleet>,
    wanted: Box<dyn Fn(&Profile) -> bool + Send + Sync>,
    sources: Sources,
    metrics: Arc<KvMetrics>,
    turns: Arc<Semaphore>,
    targets: HashMap<(SocketAddr, u32), Target>,
    /// Where the engines connect; `None`: they are connected to.
    callers: Option<SelectAll<Callers>>,
    /// The generation of the snapshot that was last followed, and whether the profile wanted it then.
    seen: Option<(u64, bool)>,
}

/// A rank that is followed until this is dropped.
struct Target {
    endpoint: Arc<Endpoint>,
    /// Takes connections that the engine made.
    calls: Option<mpsc::Sender<Heard>>,
    follower: AbortHandle,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Subscriber").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Subscriber {
    /// Subscribes to what the endpoints of `fleet` publish at `sources`, while its profile is such that it is
    /// `wanted`.
    #[must_use]
    pub fn new(
        fleet: Arc<Fleet>,
        sources: Sources,
        metrics: Arc<KvMetrics>,
        wanted: impl Fn(&Profile) -> bool + Send + Sync + 'static,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(REPLAYS));
        let (wanted, targets) = (Box::new(wanted), HashMap::new());
        Self { fleet, wanted, sources, metrics, turns, targets, callers: None, seen: None }
    }

    /// Waits at these listeners, one for each rank, for engines that connect, instead of connecting to them:
    /// vLLM's publisher connects where its `endpoint` names a host.
    #[must_use]
    pub fn called_at(mut self, listeners: Vec<TcpListener>) -> Self {
        let caller =
            |(rank, listener)| callers(rank, listener, Arc::clone(&self.sources.topic), Arc::clone(&self.fleet));
        self.callers = Some((0..).zip(listeners).map(caller).collect());
        self
    }

    /// Follows for ever.
    pub async fn run(mut self) {
        let mut followers = FuturesUnordered::new();
        loop {
            for (rank, events, registration) in self.follow_fleet() {
                followers.push(Abortable::new(rank.follow(events), registration));
            }
            let wanted = self.seen.is_some_and(|(_, wanted)| wanted);
            let tick = tokio::time::sleep(if wanted { TICK } else { SLOW_TICK });
            tokio::pin!(tick);
            // Followers that were aborted end; the others never do.
            loop {
                tokio::select! {
                    () = &mut tick => break,
                    Some(_) = followers.next() => {}
                    Some(caller) = next(&mut self.callers), if wanted => {
                        self.answer(caller);
                    }
                }
            }
        }
    }

    /// Hands the connection to whoever follows the endpoint. Where that is nobody yet, or it has one to take
    /// up already, the connection ends, and the engine makes another.
    fn answer(&self, Caller { endpoint, rank, heard }: Caller) {
        let target = self.targets.get(&(endpoint.address, rank));
        if let Some(calls) = target.and_then(|target| target.calls.as_ref()) {
            let _ = calls.try_send(heard);
        }
    }

    /// Leaves endpoints that have left, and takes up those that came.
    fn follow_fleet(&mut self) -> Vec<(Rank, Events, AbortRegistration)> {
        let snapshot = self.fleet.snapshot();
        let wanted = (self.wanted)(&self.fleet.profile());
        if self.seen.replace((snapshot.generation, wanted)) == Some((snapshot.generation, wanted)) {
            return Vec::new();
        }
        let mut before = std::mem::take(&mut self.targets);
        let mut new = Vec::new();
        let endpoints = snapshot.pools.values().flat_map(|pool| pool.all_endpoints()).filter(|_| wanted);
        for endpoint in endpoints {
            for rank in 0..self.sources.ranks {
                let key = (endpoint.address, u32::from(rank));
                if self.targets.contains_key(&key) {
                    continue;
                }
                if let Some(target) = before.remove(&key).filter(|target| same(&target.endpoint, endpoint)) {
                    self.targets.insert(key, target);
                    continue;
                }
                let Some(events) = self.sources.port.checked_add(rank) else { continue };
                let replays = self.sources.replay_port.and_then(|port| port.checked_add(rank));
                let (follower, registration) = AbortHandle::new_pair();
                let address = |port| SocketAddr::new(endpoint.address.ip(), port);
                let rank = Rank {
                    fleet: Arc::clone(&self.fleet),
                    endpoint: Arc::clone(endpoint),
                    rank: rank.into(),
                    replays: replays.map(address),
                    topic: Arc::clone(&self.sources.topic),
                    turns: Arc::clone(&self.turns),
                    metrics: Arc::clone(&self.metrics),
                    state: self.metrics.follow(key.0, key.1),
                };
                let (calls, events) = match &self.callers {
                    None => (None, Events::At(address(events))),
                    Some(_) => {
                        let (calls, heard) = mpsc::channel(1);
                        (Some(calls), Events::Handed(heard))
                    }
                };
                new.push((rank, events, registration));
                self.targets.insert(key, Target { endpoint: Arc::clone(endpoint), calls, follower });
            }
        }
        for ((address, rank), target) in before {
            // The fleet forgets what has left; this is for a profile that no longer asks.
            self.fleet.change_blocks(&target.endpoint, |index, slot| index.forget(slot, Some(rank)));
            if !self.targets.contains_key(&(address, rank)) {
                self.metrics.leave(address, rank);
            }
        }
        new
    }
}

/// The next engine that connects, where any may.
async fn next(callers: &mut Option<SelectAll<Callers>>) -> Option<Caller> {
    match callers {
        Some(callers) => callers.next().await,
        None => std::future::pending().await,
    }
}

/// Whether it is the same pod, whose blocks are still believed: with another name, the fleet forgets them.
pub(crate) fn same(one: &Endpoint, other: &Endpoint) -> bool {
    one.slot == other.slot && one.name == other.name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(port: u16, replay_port: u16, ranks: u16) -> Result<(), String> {
        let replay_port = Some(replay_port).filter(|port| *port > 0);
        Sources { port, replay_port, topic: "".into(), ranks }.check().map_err(|error| error.to_string())
    }

    #[test]
    fn every_rank_has_ports_of_its_own() {
        assert_eq!(check(5557, 5558, 1), Ok(()));
        assert_eq!(check(5557, 5567, 8), Ok(()));
        assert_eq!(check(5557, 0, 8), Ok(()));
        assert!(check(5557, 5558, 2).unwrap_err().contains("at least 2 apart"));
        assert!(check(65535, 5558, 2).unwrap_err().contains("lower --kv-events-port"));
        assert!(check(5557, 65535, 2).unwrap_err().contains("lower --kv-replay-port"));
    }
}
