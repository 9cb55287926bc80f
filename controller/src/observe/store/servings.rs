//! The ModelServings.

use std::collections::HashMap;
use std::sync::Arc;

use controller_api::v1alpha1::model_serving::ModelServing;
use kube::{Resource, ResourceExt};

use super::{Key, Told, version};
use crate::observe::tolerant::Tolerant;

/// A ModelServing as it is known.
#[derive(Clone, Debug)]
pub enum Serving {
    /// One that can be served.
    Good(Arc<ModelServing>),
    /// One that does not read as a ModelServing.
    Bad {
        /// Its UID.
        uid: String,
        /// What is wrong.
        error: Arc<str>,
    },
}

/// The ModelServings, by name.
#[derive(Debug, Default)]
pub struct Servings {
    known: HashMap<Key, Entry>,
    list: u32,
}

#[derive(Debug)]
struct Entry {
    serving: Serving,
    version: u64,
    listed: u32,
}

impl Servings {
    /// The one of this name.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Serving> {
        self.known.get(key).map(|entry| &entry.serving)
    }

    /// All that can be served.
    pub fn good(&self) -> impl Iterator<Item = &Arc<ModelServing>> {
        self.known.values().filter_map(|entry| match &entry.serving {
            Serving::Good(serving) => Some(serving),
            Serving::Bad { .. } => None,
        })
    }

    /// The names of all.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.known.keys().cloned().collect()
    }

    /// Whether the one of this name still has this UID and generation.
    #[must_use]
    pub fn is_at(&self, key: &Key, uid: &str, generation: i64) -> bool {
        matches!(self.get(key), Some(Serving::Good(serving))
            if serving.metadata.uid.as_deref() == Some(uid)
                && serving.metadata.generation.unwrap_or_default() == generation
                && serving.metadata.deletion_timestamp.is_none())
    }

    /// Takes what the watch told. Returns the one that may have to do something about it.
    pub fn tell(&mut self, told: Told<Tolerant<ModelServing>>) -> Vec<Key> {
        match told {
            Told::ListBegins => {
                self.list += 1;
                Vec::new()
            }
            Told::Listed(object) => self.put(object, true).into_iter().collect(),
            Told::Changed(object) => self.put(object, false).into_iter().collect(),
            Told::Gone(object) => {
                let key = key(&object);
                let gone = self.known.remove(&key);
                gone.map(|_| key).into_iter().collect()
            }
            Told::ListEnds => {
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

    /// Takes the answer to our write of a status.
    pub fn wrote(&mut self, mut serving: ModelServing) {
        let key = Key::new(&serving.namespace().unwrap_or_default(), &serving.name_any());
        let version = version(&serving.metadata);
        // Only what is known: a watch that has told of its deletion is right.
        let Some(entry) = self.known.get_mut(&key) else { return };
        let same = matches!(&entry.serving, Serving::Good(known) if known.metadata.uid == serving.metadata.uid);
        if same && version > entry.version {
            serving.metadata.managed_fields = None;
            entry.version = version;
            entry.serving = Serving::Good(Arc::new(serving));
        }
    }

    fn put(&mut self, object: Tolerant<ModelServing>, in_list: bool) -> Option<Key> {
        let key = key(&object);
        let version = version(object.meta());
        let listed = if in_list { self.list } else { 0 };
        if let Some(entry) = self.known.get_mut(&key) {
            entry.listed = entry.listed.max(listed);
            if version <= entry.version {
                return None;
            }
        }
        let Tolerant { mut metadata, object } = object;
        let serving = match object {
            Ok(mut serving) => {
                metadata.managed_fields = None;
                serving.metadata = metadata;
                Serving::Good(Arc::new(serving))
            }
            Err(error) => Serving::Bad { uid: metadata.uid.unwrap_or_default(), error },
        };
        let listed = listed.max(self.known.get(&key).map_or(0, |entry| entry.listed));
        let before = self.known.insert(key.clone(), Entry { serving: serving.clone(), version, listed });
        (!before.is_some_and(|before| same(&before.serving, &serving))).then_some(key)
    }
}

fn key(object: &Tolerant<ModelServing>) -> Key {
    Key::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

/// Whether a plan would be the same.
fn same(before: &Serving, after: &Serving) -> bool {
    match (before, after) {
        (Serving::Good(before), Serving::Good(after)) => {
            let (old, new) = (&before.metadata, &after.metadata);
            old.uid == new.uid
                && old.deletion_timestamp == new.deletion_timestamp
                && old.annotations == new.annotations
                && old.labels == new.labels
                && old.owner_references == new.owner_references
                && before.spec == after.spec
                && before.status == after.status
        }
        (Serving::Bad { error: old, .. }, Serving::Bad { error: new, .. }) => old == new,
        (Serving::Good(_), Serving::Bad { .. }) | (Serving::Bad { .. }, Serving::Good(_)) => false,
    }
}
