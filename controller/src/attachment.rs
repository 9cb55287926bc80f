//! ModelServers and ModelRoutes on their way to the Gateway API: what is known of them, and which to look at.
//!
//! What to write is decided in `planning::attachment`; [`servers`] and [`routes`] make the passes.

pub mod endpoints;
pub mod routes;
pub mod servers;
pub mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use controller_api::http_route::HttpRoute;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use parking_lot::Mutex;
use planning::attachment::selection::concerns;
use planning::attachment::{Settings, picker_endpoints, picker_service};

use crate::observe::store::{Asked, Key, Objects, Read, Told};
use crate::observe::tolerant::Tolerant;
use crate::queue::Queue;
use endpoints::Endpoints;

/// How long counts in a status may settle: a hundred pods that become ready one by one are few writes.
const SETTLE: Duration = Duration::from_secs(2);

/// Everything that is known, and which ModelServers and ModelRoutes to look at.
#[derive(Debug, Default)]
pub struct Attachments {
    servers: Mutex<Objects<ModelServer>>,
    routes: Mutex<Objects<ModelRoute>>,
    pools: Mutex<Objects<InferencePool>>,
    http_routes: Mutex<Objects<HttpRoute>>,
    pickers: Mutex<Objects<Service>>,
    /// Of single pools.
    services: Mutex<Objects<Service>>,
    /// Of the one picker that is in a namespace of its own.
    picker_slices: Mutex<Objects<EndpointSlice>>,
    /// Of single pools.
    slices: Mutex<Objects<EndpointSlice>>,
    endpoints: Mutex<Endpoints>,
    /// The cluster has InferencePools, HTTPRoutes.
    has_pools: AtomicBool,
    has_http_routes: AtomicBool,
    /// Those with ModelServers: their pods are watched.
    namespaces: tokio::sync::watch::Sender<BTreeSet<Arc<str>>>,
    /// The ModelServers to look at.
    pub server_queue: Arc<Queue>,
    /// The ModelRoutes to look at.
    pub route_queue: Arc<Queue>,
}

impl Attachments {
    /// Takes what the watch of ModelServers told.
    pub fn tell_servers(&self, told: Told<Tolerant<ModelServer>>) {
        let keys = {
            let mut servers = self.servers.lock();
            let keys = servers.tell(told);
            let namespaces = servers.good().filter_map(|server| server.metadata.namespace.as_deref().map(Arc::from));
            let namespaces: BTreeSet<Arc<str>> = namespaces.collect();
            self.namespaces.send_if_modified(|known| std::mem::replace(known, namespaces.clone()) != namespaces);
            keys
        };
        self.wake_namespaces(&keys);
    }

    /// Takes what the watch of ModelRoutes told: any of them may hold or give back a name.
    pub fn tell_routes(&self, told: Told<Tolerant<ModelRoute>>) {
        let mut routes = self.routes.lock();
        let changed = routes.tell(told);
        if !changed.is_empty() {
            self.route_queue.wake(routes.keys());
            self.route_queue.wake(changed);
        }
    }

    /// Takes what the watch of InferencePools told.
    pub fn tell_pools(&self, told: Told<Tolerant<InferencePool>>) {
        let keys =
            self.pools.lock().tell(told.map(|pool| Tolerant {
                object: pool.object.map(|whole| InferencePool { status: None, ..whole }),
                ..pool
            }));
        self.wake_pools(keys.into_iter());
    }

    /// Takes what the watch of HTTPRoutes told. Of those that are not made of a ModelRoute only the name is kept.
    pub fn tell_http_routes(&self, told: Told<Tolerant<HttpRoute>>) {
        let told = told.map(|mut route: Tolerant<HttpRoute>| {
            let owners = route.metadata.owner_references.iter().flatten();
            if !owners.into_iter().any(|owner| owner.kind == ModelRoute::kind(&())) {
                route.object = route.object.map(|_| HttpRoute::new("", Default::default()));
            }
            route
        });
        let keys = self.http_routes.lock().tell(told);
        let routes = self.routes.lock();
        // `llm-2` may be the second HTTPRoute of `llm`.
        let owners = keys.into_iter().flat_map(|key| {
            let first = key.name.rsplit_once('-').map(|(first, _)| Key::new(&key.namespace, first));
            std::iter::once(key).chain(first)
        });
        self.route_queue.wake(owners.filter(|key| routes.get(key).is_some()));
    }

    /// Takes what the watch of the picker's Services told.
    pub fn tell_pickers(&self, told: Told<Tolerant<Service>>, settings: &Settings) {
        let keys = self.pickers.lock().tell(told);
        match &settings.picker_namespace {
            None => self.wake_servers_of(&keys),
            Some(namespace) if keys.iter().any(|key| *key.namespace == **namespace) => self.wake_all_servers(),
            Some(_) => {}
        }
    }

    /// Takes what the watch of the one picker's endpoints told.
    pub fn tell_picker_slices(&self, told: Told<Tolerant<EndpointSlice>>) {
        if !self.picker_slices.lock().tell(told).is_empty() {
            self.wake_all_servers();
        }
    }

    /// Takes what the watch of single pools' endpoints told.
    pub fn tell_slices(&self, told: Told<Tolerant<EndpointSlice>>) {
        let keys = self.slices.lock().tell(told);
        self.wake_pools(
            keys.iter().filter_map(|key| Some(Key::new(&key.namespace, picker_endpoints::pool(&key.name)?))),
        );
    }

    /// Takes what the watch of single pools' Services told.
    pub fn tell_services(&self, told: Told<Tolerant<Service>>) {
        let keys = self.services.lock().tell(told);
        self.wake_pools(keys.iter().filter_map(|key| Some(Key::new(&key.namespace, picker_service::pool(&key.name)?))));
    }

    /// Takes what the watch of a namespace's pods told.
    pub fn tell_pods(&self, namespace: &Arc<str>, told: Told<k8s_openapi::api::core::v1::Pod>) {
        let changed = self.endpoints.lock().tell(namespace, told);
        let servers = self.servers.lock();
        let concerned = |server: &&Arc<ModelServer>| {
            server.metadata.namespace.as_deref() == Some(&**namespace)
                && changed.iter().any(|change| change.as_ref().is_none_or(|pod| concerns(server, pod)))
        };
        if !changed.is_empty() {
            self.server_queue.wake(servers.good().filter(concerned).map(|server| key_of(&**server)));
        }
    }

    /// Nobody watches the pods of this namespace any more.
    pub fn forget_pods(&self, namespace: &str) {
        self.endpoints.lock().forget(namespace);
    }

    /// Whether the cluster has InferencePools.
    pub fn set_pools(&self, served: bool) {
        if !served {
            self.pools.lock().tell(Told::ListBegins);
            self.pools.lock().tell(Told::ListEnds);
        }
        if self.has_pools.swap(served, Ordering::Relaxed) != served {
            self.wake_all_servers();
        }
    }

    /// Whether the cluster has HTTPRoutes.
    pub fn set_http_routes(&self, served: bool) {
        if !served {
            self.http_routes.lock().tell(Told::ListBegins);
            self.http_routes.lock().tell(Told::ListEnds);
        }
        if self.has_http_routes.swap(served, Ordering::Relaxed) != served {
            let keys = self.routes.lock().keys();
            self.route_queue.wake(keys);
        }
    }

    /// Namespaces with ModelServers.
    pub fn namespaces(&self) -> tokio::sync::watch::Receiver<BTreeSet<Arc<str>>> {
        self.namespaces.subscribe()
    }

    /// How many objects are known: ModelServers, ModelRoutes, their pods.
    pub fn sizes(&self) -> [usize; 3] {
        [self.servers.lock().good().count(), self.routes.lock().good().count(), self.endpoints.lock().len()]
    }

    /// How many ModelServers and ModelRoutes wait, and how many of these because a pass failed.
    pub fn depth(&self) -> (usize, usize) {
        let (servers, routes) = (self.server_queue.depth(), self.route_queue.depth());
        (servers.0 + routes.0, servers.1 + routes.1)
    }

    /// A ModelServer of these namespaces changed: its neighbours may share its pool, and routes lead to it.
    fn wake_namespaces(&self, keys: &[Key]) {
        self.wake_servers_of(keys);
        // One that is gone is looked at once more, to be forgotten.
        self.server_queue.wake(keys.iter().cloned());
        let namespaces: BTreeSet<&str> = keys.iter().map(|key| &*key.namespace).collect();
        let routes = self.routes.lock().keys();
        self.route_queue.wake(routes.into_iter().filter(|key| namespaces.contains(&*key.namespace)));
    }

    fn wake_servers_of(&self, keys: &[Key]) {
        let namespaces: BTreeSet<&str> = keys.iter().map(|key| &*key.namespace).collect();
        let servers = self.servers.lock().keys();
        self.server_queue.wake(servers.into_iter().filter(|key| namespaces.contains(&*key.namespace)));
    }

    fn wake_all_servers(&self) {
        let servers = self.servers.lock().keys();
        self.server_queue.wake(servers);
    }

    /// Those of these that there are.
    fn wake_pools(&self, keys: impl Iterator<Item = Key>) {
        let servers = self.servers.lock();
        self.server_queue.wake(keys.filter(|key| servers.get(key).is_some()));
    }

    fn servers_of(&self, namespace: &str) -> Vec<Arc<ModelServer>> {
        of_namespace(&self.servers.lock(), namespace)
    }
}

fn of_namespace<K: Asked>(objects: &Objects<K>, namespace: &str) -> Vec<Arc<K>> {
    objects.good().filter(|object| object.meta().namespace.as_deref() == Some(namespace)).cloned().collect()
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Those of a kind that are only looked at because of their name, also where they do not read as their kind.
fn named<K: Asked>(read: &Read<K>, nameless: impl FnOnce() -> K, key: &Key) -> Arc<K> {
    match read {
        Read::Good(object) => Arc::clone(object),
        Read::Bad { uid, .. } => {
            let mut object = nameless();
            object.meta_mut().uid = Some(uid.clone());
            object.meta_mut().name = Some(key.name.to_string());
            object.meta_mut().namespace = Some(key.namespace.to_string());
            Arc::new(object)
        }
    }
}

/// How long a status must still wait in which only counts changed.
fn left_to_settle(written: &Mutex<std::collections::HashMap<Key, Instant>>, key: &Key) -> Option<Duration> {
    let written = written.lock().get(key).copied()?;
    SETTLE.checked_sub(written.elapsed()).filter(|left| !left.is_zero())
}
