//! What a user of the groups sees: how many are whole at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tests::cluster::namespace::Namespace;
use tokio::task::JoinHandle;

use crate::stage::{group, is_ready};

/// Watches all pods from its start until it is dropped.
pub(crate) struct Availability {
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
}

struct Seen {
    pods_per_group: usize,
    /// Group and readiness by pod.
    pods: BTreeMap<String, (String, bool)>,
    /// Since it was first so high.
    fewest: Option<usize>,
    full: usize,
}

impl Drop for Availability {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Availability {
    /// Of the serving's groups of so many pods; counting begins when `full` groups are whole.
    pub(crate) fn watch(namespace: &Namespace, serving: &str, full: usize, pods_per_group: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen { pods_per_group, pods: BTreeMap::new(), fewest: None, full }));
        let config = watcher::Config::default().labels(&format!("modelserving.volcano.sh/name={serving}"));
        let watching = tokio::spawn(watch(namespace.clone(), config, Arc::clone(&seen)));
        Self { seen, watching }
    }

    /// The fewest whole groups at any time since there were `full`; none when there never were.
    pub(crate) fn fewest(&self) -> Option<usize> {
        self.seen.lock().fewest
    }
}

async fn watch(namespace: Namespace, config: watcher::Config, seen: Arc<Mutex<Seen>>) {
    let mut events = Box::pin(watcher::watcher(namespace.api::<Pod>(), config));
    while let Some(event) = events.next().await {
        let mut seen = seen.lock();
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                seen.pods.insert(name, (group(&pod).to_owned(), is_ready(&pod)));
            }
            Ok(Event::Delete(pod)) => drop(seen.pods.remove(&pod.metadata.name.unwrap_or_default())),
            Ok(Event::Init | Event::InitDone) | Err(_) => continue,
        }
        seen.count();
    }
}

impl Seen {
    fn count(&mut self) {
        let mut ready: BTreeMap<&str, usize> = BTreeMap::new();
        for (group, _) in self.pods.values().filter(|(_, ready)| *ready) {
            *ready.entry(group).or_default() += 1;
        }
        let whole = ready.values().filter(|count| **count >= self.pods_per_group).count();
        if whole >= self.full || self.fewest.is_some() {
            self.fewest = Some(self.fewest.map_or(whole, |fewest| fewest.min(whole)));
        }
    }
}
