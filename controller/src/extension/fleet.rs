//! The endpoints of all pools and pickers, as the watches tell them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use controller_api::inference_pool::{InferencePool, InferencePoolSpec};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use extension::endpoints::{self, PodAddress, Subject};
use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::observe::store::Told;
use crate::observe::tolerant::Tolerant;

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is known. Whoever follows it is told that it changed.
#[derive(Debug, Default)]
pub struct Fleet {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Those with pools: their pods, Services and EndpointSlices are watched.
    namespaces: watch::Sender<BTreeSet<Arc<str>>>,
}

#[derive(Debug, Default)]
struct State {
    /// By namespace and name.
    pools: Listed<InferencePoolSpec>,
    namespaces: HashMap<Arc<str>, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    pods: Listed<PodAddress>,
    services: Listed<Service>,
    slices: Listed<EndpointSlice>,
}

impl Fleet {
    /// Takes what the watch of InferencePools told.
    pub fn tell_pools(&self, told: Told<Tolerant<InferencePool>>) {
        let told = told.map(|pool| {
            let namespace = pool.metadata.namespace.as_deref().unwrap_or_default();
            let name = format!("{namespace}/{}", pool.metadata.name.as_deref().unwrap_or_default());
            (name, pool.object.ok().map(|pool| pool.spec))
        });
        let mut state = self.state.lock();
        if state.pools.tell(told) {
            let names = state.pools.known.keys().filter_map(|name| Some(Arc::from(name.split_once('/')?.0)));
            let namespaces: BTreeSet<Arc<str>> = names.collect();
            drop(state);
            self.namespaces.send_if_modified(|known| std::mem::replace(known, namespaces.clone()) != namespaces);
            self.changed();
        }
    }

    /// Takes what the watch of a namespace's pods told.
    pub fn tell_pods(&self, namespace: &Arc<str>, told: Told<Pod>) {
        self.tell(namespace, |here| here.pods.tell(told.map(|pod| (name(&pod), endpoints::pod(&pod)))));
    }

    /// Takes what the watch of a namespace's Services told. Only their ports are kept.
    pub fn tell_services(&self, namespace: &Arc<str>, told: Told<Service>) {
        let ports = |service: Service| {
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.clone());
            let spec = ServiceSpec { ports, ..ServiceSpec::default() };
            (name(&service), Some(Service { spec: Some(spec), ..Service::default() }))
        };
        self.tell(namespace, |here| here.services.tell(told.map(ports)));
    }

    /// Takes what the watch of a namespace's EndpointSlices told.
    pub fn tell_slices(&self, namespace: &Arc<str>, told: Told<EndpointSlice>) {
        let kept = |mut slice: EndpointSlice| {
            // Changes with each list, and nothing depends on it.
            slice.metadata.resource_version = None;
            slice.metadata.managed_fields = None;
            (name(&slice), Some(slice))
        };
        self.tell(namespace, |here| here.slices.tell(told.map(kept)));
    }

    /// Nobody watches this namespace any more.
    pub fn forget(&self, namespace: &str) {
        self.state.lock().namespaces.remove(namespace);
    }

    /// Namespaces with pools.
    #[must_use]
    pub fn namespaces(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.namespaces.subscribe()
    }

    /// Says when something has changed, and counts it.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The endpoints now; nothing until they are known. Those of nobody are none.
    #[must_use]
    pub fn endpoints(&self, subject: &Subject) -> Option<ClusterLoadAssignment> {
        let state = self.state.lock();
        let nobody = || Some(endpoints::of_nobody(subject));
        let (Subject::Pool { namespace, .. } | Subject::Picker { namespace, .. }) = subject;
        if !state.pools.complete {
            return None;
        }
        let has_pools =
            state.pools.known.keys().any(|name| name.split_once('/').is_some_and(|(of, _)| of == namespace));
        let here = match state.namespaces.get(namespace.as_str()) {
            Some(here) => here,
            None if has_pools => return None,
            None => return nobody(),
        };
        match subject {
            Subject::Pool { namespace, name } => {
                let pods = here.pods.all()?;
                match state.pools.known.get(&format!("{namespace}/{name}")) {
                    Some((spec, _)) => Some(endpoints::of_pool(subject, spec, pods)),
                    None => nobody(),
                }
            }
            Subject::Picker { service, port, .. } => {
                let (slices, _) = (here.slices.all()?, here.services.all()?);
                let of_service = |slice: &&EndpointSlice| {
                    let labels = slice.metadata.labels.as_ref();
                    labels.and_then(|labels| labels.get(SERVICE_NAME)) == Some(service)
                };
                match here.services.known.get(service) {
                    Some((found, _)) => Some(endpoints::of_picker(subject, *port, found, slices.filter(of_service))),
                    None => nobody(),
                }
            }
        }
    }

    fn tell(&self, namespace: &Arc<str>, tell: impl FnOnce(&mut Namespace) -> bool) {
        if tell(self.state.lock().namespaces.entry(Arc::clone(namespace)).or_default()) {
            self.changed();
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

fn name<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

/// Objects by name, as one watch tells them.
#[derive(Debug)]
struct Listed<T> {
    /// With the last list that had it, or before which it was told.
    known: HashMap<String, (T, u32)>,
    /// Counts the lists.
    list: u32,
    /// All is known.
    complete: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), list: 0, complete: false }
    }
}

impl<T: PartialEq> Listed<T> {
    /// Takes what the watch told; nothing in place of an object is one that does not count. Returns whether anything
    /// is different now.
    fn tell(&mut self, told: Told<(String, Option<T>)>) -> bool {
        match told {
            Told::ListBegins => {
                self.list += 1;
                false
            }
            Told::Listed((name, Some(object))) | Told::Changed((name, Some(object))) => {
                let list = self.list;
                let before = self.known.get(&name).map(|(before, _)| *before == object);
                self.known.insert(name, (object, list));
                before != Some(true)
            }
            Told::Listed((name, None)) | Told::Changed((name, None)) | Told::Gone((name, _)) => {
                self.known.remove(&name).is_some()
            }
            Told::ListEnds => {
                let (before, list) = (self.known.len(), self.list);
                self.known.retain(|_, (_, listed)| *listed == list);
                !std::mem::replace(&mut self.complete, true) || before != self.known.len()
            }
        }
    }

    /// All objects; nothing until the first list has ended.
    fn all(&self) -> Option<impl Iterator<Item = &T>> {
        self.complete.then(|| self.known.values().map(|(object, _)| object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool() -> Tolerant<InferencePool> {
        serde_json::from_value(json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
            "metadata": {"name": "llama", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]},
        }))
        .unwrap()
    }

    fn pod(ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "labels": {"app": "vllm"}},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn nothing_is_said_before_all_is_known_and_then_every_change_is() {
        let (fleet, here) = (Fleet::default(), Arc::<str>::from("default"));
        let subject: Subject = "kthena/pool/default/llama".parse().unwrap();
        let count =
            || fleet.endpoints(&subject).map(|made| made.endpoints.iter().flat_map(|one| &one.lb_endpoints).count());
        fleet.tell_pools(Told::ListBegins);
        fleet.tell_pools(Told::Listed(pool()));
        assert_eq!(count(), None);
        fleet.tell_pools(Told::ListEnds);
        assert_eq!(count(), None, "its pods are not known");
        assert!(fleet.namespaces().borrow().contains("default"));
        fleet.tell_pods(&here, Told::ListBegins);
        fleet.tell_pods(&here, Told::Listed(pod("10.0.0.1", "True")));
        assert_eq!(count(), None);
        fleet.tell_pods(&here, Told::ListEnds);
        assert_eq!(count(), Some(1));

        let mut changes = fleet.changes();
        fleet.tell_pods(&here, Told::Changed(pod("10.0.0.1", "True")));
        assert!(!changes.has_changed().unwrap(), "nothing that counts has changed");
        fleet.tell_pods(&here, Told::Changed(pod("10.0.0.1", "False")));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(count(), Some(0));
        fleet.tell_pods(&here, Told::Changed(pod("10.0.0.1", "True")));
        fleet.tell_pods(&here, Told::ListBegins);
        fleet.tell_pods(&here, Told::ListEnds);
        assert_eq!(count(), Some(0), "a list forgets what it has not");
        let other: Subject = "kthena/pool/nowhere/llama".parse().unwrap();
        assert_eq!(fleet.endpoints(&other).map(|made| made.endpoints.len()), Some(0));
    }
}
