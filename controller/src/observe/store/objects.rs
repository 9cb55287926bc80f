//! The objects that are asked for, and others whose spec is planned from: kept whole.

use std::collections::HashMap;
use std::sync::Arc;

use controller_api::http_route::HttpRoute;
use controller_api::inference_pool::InferencePool;
use controller_api::leader_worker_set::LeaderWorkerSet;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;

use super::{Key, Told, version};
use crate::observe::tolerant::Tolerant;

/// An object as it is known.
#[derive(Debug)]
pub enum Read<K> {
    /// One that reads as its kind.
    Good(Arc<K>),
    /// One that does not.
    Bad {
        /// Its UID.
        uid: String,
        /// What is wrong.
        error: Arc<str>,
    },
}

impl<K> Clone for Read<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Good(object) => Self::Good(Arc::clone(object)),
            Self::Bad { uid, error } => Self::Bad { uid: uid.clone(), error: Arc::clone(error) },
        }
    }
}

/// A kind of objects that are asked for.
pub trait Asked: Resource<DynamicType = ()> {
    /// Whether a plan for either would be the same, as far as spec and status go.
    fn says_the_same(&self, other: &Self) -> bool;
}

impl Asked for ModelServing {
    fn says_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.status == other.status
    }
}

impl Asked for LeaderWorkerSet {
    fn says_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.status == other.status
    }
}

impl Asked for ModelServer {
    fn says_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.status == other.status
    }
}

impl Asked for ModelRoute {
    fn says_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.status == other.status
    }
}

// The status is the gateways'.
impl Asked for InferencePool {
    fn says_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl Asked for HttpRoute {
    fn says_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.status == other.status
    }
}

impl Asked for Service {
    fn says_the_same(&self, other: &Self) -> bool {
        let told = |service: &Self| service.spec.as_ref().map(|spec| (spec.ports.clone(), spec.selector.clone()));
        told(self) == told(other)
    }
}

impl Asked for EndpointSlice {
    fn says_the_same(&self, other: &Self) -> bool {
        self.address_type == other.address_type && self.endpoints == other.endpoints && self.ports == other.ports
    }
}

/// The objects of a kind, by name.
#[derive(Debug)]
pub struct Objects<K> {
    known: HashMap<Key, Entry<K>>,
    list: u32,
    /// The watch has told everything up to this version.
    told: u64,
    /// The highest version in the list that runs.
    listed: u64,
}

#[derive(Debug)]
struct Entry<K> {
    object: Read<K>,
    version: u64,
    /// The last list that had it, or before or during which we wrote it.
    listed: u32,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), list: 0, told: 0, listed: 0 }
    }
}

impl<K: Asked> Objects<K> {
    /// The one of this name.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Read<K>> {
        self.known.get(key).map(|entry| &entry.object)
    }

    /// All that read as their kind.
    pub fn good(&self) -> impl Iterator<Item = &Arc<K>> {
        self.known.values().filter_map(|entry| match &entry.object {
            Read::Good(object) => Some(object),
            Read::Bad { .. } => None,
        })
    }

    /// All of a namespace, by name.
    pub fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = (&Key, &Read<K>)> {
        let here = move |(key, _): &(&Key, &Entry<K>)| *key.namespace == *namespace;
        self.known.iter().filter(here).map(|(key, entry)| (key, &entry.object))
    }

    /// The names of all.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.known.keys().cloned().collect()
    }

    /// Whether the one of this name still has this UID and generation.
    #[must_use]
    pub fn is_at(&self, key: &Key, uid: &str, generation: i64) -> bool {
        matches!(self.get(key), Some(Read::Good(object))
            if object.meta().uid.as_deref() == Some(uid)
                && object.meta().generation.unwrap_or_default() == generation
                && object.meta().deletion_timestamp.is_none())
    }

    /// Takes what the watch told. Returns those that may have to do something about it.
    pub fn tell(&mut self, told: Told<Tolerant<K>>) -> Vec<Key> {
        match told {
            Told::ListBegins => {
                self.list += 1;
                self.listed = 0;
                Vec::new()
            }
            Told::Listed(object) => {
                let version = version(&object.metadata);
                self.listed = self.listed.max(version);
                self.put(object, version).into_iter().collect()
            }
            Told::Changed(object) => {
                let version = version(&object.metadata);
                self.told = self.told.max(version);
                self.put(object, version).into_iter().collect()
            }
            Told::Gone(object) => {
                self.told = self.told.max(version(&object.metadata));
                let key = key(&object.metadata);
                self.known.remove(&key).map(|_| key).into_iter().collect()
            }
            Told::ListEnds => {
                self.told = self.told.max(self.listed);
                let list = self.list;
                let gone = self.known.iter().filter(|(_, entry)| entry.listed != list).map(|(key, _)| key.clone());
                let gone: Vec<Key> = gone.collect();
                for key in &gone {
                    self.known.remove(key);
                }
                gone
            }
        }
    }

    /// Takes the answer to our write of a spec or a status.
    pub fn wrote(&mut self, mut object: K) {
        let version = version(object.meta());
        // The watch has told of it already, and perhaps that it is gone again.
        if version <= self.told {
            return;
        }
        object.meta_mut().managed_fields = None;
        self.insert(key(object.meta()), &Read::Good(Arc::new(object)), version);
    }

    /// The API server knows the one with this UID no more.
    pub fn lost(&mut self, key: &Key, uid: &str) {
        let known = match self.get(key) {
            Some(Read::Good(object)) => object.meta().uid.as_deref() == Some(uid),
            Some(Read::Bad { uid: known, .. }) => known == uid,
            None => false,
        };
        if known {
            self.known.remove(key);
        }
    }

    fn put(&mut self, object: Tolerant<K>, version: u64) -> Option<Key> {
        let Tolerant { mut metadata, object } = object;
        let key = key(&metadata);
        let read = match object {
            Ok(mut object) => {
                metadata.managed_fields = None;
                *object.meta_mut() = metadata;
                Read::Good(Arc::new(object))
            }
            Err(error) => Read::Bad { uid: metadata.uid.unwrap_or_default(), error },
        };
        self.insert(key.clone(), &read, version).then_some(key)
    }

    /// Returns whether a plan may depend on what is new.
    fn insert(&mut self, key: Key, object: &Read<K>, version: u64) -> bool {
        let listed = self.list;
        if let Some(entry) = self.known.get_mut(&key) {
            entry.listed = listed;
            if version <= entry.version {
                return false;
            }
        }
        let before = self.known.insert(key, Entry { object: object.clone(), version, listed });
        !before.is_some_and(|before| same(&before.object, object))
    }
}

fn key(metadata: &kube::core::ObjectMeta) -> Key {
    Key::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// Whether a plan would be the same.
fn same<K: Asked>(before: &Read<K>, after: &Read<K>) -> bool {
    match (before, after) {
        (Read::Good(before), Read::Good(after)) => {
            let (old, new) = (before.meta(), after.meta());
            old.uid == new.uid
                && old.deletion_timestamp == new.deletion_timestamp
                && old.annotations == new.annotations
                && old.labels == new.labels
                && old.owner_references == new.owner_references
                && before.says_the_same(after)
        }
        (Read::Bad { error: old, .. }, Read::Bad { error: new, .. }) => old == new,
        (Read::Good(_), Read::Bad { .. }) | (Read::Bad { .. }, Read::Good(_)) => false,
    }
}
