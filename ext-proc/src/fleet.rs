//! The live fleet: the one place where the clock and chance meet the brain.
//!
//! Every change is one [`Event`] through [`Fleet::apply`]; readers take an [`Arc`] of a snapshot.
//! A pick chooses and counts under its pool's lock, so that a thousand picks at once still see
//! each other and least-request stays exact. Nothing awaits under a lock.

#[cfg(test)]
pub(crate) mod fixtures;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduling::kv::KvIndex;
use scheduling::{
    Decision, Endpoint, Event, InFlight, Moment, Pool, PoolName, PrefixIndex, Profile, Refusal, RefusalKind, Request,
    Slot, Snapshot, State, Verdict, WhatIf, WhatIfError, schedule,
};
use tokio::sync::watch;
use tracing::warn;

use crate::kv_events::subscriber::same;

/// The lock of each pool, which also holds its source of chance. Read without a lock of its own.
type Locks = HashMap<PoolName, Arc<Mutex<SmallRng>>, foldhash::fast::RandomState>;

/// The live state that all exchanges share.
#[derive(Debug)]
pub struct Fleet {
    started: Instant,
    state: Mutex<State>,
    snapshot: ArcSwap<Snapshot>,
    profile: ArcSwap<Profile>,
    locks: ArcSwap<Locks>,
    declared: watch::Sender<u64>,
}

impl Fleet {
    /// A fleet of which nothing is known yet.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        let state = State::new(Arc::new(PrefixIndex::default()));
        Self {
            started: Instant::now(),
            snapshot: ArcSwap::new(state.snapshot()),
            state: Mutex::new(state),
            profile: ArcSwap::from_pointee(profile),
            locks: ArcSwap::default(),
            declared: watch::Sender::default(),
        }
    }

    /// Now, as the brain counts time.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::after(self.started.elapsed())
    }

    /// Takes in one fact and publishes what follows from it.
    pub fn apply(&self, event: Event) {
        let mut state = self.state.lock();
        if state.apply(self.now(), event) {
            let snapshot = state.snapshot();
            self.fit_locks(&snapshot);
            let generation = snapshot.generation;
            self.snapshot.store(snapshot);
            self.declared.send_if_modified(|declared| std::mem::replace(declared, generation) != generation);
        }
    }

    /// A lock for each pool of the snapshot; the ones that exist stay the same.
    fn fit_locks(&self, snapshot: &Snapshot) {
        let locks = self.locks.load();
        if locks.len() == snapshot.pools.len() && snapshot.pools.keys().all(|pool| locks.contains_key(pool)) {
            return;
        }
        let lock = |pool: &PoolName| locks.get(pool).cloned().unwrap_or_else(new_rng);
        self.locks.store(Arc::new(snapshot.pools.keys().map(|pool| (pool.clone(), lock(pool))).collect()));
    }

    /// Wakes whoever follows what is declared; its value is the generation of the last snapshot.
    #[must_use]
    pub fn declared(&self) -> watch::Receiver<u64> {
        self.declared.subscribe()
    }

    /// The fleet at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether a declared state was ever seen: before it, no decision can be made.
    #[must_use]
    pub fn known(&self) -> bool {
        self.snapshot.load().known
    }

    /// Replaces what decides.
    pub fn set_profile(&self, profile: Profile) {
        self.profile.store(Arc::new(profile));
    }

    /// What decides now.
    #[must_use]
    pub fn profile(&self) -> Arc<Profile> {
        self.profile.load_full()
    }

    /// Chooses for `request` and counts it, until the [`Picked`] is dropped.
    ///
    /// # Errors
    /// The brain's [`Refusal`], or [`RefusalKind::UnknownPool`].
    pub fn pick(&self, pool: &PoolName, request: &Request<'_>) -> Result<Picked, Refusal> {
        let lock = self.locks.load().get(pool).cloned().ok_or_else(|| unknown(pool))?;
        let profile = self.profile.load_full();
        let mut rng = lock.lock();
        let snapshot = self.snapshot.load_full();
        let pool = find(&snapshot, pool)?;
        let decision = schedule(&profile, &snapshot, pool, request, self.now(), &mut *rng)?;
        let picked = Picked::again(Arc::new(decision));
        picked.ok_or_else(|| RefusalKind::NoneReady(pool.name.to_string()).into())
    }

    /// Remembers that the endpoint at `address` now holds the decision's prompt: whoever computed it,
    /// and a decode endpoint that it was transferred to.
    ///
    /// The snapshot is the newest: an endpoint that has left, whose slot may be another's by now,
    /// learns nothing.
    pub fn learn(&self, decision: &Decision, address: SocketAddr) {
        let profile = self.profile.load();
        let cache = profile.prefix_cache_for(decision).filter(|_| !decision.blocks.is_empty());
        let Some(cache) = cache else { return };
        let snapshot = self.snapshot.load();
        let served = snapshot.pools.get(&decision.report.pool).and_then(|pool| pool.endpoint(address));
        if let Some(endpoint) = served {
            snapshot.prefixes.learn(endpoint.slot, &decision.blocks, cache.capacity());
        }
    }

    /// Changes what is believed of the blocks at `endpoint`, while its slot cannot become another's; `None`
    /// when it has left or is another pod by now.
    pub fn change_blocks<T>(&self, endpoint: &Endpoint, change: impl FnOnce(&KvIndex, Slot) -> T) -> Option<T> {
        let _slots_stay = self.state.lock();
        let snapshot = self.snapshot.load();
        let now = snapshot.pools.values().find_map(|pool| pool.endpoint(endpoint.address));
        let now = now.filter(|now| same(now, endpoint))?;
        Some(change(&snapshot.kv, now.slot))
    }

    /// Takes in how a request ended at the endpoint at `address`, a prefill call too: `ok` unless no
    /// connection came about or the answer was a 5xx. One that fails again and again becomes a last
    /// resort for a while.
    pub fn outcome(&self, pool: &PoolName, address: SocketAddr, ok: bool) {
        let snapshot = self.snapshot.load();
        let Some(endpoint) = snapshot.pools.get(pool).and_then(|pool| pool.endpoint(address)) else { return };
        if let Some(time) = endpoint.load.outcome(ok, self.now()) {
            warn!(%address, seconds = time.as_secs(), "An endpoint fails its requests and is a last resort for a while.");
        }
    }

    /// Chooses for `request` as things are, or as they would be after a change, without counting or learning
    /// anything. The inner result is as of [`Fleet::pick`].
    ///
    /// # Errors
    /// A change that cannot be tried.
    pub fn dry_run(
        &self,
        pool: &PoolName,
        request: &Request<'_>,
        what_if: &WhatIf,
    ) -> Result<Result<Decision, Refusal>, WhatIfError> {
        let snapshot = self.snapshot.load_full();
        let Some(pool) = snapshot.pools.get(pool) else { return Ok(Err(unknown(pool))) };
        let (pool, profile) = (what_if.pool(pool)?, what_if.profile(&self.profile.load_full())?);
        Ok(schedule(&profile, &snapshot, &pool, request, self.now(), &mut SmallRng::from_os_rng()))
    }
}

fn new_rng() -> Arc<Mutex<SmallRng>> {
    Arc::new(Mutex::new(SmallRng::from_os_rng()))
}

fn find<'a>(snapshot: &'a Snapshot, pool: &PoolName) -> Result<&'a Arc<Pool>, Refusal> {
    snapshot.pools.get(pool).ok_or_else(|| unknown(pool))
}

fn unknown(pool: &PoolName) -> Refusal {
    RefusalKind::UnknownPool(format!("`{pool}` is not declared")).into()
}

/// A decision whose request is counted: at its endpoint, and at its prefill endpoint while that works.
#[derive(Debug)]
pub struct Picked {
    /// The decision.
    pub decision: Arc<Decision>,
    in_flight: InFlight,
    prefill: Option<InFlight>,
}

impl Picked {
    /// Counts the request of a decision. Once more, when the decision is the answer to a repetition of
    /// the request.
    #[must_use]
    pub fn again(decision: Arc<Decision>) -> Option<Self> {
        let in_flight = decision.endpoint()?.load.begin(decision.uncached_tokens);
        let prefill = decision.disaggregation.as_ref().and_then(|disaggregation| {
            let first = disaggregation.prefills.first()?;
            Some(first.load.begin(disaggregation.uncached_tokens))
        });
        Some(Self { decision, in_flight, prefill })
    }

    /// The data plane says that `address` served: load moves there. What the endpoint now holds is
    /// learned with [`Fleet::learn`].
    pub fn served_by(&mut self, snapshot: &Snapshot, address: SocketAddr) {
        let pool = snapshot.pools.get(&self.decision.report.pool);
        let served = pool.and_then(|pool| pool.endpoint(address));
        if let Some(endpoint) = served {
            self.in_flight.move_to(&endpoint.load);
        }
    }

    /// The prefill call goes to this endpoint: load moves there, or begins there when the request is
    /// prefilled once more.
    pub fn prefill_at(&mut self, endpoint: &Endpoint) {
        let tokens = self.decision.disaggregation.as_ref().map_or(0, |disaggregation| disaggregation.uncached_tokens);
        match &mut self.prefill {
            Some(prefill) => prefill.move_to(&endpoint.load),
            None => self.prefill = Some(endpoint.load.begin(tokens)),
        }
    }

    /// The prefill call has ended, well or badly: its load goes. Where it went well, both endpoints
    /// learn ([`Fleet::learn`]): the blocks are at both.
    pub fn prefill_done(&mut self) {
        self.prefill = None;
    }

    /// Prefill failed for good, and the decode endpoint computes the prompt itself: that is its load.
    pub fn decode_alone(&mut self) {
        self.prefill = None;
        let verdict = self.decision.disaggregation.as_ref().map(|disaggregation| disaggregation.verdict);
        if let Some(Verdict::Disaggregate { uncached_tokens }) = verdict {
            self.in_flight.recount(uncached_tokens);
        }
    }
}

#[cfg(test)]
mod tests;
