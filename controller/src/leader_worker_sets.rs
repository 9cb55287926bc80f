//! LeaderWorkerSets, served as ModelServings of the same name. What to write is decided in `planning`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use controller_api::leader_worker_set::{LeaderWorkerSet, LeaderWorkerSetStatus};
use controller_api::v1alpha1::model_serving::ModelServing;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use parking_lot::Mutex;
use planning::leader_worker_set::{Answer, answer};
use serde_json::json;
use tracing::warn;

use crate::apply::{Cluster, FIELD_MANAGER, Failure, outcome};
use crate::events::Events;
use crate::observe::store::{Key, Objects, Read, Store, Told};
use crate::observe::tolerant::Tolerant;
use crate::queue::{Outcome, Passes, Queue};

/// The LeaderWorkerSets that are known, and which of them to look at.
#[derive(Debug, Default)]
pub struct LeaderWorkerSets {
    known: Mutex<Objects<LeaderWorkerSet>>,
    /// Which to look at.
    pub queue: Arc<Queue>,
    /// Their status has no `observedGeneration`.
    old: AtomicBool,
}

impl LeaderWorkerSets {
    /// Takes what the watch told.
    pub fn tell(&self, told: Told<Tolerant<LeaderWorkerSet>>) {
        let keys = self.known.lock().tell(told);
        self.queue.wake(keys);
    }

    /// Whether this release of the kind has `status.observedGeneration`: older ones refuse it.
    pub fn set_generation(&self, has_it: bool) {
        self.old.store(!has_it, Ordering::Relaxed);
    }

    /// The ModelServings of these names changed: those of LeaderWorkerSets are looked at.
    pub fn served(&self, keys: &[Key]) {
        let keys: Vec<Key> = {
            let known = self.known.lock();
            keys.iter().filter(|key| known.get(key).is_some()).cloned().collect()
        };
        self.queue.wake(keys);
    }

    /// Forgets all: the kind itself is gone.
    pub fn forget(&self) {
        self.tell(Told::ListBegins);
        self.tell(Told::ListEnds);
    }
}

/// What makes passes over LeaderWorkerSets.
#[derive(Debug)]
pub struct Adopter {
    sets: Arc<LeaderWorkerSets>,
    store: Arc<Store>,
    cluster: Cluster,
    queue: Arc<Queue>,
    events: Events,
}

impl Adopter {
    /// Passes from these sets to this cluster; the ModelServings that are written are put into `store` and `queue`.
    #[must_use]
    pub fn new(
        sets: Arc<LeaderWorkerSets>,
        store: Arc<Store>,
        cluster: Cluster,
        queue: Arc<Queue>,
        events: Events,
    ) -> Self {
        Self { sets, store, cluster, queue, events }
    }
}

impl Passes for Adopter {
    async fn reconcile(&self, key: &Key) -> Outcome {
        let set = match self.sets.known.lock().get(key) {
            None => return Outcome::Gone,
            Some(Read::Bad { error, .. }) => {
                warn!(%key, %error, "A LeaderWorkerSet cannot be read and is left alone.");
                return Outcome::Settled;
            }
            Some(Read::Good(set)) => Arc::clone(set),
        };
        // The garbage collector takes the ModelServing.
        if set.metadata.deletion_timestamp.is_some() {
            return Outcome::Settled;
        }
        let found = match self.store.servings().get(key) {
            None => None,
            Some(Read::Good(serving)) => Some(Arc::clone(serving)),
            // It is woken when the ModelServing is mended.
            Some(Read::Bad { .. }) => return Outcome::Settled,
        };
        let Answer { apply, mut status } = answer(&set, found.as_deref(), jiff::Timestamp::now());
        if self.sets.old.load(Ordering::Relaxed)
            && let Some(new) = &mut status
        {
            new.observed_generation = None;
            status = status.filter(|new| set.status.as_ref() != Some(&**new));
        }
        if apply.is_none() && status.is_none() {
            return Outcome::Settled;
        }
        let written = self.write(key, &set, found.is_some(), apply, status).await;
        outcome(&self.events, key, &*set, written)
    }
}

impl Adopter {
    async fn write(
        &self,
        key: &Key,
        set: &LeaderWorkerSet,
        found: bool,
        apply: Option<Box<ModelServing>>,
        status: Option<Box<LeaderWorkerSetStatus>>,
    ) -> Result<(), Failure> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        if let Some(serving) = apply {
            let api: Api<ModelServing> = Api::namespaced(self.cluster.client(), &key.namespace);
            // Server-side apply would take over somebody's new ModelServing without a word.
            if !found && let Some(found) = self.cluster.get(&api, "ModelServing", &key.name).await? {
                self.store.servings().wrote(found);
                return Ok(());
            }
            let body = Patch::Apply(&serving);
            let patch = api.patch(&key.name, &params, &body);
            let applied = self.cluster.write("apply", "ModelServing", &key.name, patch).await?;
            self.store.servings().wrote(applied);
            self.queue.wake([key.clone()]);
        }
        if let Some(status) = status {
            let api: Api<LeaderWorkerSet> = Api::namespaced(self.cluster.client(), &key.namespace);
            let body = Patch::Apply(json!({
                "apiVersion": LeaderWorkerSet::api_version(&()),
                "kind": LeaderWorkerSet::kind(&()),
                "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": set.metadata.uid},
                "status": status,
            }));
            let patch = api.patch_status(&key.name, &params, &body);
            let applied = self.cluster.write("apply", "LeaderWorkerSet/status", &key.name, patch).await?;
            self.sets.known.lock().wrote(applied);
        }
        Ok(())
    }
}
