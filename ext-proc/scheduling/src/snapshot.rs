//! Everything the brain may know, at one moment. Readers hold an `Arc` and wait for nobody.

use std::collections::BTreeMap;
use std::fmt;
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
    /// The ModelRoutes and ModelServers that concern this pool.
    pub routing: Arc<Routing>,
}
