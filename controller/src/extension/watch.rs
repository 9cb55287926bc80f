//! The watches of pools and of what their endpoints depend on.

use std::sync::Arc;

use controller_api::inference_pool::InferencePool;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::Config;
use tokio::sync::watch;

use super::POOLS;
use super::fleet::Fleet;
use crate::attachment::watch::in_each;
use crate::discovery::{self, Known};
use crate::observe::Observer;
use crate::observe::store::Told;
use crate::observe::tolerant::Tolerant;

impl Observer {
    /// Watches the InferencePools while the cluster has them, and in their namespaces the pods, Services and
    /// EndpointSlices. Never ends.
    pub(super) async fn pools_and_pickers(&self, fleet: Arc<Fleet>) {
        let (sender, receiver) = watch::channel(Known::Nothing);
        tokio::join!(
            discovery::follow(self.client.clone(), discovery::INFERENCE_POOLS, sender),
            self.pools(&fleet, receiver),
            in_each(
                fleet.namespaces(),
                |namespace| self.neighbours(Arc::clone(&fleet), namespace),
                |namespace| fleet.forget(namespace)
            ),
        );
    }

    async fn pools(&self, fleet: &Fleet, known: watch::Receiver<Known>) {
        let watching = |now| async move {
            match now {
                Known::Nothing => {}
                Known::Absent => {
                    fleet.tell_pools(Told::ListBegins);
                    fleet.tell_pools(Told::ListEnds);
                    self.readiness.reached(POOLS);
                }
                Known::Served { .. } => {
                    let api = Api::<Tolerant<InferencePool>>::all(self.client.clone());
                    self.follow(api, POOLS, Config::default(), |told| fleet.tell_pools(told)).await;
                }
            }
        };
        discovery::whenever(known, watching).await;
    }

    async fn neighbours(&self, fleet: Arc<Fleet>, namespace: Arc<str>) {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let services = Api::<Service>::namespaced(self.client.clone(), &namespace);
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), &namespace);
        tokio::join!(
            self.follow(pods, "PodOfPool", Config::default(), |told| fleet.tell_pods(&namespace, told)),
            self.follow(services, "ServiceOfPicker", Config::default(), |told| fleet.tell_services(&namespace, told)),
            self.follow(slices, "EndpointSlice", Config::default(), |told| fleet.tell_slices(&namespace, told)),
        );
    }
}
