//! All objects of one kind, as the watch last told.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{info, warn};

/// A kind, where it is read, and what is known of it.
pub(super) struct Mirror<K: Resource<DynamicType = ()>> {
    api: Api<DeserializeGuard<K>>,
    changed: Arc<Notify>,
    slim: fn(&mut K),
    state: Arc<Mutex<State<K>>>,
}

impl<K: Resource<DynamicType = ()>> Debug for Mirror<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("kind", &K::kind(&())).finish_non_exhaustive()
    }
}

/// An object, or why it cannot be read.
type Entry<K> = Result<Arc<K>, String>;

struct State<K> {
    /// Listed once, or found not to exist.
    known: bool,
    objects: BTreeMap<String, Entry<K>>,
    /// The list that is being read; replaces `objects` at its end.
    listing: BTreeMap<String, Entry<K>>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        Self { known: false, objects: BTreeMap::new(), listing: BTreeMap::new() }
    }
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn new(client: &Client, namespace: Option<&str>, changed: &Arc<Notify>, slim: fn(&mut K)) -> Self {
        let api = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        Self { api, changed: Arc::clone(changed), slim, state: Arc::default() }
    }

    /// Watches for ever; tells `changed` after each change.
    pub(super) fn watch(&self) -> impl Future<Output = ()> + Send + 'static {
        let Self { api, changed, slim, state } = self;
        let (changed, slim, state) = (Arc::clone(changed), *slim, Arc::clone(state));
        let stream = watcher(api.clone(), watcher::Config::default()).default_backoff();
        async move {
            let mut stream = std::pin::pin!(stream);
            let mut last_error = None;
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => {
                        last_error = None;
                        if state.lock().apply(event, slim) {
                            changed.notify_one();
                        }
                    }
                    Err(error) => {
                        if is_absent(&error) && state.lock().absent() {
                            info!(kind = %K::kind(&()), "The cluster does not have this kind; asking again now and then.");
                            changed.notify_one();
                        }
                        let text = error.to_string();
                        // Once for each different error: a lost API server says the same for hours.
                        if !is_absent(&error) && last_error.as_ref() != Some(&text) {
                            warn!(kind = %K::kind(&()), error = text, "Cannot watch; what was last seen stays in use.");
                            last_error = Some(text);
                        }
                    }
                }
            }
        }
    }

    /// Whether the kind was listed once, or is not there to be listed.
    pub(super) fn known(&self) -> bool {
        self.state.lock().known
    }

    /// What can be read, by namespace and name.
    pub(super) fn objects(&self) -> Vec<Arc<K>> {
        self.state.lock().objects.values().filter_map(|entry| entry.as_ref().ok().cloned()).collect()
    }

    /// What cannot be read, and why.
    pub(super) fn invalid(&self) -> Vec<String> {
        self.state.lock().objects.values().filter_map(|entry| entry.as_ref().err().cloned()).collect()
    }
}

/// The API server does not know the kind: its CRD is not installed.
fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

impl<K: Resource<DynamicType = ()>> State<K> {
    /// Returns whether what is known changed.
    fn apply(&mut self, event: watcher::Event<DeserializeGuard<K>>, slim: fn(&mut K)) -> bool {
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(object) => {
                let (key, entry) = entry(object, slim);
                self.listing.insert(key, entry);
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.known = true;
                return true;
            }
            watcher::Event::Apply(object) => {
                let (key, entry) = entry(object, slim);
                self.objects.insert(key, entry);
                return true;
            }
            watcher::Event::Delete(object) => return self.objects.remove(&key(&object)).is_some(),
        }
        false
    }

    /// Returns whether that is news.
    fn absent(&mut self) -> bool {
        let news = !self.known || !self.objects.is_empty();
        self.known = true;
        self.objects.clear();
        news
    }
}

fn key(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn entry<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>, slim: fn(&mut K)) -> (String, Entry<K>) {
    let key = key(&object);
    let entry = match object.0 {
        Ok(mut object) => {
            slim(&mut object);
            Ok(Arc::new(object))
        }
        Err(invalid) => Err(format!("{} {key}: {}", K::kind(&()), invalid.error)),
    };
    (key, entry)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::error_boundary::InvalidObject;
    use watcher::Event;

    use super::*;

    fn pod(name: &str) -> DeserializeGuard<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        DeserializeGuard(Ok(pod))
    }

    fn told(events: Vec<Event<DeserializeGuard<Pod>>>) -> (State<Pod>, Vec<bool>) {
        let mut state = State::default();
        let changes = events.into_iter().map(|event| state.apply(event, |_| {})).collect();
        (state, changes)
    }

    #[test]
    fn a_list_counts_from_its_end_and_forgets_what_it_does_not_have() {
        let (state, changes) = told(vec![
            Event::Init,
            Event::InitApply(pod("gone-later")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(pod("there")),
        ]);
        assert_eq!(changes, [false, false, true, false, false]);
        assert!(state.known);
        assert_eq!(state.objects.keys().collect::<Vec<_>>(), ["/gone-later"], "until the list is whole");
        let mut state = state;
        assert!(state.apply(Event::InitDone, |_| {}));
        assert_eq!(state.objects.keys().collect::<Vec<_>>(), ["/there"]);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_named_and_the_others_stay() {
        let mut bad = pod("bad").0.unwrap();
        let metadata = std::mem::take(&mut bad.metadata);
        let bad = DeserializeGuard(Err(InvalidObject { error: "missing field `spec`".to_owned(), metadata }));
        let (state, _) = told(vec![Event::Init, Event::InitApply(pod("good")), Event::InitApply(bad), Event::InitDone]);
        assert!(state.objects["/good"].is_ok());
        assert_eq!(state.objects["/bad"].as_ref().unwrap_err(), "Pod /bad: missing field `spec`");
    }

    #[test]
    fn a_kind_that_the_cluster_does_not_have_is_known_to_be_empty() {
        let mut state = State::<Pod>::default();
        assert!(state.absent());
        assert!(state.known && !state.absent(), "said once");
    }
}
