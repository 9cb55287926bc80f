//! Everything the brain may know, at one moment. Readers hold an `Arc` and wait for nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::{Endpoint, Slot};
use crate::kv::KvIndex;
use crate::prefix::PrefixIndex;
use crate::routing::Routing;

/// `namespace/name` of an InferencePool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolName {
    /// The pool's namespace.
    pub namespace: Arc<str>,
    /// The pool's name.
    pub name: Arc<str>,
}

impl PoolName {
    /// The name of the pool `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// All pools at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the declared states: it grows with every [`crate::Event::Declared`].
    pub generation: u64,
    /// Whether a declared state was ever seen: before it, the picker is not ready.
    pub known: bool,
    /// The pools by name.
    pub pools: BTreeMap<PoolName, Arc<Pool>>,
    /// Which endpoint probably holds which prompt prefix. Live: shared by all snapshots.
    pub prefixes: Arc<PrefixIndex>,
    /// Which endpoint holds which blocks, as the engines say. Live: shared by all snapshots.
    pub kv: Arc<KvIndex>,
}

impl Snapshot {
    /// The sizes of blocks, in tokens, that engines of `pool` store, ascending ([`KvIndex::block_sizes`]).
    #[must_use]
    pub fn block_sizes(&self, pool: &Pool) -> Vec<u32> {
        let slots: Vec<Slot> = pool.all_endpoints().map(|endpoint| endpoint.slot).collect();
        self.kv.block_sizes(&slots)
    }

    /// Forgets what was in the caches of the endpoint that has, or had, this slot.
    pub(crate) fn forget(&self, slot: Slot) {
        self.prefixes.forget(slot);
        self.kv.forget(slot, None);
    }
}

/// One pool at one moment.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The pool's name.
    pub name: PoolName,
    /// The picker Service that the pool names (`endpointPickerRef`): name and port. It tells which
    /// pool a stream is about.
    pub picker: Option<(Arc<str>, Option<u16>)>,
    /// Every (pod, target port), sorted by address; also the ones that are not ready.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// The prefill endpoints of each ModelServer with a `pdGroup` that concerns this pool, by the
    /// server's `namespace/name`, sorted by address. The pool itself need not select them.
    pub prefills: BTreeMap<Arc<str>, Arc<[Arc<Endpoint>]>>,
    /// The ModelRoutes and ModelServers that concern this pool.
    pub routing: Arc<Routing>,
}

impl Pool {
    /// The pool's endpoints, then the prefill endpoints that are not among them; each once.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let prefills = self.prefills.values().enumerate().flat_map(move |(place, prefills)| {
            let earlier = move |address| {
                find(&self.endpoints, address).is_some()
                    || self.prefills.values().take(place).any(|prefills| find(prefills, address).is_some())
            };
            prefills.iter().filter(move |endpoint| !earlier(endpoint.address))
        });
        self.endpoints.iter().chain(prefills)
    }

    /// The endpoint at the address, a prefill endpoint too.
    #[must_use]
    pub fn endpoint(&self, address: SocketAddr) -> Option<&Arc<Endpoint>> {
        let prefill = || self.prefills.values().find_map(|prefills| find(prefills, address));
        find(&self.endpoints, address).or_else(prefill)
    }
}

/// The endpoint at the address, in a list that is sorted by address.
fn find(endpoints: &[Arc<Endpoint>], address: SocketAddr) -> Option<&Arc<Endpoint>> {
    let index = endpoints.binary_search_by_key(&address, |endpoint| endpoint.address).ok()?;
    endpoints.get(index)
}
