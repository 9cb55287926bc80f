//! The children of one kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Facts, Key, Reduced};

/// The children of one kind, by the UID of the ModelServing that controls them.
#[derive(Debug)]
pub struct Family<F> {
    owners: HashMap<Arc<str>, Owner<F>>,
    /// The owner and the name of each child, by the child's UID.
    place_of: HashMap<String, (Arc<str>, Arc<str>)>,
    /// The watch has told everything up to this version.
    told: u64,
    /// Counts the lists.
    list: u32,
    /// The highest version in the list that runs.
    listed: u64,
}

/// The children of one ModelServing.
#[derive(Debug)]
struct Owner<F> {
    key: Key,
    children: BTreeMap<Arc<str>, Entry<F>>,
}

#[derive(Debug)]
struct Entry<F> {
    facts: Arc<F>,
    version: u64,
    /// We deleted it: whatever a watch that lags says, it terminates.
    doomed: bool,
    /// The last list that had it.
    listed: u32,
    /// The last list before or during which we wrote it.
    written: u32,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that a plan depends on.
    None,
    /// A plan may depend on it.
    Some,
}

impl<F> Default for Family<F> {
    fn default() -> Self {
        Self { owners: HashMap::new(), place_of: HashMap::new(), told: 0, list: 0, listed: 0 }
    }
}

impl<F: Facts> Family<F> {
    /// How many children there are.
    pub fn len(&self) -> usize {
        self.place_of.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.place_of.is_empty()
    }

    /// The children of a ModelServing, by name.
    pub fn of(&self, owner: &str) -> Vec<Arc<F>> {
        self.owners
            .get(owner)
            .map(|owner| owner.children.values().map(|entry| Arc::clone(&entry.facts)).collect())
            .unwrap_or_default()
    }

    /// Whether a ModelServing has a child of this name.
    pub fn holds(&self, owner: &str, name: &str) -> bool {
        self.owners.get(owner).is_some_and(|owner| owner.children.contains_key(name))
    }

    /// A list begins.
    pub fn list_begins(&mut self) {
        self.list += 1;
        self.listed = 0;
    }

    /// A list is complete. What it did not have is gone, unless we wrote it since: then the list may be older.
    /// Returns the owners of what is gone.
    pub fn list_ends(&mut self) -> Vec<Key> {
        let (list, listed) = (self.list, self.listed);
        self.told = self.told.max(listed);
        let mut bereft = Vec::new();
        let place_of = &mut self.place_of;
        for owner in self.owners.values_mut() {
            let before = owner.children.len();
            owner.children.retain(|_, entry| {
                let stays = entry.listed == list || entry.written == list && entry.version > listed;
                if !stays {
                    place_of.remove(entry.facts.uid());
                }
                stays
            });
            if owner.children.len() < before {
                bereft.push(owner.key.clone());
            }
        }
        self.owners.retain(|_, owner| !owner.children.is_empty());
        bereft
    }

    /// The watch told of an object, or a list has it. Returns its owner if a plan may depend on what is new.
    pub fn watched(&mut self, object: Reduced<F>, in_list: bool) -> Option<Key> {
        if in_list {
            self.listed = self.listed.max(object.version);
        } else {
            self.told = self.told.max(object.version);
        }
        let Some((key, owner)) = object.owner else {
            // It was ours and was let go.
            return self.remove(&object.uid);
        };
        let list = in_list.then_some(self.list);
        let change = self.put(key.clone(), &owner, object.facts, object.version, list, None);
        (change == Change::Some).then_some(key)
    }

    /// The API server answered a write of ours with this object.
    pub fn wrote(&mut self, object: Reduced<F>) {
        // The watch has told of it already, and perhaps that it is gone again.
        if object.version <= self.told {
            return;
        }
        if let Some((key, owner)) = object.owner {
            self.put(key, &owner, object.facts, object.version, None, Some(self.list));
        }
    }

    /// The object is gone. Returns its owner if it was known.
    pub fn gone(&mut self, uid: &str, version: u64) -> Option<Key> {
        self.told = self.told.max(version);
        self.remove(uid)
    }

    /// We deleted the object.
    pub fn doomed(&mut self, uid: &str) {
        let Some((owner, name)) = self.place_of.get(uid) else { return };
        if let Some(entry) = self.owners.get_mut(owner).and_then(|owner| owner.children.get_mut(name)) {
            entry.doomed = true;
            Arc::make_mut(&mut entry.facts).doom();
        }
    }

    fn put(
        &mut self,
        key: Key,
        owner: &str,
        mut facts: F,
        version: u64,
        listed: Option<u32>,
        written: Option<u32>,
    ) -> Change {
        let known = self.place_of.get(facts.uid());
        if known.is_some_and(|(known, _)| **known != *owner) {
            let uid = facts.uid().to_owned();
            self.remove(&uid);
        }
        let owner: Arc<str> = match self.owners.get_key_value(owner) {
            Some((owner, _)) => Arc::clone(owner),
            None => owner.into(),
        };
        let children =
            self.owners.entry(Arc::clone(&owner)).or_insert_with(|| Owner { key, children: BTreeMap::new() });
        let children = &mut children.children;
        match children.get_mut(facts.name()) {
            Some(entry) => {
                entry.listed = listed.unwrap_or(entry.listed);
                if version <= entry.version {
                    return Change::None;
                }
                let same = entry.facts.uid() == facts.uid();
                entry.version = version;
                entry.written = written.unwrap_or(entry.written);
                entry.doomed &= same;
                if entry.doomed {
                    facts.doom();
                }
                if *entry.facts == facts {
                    return Change::None;
                }
                if !same && let Some(place) = self.place_of.remove(entry.facts.uid()) {
                    self.place_of.insert(facts.uid().to_owned(), place);
                }
                entry.facts = Arc::new(facts);
            }
            None => {
                let name: Arc<str> = facts.name().into();
                self.place_of.insert(facts.uid().to_owned(), (owner, Arc::clone(&name)));
                let (listed, written) = (listed.unwrap_or(0), written.unwrap_or(0));
                children.insert(name, Entry { facts: Arc::new(facts), version, doomed: false, listed, written });
            }
        }
        Change::Some
    }

    fn remove(&mut self, uid: &str) -> Option<Key> {
        let (owner_uid, name) = self.place_of.remove(uid)?;
        let owner = self.owners.get_mut(&owner_uid)?;
        owner.children.remove(&name);
        let key = owner.key.clone();
        if owner.children.is_empty() {
            self.owners.remove(&owner_uid);
        }
        Some(key)
    }
}
