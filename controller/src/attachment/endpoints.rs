//! The pods of namespaces with ModelServers. Of each only what a status depends on is kept.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use planning::attachment::selection::{PodEndpoint, pod_endpoint};

use crate::observe::store::Told;

/// Pods by namespace.
#[derive(Debug, Default)]
pub struct Endpoints(HashMap<Arc<str>, Namespace>);

/// The pods of a namespace, by name.
#[derive(Debug, Default)]
struct Namespace {
    pods: HashMap<Box<str>, Entry>,
    /// Counts the lists.
    list: u32,
    /// Everything is known.
    listed: bool,
}

#[derive(Debug)]
struct Entry {
    endpoint: Arc<PodEndpoint>,
    /// The last list that had it, or before which it was told.
    list: u32,
}

impl Endpoints {
    /// Takes what a watch told. Returns what has changed, as it was and as it is; nothing in place of a pod is
    /// everything, when the namespace becomes known.
    pub fn tell(&mut self, namespace: &Arc<str>, told: Told<Pod>) -> Vec<Option<Arc<PodEndpoint>>> {
        let known = self.0.entry(Arc::clone(namespace)).or_default();
        match told {
            Told::ListBegins => {
                known.list += 1;
                Vec::new()
            }
            Told::Listed(pod) | Told::Changed(pod) => known.put(&pod),
            Told::Gone(pod) => known.remove(pod.metadata.name.as_deref().unwrap_or_default()),
            Told::ListEnds => {
                let (list, mut changed) = (known.list, Vec::new());
                known.pods.retain(|_, entry| {
                    let stays = entry.list == list;
                    if !stays {
                        changed.push(Some(Arc::clone(&entry.endpoint)));
                    }
                    stays
                });
                if !std::mem::replace(&mut known.listed, true) {
                    changed.push(None);
                }
                changed
            }
        }
    }

    /// The pods of a namespace; nothing until all of them are known.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<Vec<Arc<PodEndpoint>>> {
        let known = self.0.get(namespace).filter(|known| known.listed)?;
        Some(known.pods.values().map(|entry| Arc::clone(&entry.endpoint)).collect())
    }

    /// Forgets a namespace.
    pub fn forget(&mut self, namespace: &str) {
        self.0.remove(namespace);
    }

    /// How many pods there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(|known| known.pods.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Namespace {
    fn put(&mut self, pod: &Pod) -> Vec<Option<Arc<PodEndpoint>>> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(endpoint) = pod_endpoint(pod) else { return self.remove(name) };
        if let Some(entry) = self.pods.get_mut(name)
            && *entry.endpoint == endpoint
        {
            entry.list = self.list;
            return Vec::new();
        }
        let endpoint = Arc::new(endpoint);
        let before = self.pods.insert(name.into(), Entry { endpoint: Arc::clone(&endpoint), list: self.list });
        before.map(|before| Some(before.endpoint)).into_iter().chain([Some(endpoint)]).collect()
    }

    fn remove(&mut self, name: &str) -> Vec<Option<Arc<PodEndpoint>>> {
        self.pods.remove(name).map(|entry| Some(entry.endpoint)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready: &str) -> Pod {
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": "llm"}}, "status": status})).unwrap()
    }

    #[test]
    fn a_namespace_is_known_when_its_list_ends_and_a_list_forgets_what_it_has_not() {
        let (mut endpoints, here) = (Endpoints::default(), Arc::<str>::from("here"));
        endpoints.tell(&here, Told::ListBegins);
        assert_eq!(endpoints.tell(&here, Told::Listed(pod("a", "True"))).len(), 1);
        endpoints.tell(&here, Told::Listed(pod("b", "False")));
        assert_eq!(endpoints.of("here"), None);
        assert_eq!(endpoints.tell(&here, Told::ListEnds), [None]);
        assert_eq!(endpoints.of("here").map(|pods| pods.iter().filter(|pod| pod.ready).count()), Some(1));

        assert_eq!(endpoints.tell(&here, Told::Changed(pod("b", "False"))), []);
        let changed = endpoints.tell(&here, Told::Changed(pod("b", "True")));
        assert_eq!(changed.iter().flatten().map(|pod| pod.ready).collect::<Vec<_>>(), [false, true]);
        endpoints.tell(&here, Told::ListBegins);
        endpoints.tell(&here, Told::Listed(pod("a", "True")));
        assert_eq!(endpoints.tell(&here, Told::ListEnds).len(), 1);
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints.tell(&here, Told::Gone(pod("a", "True"))).len(), 1);
        assert_eq!(endpoints.of("here"), Some(Vec::new()));
        endpoints.forget("here");
        assert_eq!(endpoints.of("here"), None);
    }
}
