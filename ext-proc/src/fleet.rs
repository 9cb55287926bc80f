//! The live fleet: the one place where the clock and chance meet the brain.
//!
//! Every change is one [`Event`] through [`Fleet::apply`]; readers take an [`Arc`] of a snapshot.
//! A pick chooses and counts under its pool's lock, so that a thousand picks at once still see
//! each other and least-request stays exact. Nothing awaits under a lock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduling::{
    Decision, Event, InFlight, Moment, Pool, PoolName, PrefixIndex, Profile, Refusal, RefusalKind, Request, Snapshot,
    State, schedule,
};

/// The live state that all exchanges share.
#[derive(Debug)]
pub struct Fleet {
    started: Instant,
    state: Mutex<State>,
    snapshot: ArcSwap<Snapshot>,
    profile: ArcSwap<Profile>,
    locks: Mutex<BTreeMap<PoolName, Arc<Mutex<SmallRng>>>>,
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
            locks: Mutex::default(),
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
            self.locks.lock().retain(|pool, _| snapshot.pools.contains_key(pool));
            self.snapshot.store(snapshot);
        }
    }

    /// The fleet at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
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
        let lock = Arc::clone(self.locks.lock().entry(pool.clone()).or_insert_with(new_rng));
        let profile = self.profile.load_full();
        let mut rng = lock.lock();
        let snapshot = self.snapshot.load_full();
        let pool = find(&snapshot, pool)?;
        let decision = schedule(&profile, &snapshot, pool, request, self.now(), &mut *rng)?;
        let in_flight = decision
            .endpoint()
            .ok_or_else(|| RefusalKind::NoneReady(pool.name.to_string()))?
            .load
            .begin(decision.uncached_tokens);
        Ok(Picked { decision: Arc::new(decision), in_flight })
    }

    /// Chooses for `request` without counting or learning anything.
    ///
    /// # Errors
    /// As [`Fleet::pick`].
    pub fn dry_run(&self, pool: &PoolName, request: &Request<'_>) -> Result<Decision, Refusal> {
        let snapshot = self.snapshot.load_full();
        let pool = find(&snapshot, pool)?;
        schedule(&self.profile.load_full(), &snapshot, pool, request, self.now(), &mut SmallRng::from_os_rng())
    }
}

fn new_rng() -> Arc<Mutex<SmallRng>> {
    Arc::new(Mutex::new(SmallRng::from_os_rng()))
}

fn find<'a>(snapshot: &'a Snapshot, pool: &PoolName) -> Result<&'a Arc<Pool>, Refusal> {
    snapshot.pools.get(pool).ok_or_else(|| RefusalKind::UnknownPool(format!("`{pool}` is not declared")).into())
}

/// A decision whose request is counted at its endpoint.
#[derive(Debug)]
pub struct Picked {
    /// The decision.
    pub decision: Arc<Decision>,
    in_flight: InFlight,
}

impl Picked {
    /// The data plane says that `address` served: load moves there. What the endpoint now holds is
    /// learned with [`Fleet::learn`].
    pub fn served_by(&mut self, snapshot: &Snapshot, address: SocketAddr) {
        let served = snapshot.pools.get(&self.decision.report.pool).and_then(|pool| {
            let index = pool.endpoints.binary_search_by_key(&address, |endpoint| endpoint.address).ok()?;
            pool.endpoints.get(index)
        });
        if let Some(endpoint) = served {
            self.in_flight.move_to(&endpoint.load);
        }
    }
}
