//! The mutable side: events in, snapshots out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use crate::disaggregation::Role;
use crate::endpoint::{Endpoint, EngineKind, Gauges, Slot};
use crate::load::Load;
use crate::moment::Moment;
use crate::prefix::PrefixIndex;
use crate::routing::{ModelRoute, ModelServer, Routing};
use crate::snapshot::{Pool, PoolName, Snapshot};

/// A fact that can change a decision. The whole list of them.
#[derive(Clone, Debug)]
pub enum Event {
    /// What files or the cluster declare, complete: what is missing from it has left.
    Declared(Declared),
    /// An engine answered a scrape.
    Scraped {
        /// The endpoint.
        address: SocketAddr,
        /// What it said.
        gauges: Gauges,
    },
    /// An engine did not answer a scrape: its gauges stay, and age.
    ScrapeFailed {
        /// The endpoint.
        address: SocketAddr,
    },
}

/// The declared state of the world, from files or from the cluster.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// The pools, with their endpoints.
    pub pools: Vec<DeclaredPool>,
    /// Every (prefill pod, port) of ModelServers with a `pdGroup`, whether or not a pool selects it.
    /// The port is the server's; without one, every port of the pool that the server concerns.
    pub workers: Vec<DeclaredEndpoint>,
    /// All ModelServers.
    pub model_servers: Vec<ModelServer>,
    /// All ModelRoutes.
    pub model_routes: Vec<ModelRoute>,
}

/// One InferencePool with what its selector selects.
#[derive(Clone, Debug)]
pub struct DeclaredPool {
    /// The pool's name.
    pub name: PoolName,
    /// The picker Service and port that it names.
    pub picker: Option<(Arc<str>, Option<u16>)>,
    /// Every (pod, target port).
    pub endpoints: Vec<DeclaredEndpoint>,
}

/// One (pod, target port).
#[derive(Clone, Debug)]
pub struct DeclaredEndpoint {
    /// The pod's address and the port.
    pub address: SocketAddr,
    /// `namespace/pod`.
    pub name: Arc<str>,
    /// The pod's labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Ready and not being deleted.
    pub ready: bool,
    /// Which engine; from the ModelServer that selects the pod, else the default.
    pub engine: EngineKind,
}

/// The mutable side of the fleet. Not shared: its owner publishes [`State::snapshot`].
#[derive(Debug)]
pub struct State {
    snapshot: Arc<Snapshot>,
    endpoints: BTreeMap<SocketAddr, Known>,
    /// The loads of endpoints that have left and still have requests in flight: one that comes back
    /// takes its load up again.
    departed: BTreeMap<SocketAddr, Weak<Load>>,
    /// Slots that were given and are free again.
    free_slots: Vec<Slot>,
    slots: u32,
}

/// An endpoint, and the pools that it is in.
#[derive(Debug)]
struct Known {
    endpoint: Arc<Endpoint>,
    pools: Vec<PoolName>,
}

impl State {
    /// A fleet of which nothing is known yet.
    #[must_use]
    pub fn new(prefixes: Arc<PrefixIndex>) -> Self {
        Self {
            snapshot: Arc::new(Snapshot { prefixes, ..Snapshot::default() }),
            endpoints: BTreeMap::new(),
            departed: BTreeMap::new(),
            free_slots: Vec::new(),
            slots: 0,
        }
    }

    /// Takes in one fact. Returns whether the snapshot changed.
    pub fn apply(&mut self, _now: Moment, event: Event) -> bool {
        match event {
            Event::Declared(declared) => self.declare(declared),
            Event::Scraped { address, gauges } => return self.scraped(address, gauges),
            // The gauges stay and age: a failed scrape says nothing about the load.
            Event::ScrapeFailed { .. } => return false,
        }
        true
    }

    /// The fleet at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    fn declare(&mut self, declared: Declared) {
        let mut servers: Vec<_> = declared.model_servers.into_iter().map(Arc::new).collect();
        servers.sort_by(|one, other| one.name.cmp(&other.name));
        let routes: Vec<_> = declared.model_routes.into_iter().map(Arc::new).collect();

        let mut before = std::mem::take(&mut self.endpoints);
        let mut pools = BTreeMap::new();
        for mut pool in declared.pools {
            let mut endpoints = Vec::with_capacity(pool.endpoints.len());
            for declared in std::mem::take(&mut pool.endpoints) {
                let known = self.know(declared, &mut before, &servers);
                if !known.pools.contains(&pool.name) {
                    known.pools.push(pool.name.clone());
                    endpoints.push(Arc::clone(&known.endpoint));
                }
            }
            endpoints.sort_by_key(|endpoint| endpoint.address);
            let prefills = self.prefills(&pool.name, &endpoints, &declared.workers, &mut before, &servers);
            let routing = Arc::new(Routing::of_pool(&pool.name.namespace, &endpoints, &prefills, &servers, &routes));
            let DeclaredPool { name, picker, .. } = pool;
            let pool = Pool { name: name.clone(), picker, endpoints: endpoints.into(), prefills, routing };
            pools.insert(name, Arc::new(pool));
        }
        self.departed.retain(|_, load| load.strong_count() > 0);
        for (address, Known { endpoint, .. }) in before {
            self.snapshot.forget(endpoint.slot);
            self.free_slots.push(endpoint.slot);
            if endpoint.load.requests() > 0 {
                self.departed.insert(address, Arc::downgrade(&endpoint.load));
            }
        }
        self.snapshot = Arc::new(Snapshot {
            generation: self.snapshot.generation + 1,
            known: true,
            pools,
            prefixes: Arc::clone(&self.snapshot.prefixes),
            kv: Arc::clone(&self.snapshot.kv),
        });
    }

    /// The endpoint at a declared address: the one that is known by now, or was known before, or a new
    /// one.
    fn know(
        &mut self,
        declared: DeclaredEndpoint,
        before: &mut BTreeMap<SocketAddr, Known>,
        servers: &[Arc<ModelServer>],
    ) -> &mut Known {
        let vacant = match self.endpoints.entry(declared.address) {
            Entry::Occupied(known) => return known.into_mut(),
            Entry::Vacant(vacant) => vacant,
        };
        let endpoint = match before.remove(&declared.address) {
            Some(known) => renew(&known.endpoint, declared, servers, &self.snapshot),
            None => {
                let load = self.departed.remove(&declared.address).and_then(|load| load.upgrade());
                let slot = self.free_slots.pop().unwrap_or_else(|| {
                    self.slots += 1;
                    Slot(self.slots - 1)
                });
                // Again: a request of the slot's last owner may have been learned late.
                self.snapshot.forget(slot);
                Arc::new(newcomer(declared, slot, load.unwrap_or_default(), servers))
            }
        };
        vacant.insert(Known { endpoint, pools: Vec::new() })
    }

    /// The prefill endpoints of each server with a `pdGroup` that selects one of the pool's `endpoints`.
    fn prefills(
        &mut self,
        pool: &PoolName,
        endpoints: &[Arc<Endpoint>],
        workers: &[DeclaredEndpoint],
        before: &mut BTreeMap<SocketAddr, Known>,
        servers: &[Arc<ModelServer>],
    ) -> BTreeMap<Arc<str>, Arc<[Arc<Endpoint>]>> {
        let mut prefills = BTreeMap::new();
        let concerns = |server: &ModelServer| endpoints.iter().any(|endpoint| server.selects(endpoint));
        for server in servers.iter().filter(|server| server.pd_group.is_some() && concerns(server)) {
            let on_port = |port: u16| match server.port {
                Some(its) => its == port,
                None => endpoints.iter().any(|endpoint| endpoint.address.port() == port),
            };
            let mut its: BTreeMap<SocketAddr, Arc<Endpoint>> = BTreeMap::new();
            for worker in workers {
                let role = server.role_of_pod(&worker.name, &worker.labels);
                if role != Some(Role::Prefill) || !on_port(worker.address.port()) {
                    continue;
                }
                let known = self.know(worker.clone(), before, servers);
                // The address may be known as another pod's.
                if server.role(&known.endpoint) == Some(Role::Prefill) {
                    if !known.pools.contains(pool) {
                        known.pools.push(pool.clone());
                    }
                    its.insert(worker.address, Arc::clone(&known.endpoint));
                }
            }
            prefills.insert(Arc::clone(&server.name), its.into_values().collect());
        }
        prefills
    }

    fn scraped(&mut self, address: SocketAddr, gauges: Gauges) -> bool {
        let Some(known) = self.endpoints.get_mut(&address) else { return false };
        if known.endpoint.gauges.as_ref().is_some_and(|before| before.read_at > gauges.read_at) {
            return false;
        }
        if let Some(step) = gauges.time_per_output_token {
            known.endpoint.load.rates().observe_decode(step);
        }
        if let Some((tokens, took)) = gauges.prefilled {
            known.endpoint.load.rates().observe_prefill(tokens, took);
        }
        known.endpoint = Arc::new(Endpoint { gauges: Some(gauges), ..Endpoint::clone(&known.endpoint) });
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for name in &known.pools {
            let Some(pool) = snapshot.pools.get_mut(name) else { continue };
            let pool = Arc::make_mut(pool);
            for endpoints in std::iter::once(&mut pool.endpoints).chain(pool.prefills.values_mut()) {
                if let Ok(index) = endpoints.binary_search_by_key(&address, |endpoint| endpoint.address)
                    && let Some(endpoint) = Arc::make_mut(endpoints).get_mut(index)
                {
                    *endpoint = Arc::clone(&known.endpoint);
                }
            }
        }
        self.snapshot = Arc::new(snapshot);
        true
    }
}

fn newcomer(declared: DeclaredEndpoint, slot: Slot, load: Arc<Load>, servers: &[Arc<ModelServer>]) -> Endpoint {
    let DeclaredEndpoint { address, name, labels, ready, engine } = declared;
    let mut endpoint = Endpoint { address, slot, name, labels, ready, engine, gauges: None, load };
    if let Some(server) = servers.iter().find(|server| server.selects(&endpoint)) {
        endpoint.engine = server.engine;
    }
    endpoint
}

/// The endpoint as it is declared now. Another pod at the address starts anew, except for what is in
/// flight there: streams to the old one end soon, and until then they are somebody's load.
fn renew(
    before: &Arc<Endpoint>,
    declared: DeclaredEndpoint,
    servers: &[Arc<ModelServer>],
    snapshot: &Snapshot,
) -> Arc<Endpoint> {
    let mut endpoint = newcomer(declared, before.slot, Arc::clone(&before.load), servers);
    if endpoint.name != before.name || endpoint.labels != before.labels {
        snapshot.prefixes.forget(before.slot);
        if endpoint.name != before.name {
            snapshot.kv.forget(before.slot, None);
        }
        before.load.forgive();
        return Arc::new(endpoint);
    }
    if endpoint.ready && !before.ready {
        before.load.forgive();
    }
    if endpoint.ready == before.ready && endpoint.engine == before.engine {
        return Arc::clone(before);
    }
    endpoint.gauges.clone_from(&before.gauges);
    Arc::new(endpoint)
}

#[cfg(test)]
mod tests;
