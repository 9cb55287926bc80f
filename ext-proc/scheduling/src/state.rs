//! The mutable side: events in, snapshots out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::{EngineKind, Gauges};
use crate::moment::Moment;
use crate::prefix::PrefixIndex;
use crate::routing::{ModelRoute, ModelServer};
use crate::snapshot::{PoolName, Snapshot};

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
}

impl State {
    /// A fleet of which nothing is known yet.
    #[must_use]
    pub fn new(prefixes: Arc<PrefixIndex>) -> Self {
        Self { snapshot: Arc::new(Snapshot { prefixes, ..Snapshot::default() }) }
    }

    /// Takes in one fact. Returns whether the snapshot changed.
    pub fn apply(&mut self, now: Moment, event: Event) -> bool {
        let _ = (now, event);
        false
    }

    /// The fleet at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }
}
