//! What the watches told and what our own writes were answered, reduced to facts.
//!
//! A watch lags behind the API server. So that the next pass sees what this one wrote, answers are put here at once;
//! the newer resource version wins, whichever way it came. Resource versions of one kind are numbers that grow
//! (Kubernetes, "API concepts", resource versions; guaranteed from 1.35 on and true for etcd before).

mod family;
mod objects;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use controller_api::pod_group::PodGroup;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use parking_lot::Mutex;
use planning::observed::{Attempt, GangSupport, Observed, PodFacts, PodGroupFacts, ServiceFacts};
use planning::plan::ChildKind;

pub use family::{Change, Family};
pub use objects::{Asked, Objects, Read};

/// The ModelServings.
pub type Servings = Objects<ModelServing>;
/// A ModelServing as it is known.
pub type Serving = Read<ModelServing>;

/// The name of a ModelServing; what is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// Of a namespace and a name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object of a kind that a ModelServing owns, and what is kept of it.
pub trait Child: Resource<DynamicType = ()> {
    /// What is kept.
    type Facts: Facts;
    /// Reduces the object.
    fn facts(self) -> Self::Facts;
    /// Where facts of this kind are.
    fn family(families: &mut Families) -> &mut Family<Self::Facts>;
}

/// What is kept of an object.
pub trait Facts: Clone + PartialEq + Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &str;
    /// Its UID.
    fn uid(&self) -> &str;
    /// It was deleted by us: it has, or is about to have, a deletion timestamp.
    fn doom(&mut self);
}

/// The children of all ModelServings, by kind.
#[derive(Debug, Default)]
pub struct Families {
    pods: Family<PodFacts>,
    services: Family<ServiceFacts>,
    pod_groups: Family<PodGroupFacts>,
    revisions: Family<ControllerRevision>,
}

/// Everything that is known of the cluster.
#[derive(Debug, Default)]
pub struct Store {
    servings: Mutex<Servings>,
    families: Mutex<Families>,
    gangs: Mutex<GangSupport>,
}

/// What a watch tells, in the order in which it tells it.
#[derive(Debug)]
pub enum Told<K> {
    /// A list begins.
    ListBegins,
    /// An object of the list.
    Listed(K),
    /// The list is complete: what was not in it is gone.
    ListEnds,
    /// An object is new or changed.
    Changed(K),
    /// An object is gone.
    Gone(K),
}

impl<K> Told<K> {
    /// The same of another kind of object.
    pub fn map<L>(self, change: impl FnOnce(K) -> L) -> Told<L> {
        match self {
            Self::ListBegins => Told::ListBegins,
            Self::ListEnds => Told::ListEnds,
            Self::Listed(object) => Told::Listed(change(object)),
            Self::Changed(object) => Told::Changed(change(object)),
            Self::Gone(object) => Told::Gone(change(object)),
        }
    }
}

impl Store {
    /// Takes what a watch told of children. Returns the ModelServings that may have to do something about it.
    pub fn tell<K: Child>(&self, told: Told<K>) -> Vec<Key> {
        let mut families = self.families.lock();
        let family = K::family(&mut families);
        match told {
            Told::ListBegins => {
                family.list_begins();
                Vec::new()
            }
            Told::Listed(object) => family.watched(reduced(object), true).into_iter().collect(),
            Told::Changed(object) => family.watched(reduced(object), false).into_iter().collect(),
            Told::ListEnds => family.list_ends(),
            Told::Gone(object) => {
                let meta = object.meta();
                let (uid, version) = (meta.uid.clone().unwrap_or_default(), version(meta));
                family.gone(&uid, version).into_iter().collect()
            }
        }
    }

    /// Takes the API server's answer to a write of ours.
    pub fn wrote<K: Child>(&self, object: K) {
        K::family(&mut self.families.lock()).wrote(reduced(object));
    }

    /// The API server took our deletion of the object with this UID.
    pub fn deleted(&self, kind: ChildKind, uid: &str) {
        let mut families = self.families.lock();
        match kind {
            ChildKind::Pod => families.pods.doomed(uid),
            ChildKind::Service => families.services.doomed(uid),
            ChildKind::PodGroup => families.pod_groups.doomed(uid),
            ChildKind::ControllerRevision => families.revisions.doomed(uid),
        }
    }

    /// The API server knows no object with this UID.
    pub fn lost(&self, kind: ChildKind, uid: &str) {
        let mut families = self.families.lock();
        let _key = match kind {
            ChildKind::Pod => families.pods.gone(uid, 0),
            ChildKind::Service => families.services.gone(uid, 0),
            ChildKind::PodGroup => families.pod_groups.gone(uid, 0),
            ChildKind::ControllerRevision => families.revisions.gone(uid, 0),
        };
    }

    /// Whether a child of this kind, owner and name is known.
    pub fn knows<K: Child>(&self, owner: &str, name: &str) -> bool {
        K::family(&mut self.families.lock()).holds(owner, name)
    }

    /// Forgets all children of a kind: the kind itself is gone. Returns their ModelServings.
    pub fn forget<K: Child>(&self) -> Vec<Key> {
        let mut families = self.families.lock();
        let family = K::family(&mut families);
        family.list_begins();
        family.list_ends()
    }

    /// The ModelServings.
    pub fn servings(&self) -> parking_lot::MutexGuard<'_, Servings> {
        self.servings.lock()
    }

    /// The children of the ModelServing with this UID, by name.
    pub fn observed(&self, owner: &str) -> Observed {
        let gangs = *self.gangs.lock();
        let families = self.families.lock();
        Observed {
            pods: families.pods.of(owner),
            services: families.services.of(owner),
            pod_groups: families.pod_groups.of(owner),
            revisions: families.revisions.of(owner),
            gangs,
            attempt: Attempt::Unknown,
        }
    }

    /// How many children are known: pods, services, PodGroups, revisions.
    pub fn sizes(&self) -> [usize; 4] {
        let families = self.families.lock();
        [families.pods.len(), families.services.len(), families.pod_groups.len(), families.revisions.len()]
    }

    /// What the cluster can do about gangs. Returns whether that is new.
    pub fn set_gangs(&self, gangs: GangSupport) -> bool {
        std::mem::replace(&mut *self.gangs.lock(), gangs) != gangs
    }
}

/// An object on its way into a [`Family`].
#[derive(Debug)]
pub struct Reduced<F> {
    /// The ModelServing that controls it; none if it is foreign.
    owner: Option<(Key, String)>,
    version: u64,
    uid: String,
    facts: F,
}

fn reduced<K: Child>(object: K) -> Reduced<K::Facts> {
    let meta = object.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let owner = controller(meta).map(|owner| (Key::new(namespace, &owner.name), owner.uid.clone()));
    Reduced { owner, version: version(meta), uid: meta.uid.clone().unwrap_or_default(), facts: object.facts() }
}

/// The ModelServing that controls an object.
#[must_use]
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let group = <ModelServing as Resource>::group(&());
    meta.owner_references.iter().flatten().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == <ModelServing as Resource>::kind(&())
            && owner.api_version.split('/').next() == Some(&*group)
    })
}

/// An object's resource version; 0 if it has none.
#[must_use]
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Child for Pod {
    type Facts = PodFacts;

    fn facts(self) -> PodFacts {
        planning::objects::pod_facts(&self)
    }

    fn family(families: &mut Families) -> &mut Family<PodFacts> {
        &mut families.pods
    }
}

impl Child for Service {
    type Facts = ServiceFacts;

    fn facts(self) -> ServiceFacts {
        planning::objects::service_facts(&self)
    }

    fn family(families: &mut Families) -> &mut Family<ServiceFacts> {
        &mut families.services
    }
}

impl Child for PodGroup {
    type Facts = PodGroupFacts;

    fn facts(self) -> PodGroupFacts {
        planning::objects::pod_group_facts(&self)
    }

    fn family(families: &mut Families) -> &mut Family<PodGroupFacts> {
        &mut families.pod_groups
    }
}

impl Child for ControllerRevision {
    type Facts = Self;

    fn facts(mut self) -> Self {
        self.metadata.managed_fields = None;
        self.metadata.resource_version = None;
        self
    }

    fn family(families: &mut Families) -> &mut Family<Self> {
        &mut families.revisions
    }
}

macro_rules! facts {
    ($($facts:ty),*) => {$(
        impl Facts for $facts {
            fn name(&self) -> &str {
                &self.name
            }

            fn uid(&self) -> &str {
                &self.uid
            }

            fn doom(&mut self) {
                self.terminating = true;
            }
        }
    )*};
}
facts!(PodFacts, ServiceFacts, PodGroupFacts);

impl Facts for ControllerRevision {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn doom(&mut self) {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
        // Any time will do: only whether there is one counts.
        self.metadata.deletion_timestamp.get_or_insert(Time(jiff::Timestamp::UNIX_EPOCH));
    }
}
