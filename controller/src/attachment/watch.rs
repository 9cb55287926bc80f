//! The watches of what is attached.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use controller_api::http_route::HttpRoute;
use controller_api::inference_pool::InferencePool;
use controller_api::labels;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, abortable};
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::Config;
use planning::attachment::Settings;
use tokio::sync::watch;

use crate::discovery::{self, Known};
use crate::observe::Observer;
use crate::observe::tolerant::Tolerant;

/// What must be listed before the first pass; kinds that the cluster does not have count as listed.
pub const WATCHED: &[&str] =
    &["ModelServer", "ModelRoute", "InferencePool", "HTTPRoute", "PickerService", "PoolService"];
/// The same, where one picker is in a namespace of its own.
pub const WATCHED_ELSEWHERE: &[&str] = &["PickerEndpoints", "PoolEndpoints"];

impl Observer {
    /// Watches the ModelServers. Never ends.
    pub async fn model_servers(self) {
        let api = Api::<Tolerant<ModelServer>>::all(self.client.clone());
        self.follow(api, "ModelServer", Config::default(), |told| self.attachments.tell_servers(told)).await;
    }

    /// Watches the ModelRoutes. Never ends.
    pub async fn model_routes(self) {
        let api = Api::<Tolerant<ModelRoute>>::all(self.client.clone());
        self.follow(api, "ModelRoute", Config::default(), |told| self.attachments.tell_routes(told)).await;
    }

    /// Watches the Services of a picker. Never ends.
    pub async fn pickers(self, settings: Settings) {
        let api = Api::<Tolerant<Service>>::all(self.client.clone());
        let config = Config::default().fields(&format!("metadata.name={}", settings.picker_service));
        self.follow(api, "PickerService", config, |told| self.attachments.tell_pickers(told, &settings)).await;
    }

    /// Watches the endpoints of the one picker in this namespace. Never ends.
    pub async fn picker_endpoints(self, namespace: String, service: String) {
        let api = Api::<Tolerant<EndpointSlice>>::namespaced(self.client.clone(), &namespace);
        let config = Config::default().labels(&format!("{}={service}", labels::SERVICE_NAME));
        self.follow(api, "PickerEndpoints", config, |told| self.attachments.tell_picker_slices(told)).await;
    }

    /// Watches the endpoints that we made for single pools. Never ends.
    pub async fn pool_endpoints(self) {
        let api = Api::<Tolerant<EndpointSlice>>::all(self.client.clone());
        let ours = format!("{}={}", labels::ENDPOINTS_MANAGED_BY, labels::ENDPOINTS_MANAGER);
        let config = Config::default().labels(&ours);
        self.follow(api, "PoolEndpoints", config, |told| self.attachments.tell_slices(told)).await;
    }

    /// Watches the Services that we made for single pools. Never ends.
    pub async fn pool_services(self) {
        let api = Api::<Tolerant<Service>>::all(self.client.clone());
        let config = Config::default().labels(labels::PICKER_SERVICE);
        self.follow(api, "PoolService", config, |told| self.attachments.tell_services(told)).await;
    }

    /// Watches the InferencePools while the cluster has them.
    pub async fn inference_pools(self, known: watch::Receiver<Known>) {
        let own = &self;
        let watching = |now| async move {
            own.attachments.set_pools(matches!(now, Known::Served { .. }));
            match now {
                Known::Nothing => {}
                Known::Absent => own.readiness.reached("InferencePool"),
                Known::Served { .. } => {
                    let api = Api::<Tolerant<InferencePool>>::all(own.client.clone());
                    let tell = |told| own.attachments.tell_pools(told);
                    own.follow(api, "InferencePool", Config::default(), tell).await;
                }
            }
        };
        discovery::whenever(known, watching).await;
    }

    /// Watches the HTTPRoutes while the cluster has them.
    pub async fn http_routes(self, known: watch::Receiver<Known>) {
        let own = &self;
        let watching = |now| async move {
            own.attachments.set_http_routes(matches!(now, Known::Served { .. }));
            match now {
                Known::Nothing => {}
                Known::Absent => own.readiness.reached("HTTPRoute"),
                Known::Served { .. } => {
                    let api = Api::<Tolerant<HttpRoute>>::all(own.client.clone());
                    let tell = |told| own.attachments.tell_http_routes(told);
                    own.follow(api, "HTTPRoute", Config::default(), tell).await;
                }
            }
        };
        discovery::whenever(known, watching).await;
    }

    /// Watches the pods of every namespace that has ModelServers, and of no other: a cluster may have a great many.
    /// Never ends.
    pub async fn endpoints(self) {
        let forget = |namespace: &str| self.attachments.forget_pods(namespace);
        in_each(self.attachments.namespaces(), |namespace| self.endpoints_of(namespace), forget).await;
    }

    async fn endpoints_of(&self, namespace: Arc<str>) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let tell = |told| self.attachments.tell_pods(&namespace, told);
        self.follow(api, "Endpoint", Config::default(), tell).await;
    }
}

/// Watches in each of these namespaces as long as it is one of them, and then forgets it. Ends with the sender.
pub(crate) async fn in_each<W: Future>(
    mut namespaces: watch::Receiver<BTreeSet<Arc<str>>>,
    start: impl Fn(Arc<str>) -> W,
    forget: impl Fn(&str),
) {
    let mut running: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    let mut watches = FuturesUnordered::new();
    loop {
        let wanted = namespaces.borrow_and_update().clone();
        running.retain(|namespace, watch| {
            let stays = wanted.contains(namespace);
            if !stays {
                watch.abort();
                forget(namespace);
            }
            stays
        });
        for namespace in wanted {
            if let Entry::Vacant(vacant) = running.entry(namespace) {
                let (watch, handle) = abortable(start(Arc::clone(vacant.key())));
                vacant.insert(handle);
                watches.push(watch);
            }
        }
        tokio::select! {
            changed = namespaces.changed() => if changed.is_err() { return },
            _ = watches.next(), if !watches.is_empty() => {}
        }
    }
}
