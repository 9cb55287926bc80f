//! One pass over one ModelServing: observe, plan, apply.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use controller_api::conditions;
use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus};
use kube::Resource;
use kube::api::ObjectMeta;
use parking_lot::Mutex;
use planning::observed::Attempt;
use planning::plan::{Event, Plan, Step, Write};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::apply::{Cluster, Failure};
use crate::events::Events;
use crate::leader_worker_sets::LeaderWorkerSets;
use crate::metrics::Metrics;
use crate::observe::store::{Key, Serving, Store};
use crate::queue::{Outcome, Passes};

/// How long counts in a status may settle before they are written, the first time; twice as long each time after
/// that, as long as nothing else changes: a hundred pods that become ready one by one are few writes.
const SETTLE: Duration = Duration::from_secs(1);
/// The longest such wait.
const SETTLE_LIMIT: Duration = Duration::from_secs(8);

/// What makes passes.
#[derive(Debug)]
pub struct Reconciler {
    store: Arc<Store>,
    cluster: Cluster,
    events: Events,
    metrics: Arc<Metrics>,
    sets: Arc<LeaderWorkerSets>,
    settling: Mutex<HashMap<Key, Settling>>,
    attempts: Mutex<HashMap<Key, Attempted>>,
}

/// The last plan that was carried out, or was tried to.
#[derive(Clone, Debug)]
struct Attempted {
    uid: Option<String>,
    generation: Option<i64>,
    outcome: Attempt,
}

/// A status whose counts alone are out of date.
#[derive(Clone, Copy, Debug)]
struct Settling {
    since: Option<Instant>,
    patience: Duration,
}

impl Reconciler {
    /// Passes from this store to this cluster; LeaderWorkerSets among `sets` hear of their ModelServings' statuses.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        cluster: Cluster,
        events: Events,
        metrics: Arc<Metrics>,
        sets: Arc<LeaderWorkerSets>,
    ) -> Self {
        Self { store, cluster, events, metrics, sets, settling: Mutex::default(), attempts: Mutex::default() }
    }
}

impl Passes for Reconciler {
    async fn reconcile(&self, key: &Key) -> Outcome {
        let start = Instant::now();
        let (label, outcome) = self.pass(key).await;
        self.metrics.passed(label, start.elapsed());
        outcome
    }
}

impl Reconciler {
    async fn pass(&self, key: &Key) -> (&'static str, Outcome) {
        let serving = self.store.servings().get(key).cloned();
        let serving = match serving {
            None => {
                self.settling.lock().remove(key);
                self.attempts.lock().remove(key);
                return ("gone", Outcome::Gone);
            }
            Some(Serving::Bad { uid, error }) => {
                self.complain(key, &uid, &error);
                return ("unreadable", Outcome::Settled);
            }
            // The garbage collector takes the children.
            Some(Serving::Good(serving)) if serving.metadata.deletion_timestamp.is_some() => {
                return ("deleting", Outcome::Settled);
            }
            Some(Serving::Good(serving)) => serving,
        };
        let mut observed = self.store.observed(serving.metadata.uid.as_deref().unwrap_or_default());
        observed.attempt = self.attempt(key, &serving);
        let now = jiff::Timestamp::now();
        let Plan { steps, wake_at } = planning::plan(&serving, &observed, now);
        drop(observed);
        let wake = wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        if steps.is_empty() {
            self.settled(key);
            return ("settled", wake.map_or(Outcome::Settled, Outcome::After));
        }
        if let Some(wait) = self.may_wait(key, &serving, &steps) {
            return ("waiting", Outcome::After(wake.map_or(wait, |wake| wake.min(wait))));
        }
        match self.cluster.apply(key, &serving, steps).await {
            Ok(()) => {
                self.attempted(key, &serving, Attempt::Unhindered);
                // The watch wakes nobody when it tells what we wrote.
                self.sets.served(std::slice::from_ref(key));
                ("written", Outcome::Again)
            }
            Err(failure) => self.failed(key, &serving, &failure),
        }
    }

    /// How long a status may still wait, if the plan is nothing else and only its counts changed.
    fn may_wait(&self, key: &Key, serving: &ModelServing, steps: &[Step]) -> Option<Duration> {
        let old = serving.status.as_ref();
        let mut all = self.settling.lock();
        let counts_only = match steps {
            // Its events follow from the difference to what was written last: they are not lost, only later.
            [Step { writes, events: _ }] => match writes.as_slice() {
                [Write::Status(new)] => old.is_some_and(|old| same_but_counts(old, new)),
                _ => false,
            },
            _ => false,
        };
        if !counts_only {
            all.remove(key);
            return None;
        }
        let now = Instant::now();
        let settling = all.entry(key.clone()).or_insert(Settling { since: None, patience: SETTLE });
        let since = *settling.since.get_or_insert(now);
        let left = settling.patience.checked_sub(now.duration_since(since)).filter(|left| !left.is_zero());
        if left.is_none() {
            *settling = Settling { since: None, patience: (settling.patience * 2).min(SETTLE_LIMIT) };
        }
        left
    }

    /// The status is right: nothing waits.
    fn settled(&self, key: &Key) {
        if let Some(settling) = self.settling.lock().get_mut(key) {
            settling.since = None;
        }
    }

    fn failed(&self, key: &Key, serving: &ModelServing, failure: &Failure) -> (&'static str, Outcome) {
        let reason = match failure {
            Failure::OutOfTime | Failure::Outdated => {
                debug!(%key, %failure, "A pass was cut short.");
                return ("cut short", Outcome::Again);
            }
            Failure::Soon(_) => {
                info!(%key, %failure, "A pass failed; it is tried again.");
                return ("failed", Outcome::Failed);
            }
            Failure::Refused(_) => conditions::WRITE_REFUSED,
            Failure::NameTaken { .. } => conditions::NAME_TAKEN,
        };
        warn!(%key, %failure, "A write is refused.");
        let before = self.attempted(key, serving, Attempt::Refused { reason, message: failure.to_string() });
        // The next pass says it in the status, at once. Every further one waits.
        let news = !matches!(before, Attempt::Refused { .. });
        ("refused", if news { Outcome::Again } else { Outcome::Refused })
    }

    /// How the last plan for this spec fared.
    fn attempt(&self, key: &Key, serving: &ModelServing) -> Attempt {
        let Some(last) = self.attempts.lock().get(key).cloned() else { return Attempt::Unknown };
        let same = last.uid == serving.metadata.uid && last.generation == serving.metadata.generation;
        if same { last.outcome } else { Attempt::Unhindered }
    }

    /// Keeps how a plan fared. Returns how the one before did.
    fn attempted(&self, key: &Key, serving: &ModelServing, outcome: Attempt) -> Attempt {
        let before = self.attempt(key, serving);
        let ObjectMeta { uid, generation, .. } = serving.metadata.clone();
        self.attempts.lock().insert(key.clone(), Attempted { uid, generation, outcome });
        before
    }

    fn complain(&self, key: &Key, uid: &str, error: &str) {
        warn!(%key, error, "A ModelServing cannot be read and is left alone.");
        let metadata = ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        let message = format!("this operator cannot read the object, nothing is changed until it is mended: {error}");
        let event = Event { warning: true, reason: "Unreadable", action: "Read", message };
        self.events.tell(&Named(metadata), event);
    }
}

/// Whether two statuses say the same, counts and messages apart.
fn same_but_counts(old: &ModelServingStatus, new: &ModelServingStatus) -> bool {
    let conditions = |status: &ModelServingStatus| -> Vec<(String, String, String)> {
        let say = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            (condition.type_.clone(), condition.status.clone(), condition.reason.clone())
        };
        status.conditions.iter().map(say).collect()
    };
    old.observed_generation == new.observed_generation
        && old.current_revision == new.current_revision
        && old.update_revision == new.update_revision
        && old.label_selector == new.label_selector
        && old.recoveries == new.recoveries
        && new.forming.iter().all(|unit| old.forming.contains(unit))
        && conditions(old) == conditions(new)
}

/// The name of a ModelServing of which nothing else can be read.
struct Named(ObjectMeta);

impl Resource for Named {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind(_: &()) -> std::borrow::Cow<'_, str> {
        ModelServing::kind(&())
    }

    fn group(_: &()) -> std::borrow::Cow<'_, str> {
        ModelServing::group(&())
    }

    fn version(_: &()) -> std::borrow::Cow<'_, str> {
        ModelServing::version(&())
    }

    fn plural(_: &()) -> std::borrow::Cow<'_, str> {
        ModelServing::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A status with two of three groups ready, and what `change` says.
    fn status(change: &Value) -> ModelServingStatus {
        let mut status = json!({
            "observedGeneration": 2, "replicas": 3, "availableReplicas": 2, "updateRevision": "b",
            "forming": ["llm-1", "llm-2"],
            "conditions": [{
                "type": "Available", "status": "False", "reason": "GroupsNotReady", "message": "2 of 3",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        });
        for (pointer, value) in change.as_object().unwrap() {
            *status.pointer_mut(pointer).unwrap() = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn counts_and_messages_may_wait_and_what_somebody_waits_for_may_not() {
        let old = status(&json!({}));
        let recovery = json!({
            "part": "llm-1", "count": 1, "lastTime": "2026-01-01T00:00:00Z", "cause": "uid", "reason": "lost",
        });
        for (pointer, value, may) in [
            ("/availableReplicas", json!(3), true),
            ("/conditions/0/message", json!("3 of 3"), true),
            ("/forming", json!(["llm-2"]), true),
            ("/forming", json!(["llm-1", "llm-2", "llm-3"]), false),
            ("/conditions/0/status", json!("True"), false),
            ("/conditions/0/reason", json!("AllGroupsReady"), false),
            ("/observedGeneration", json!(3), false),
            ("/updateRevision", json!("c"), false),
        ] {
            let new = status(&json!({pointer: value}));
            assert_eq!(same_but_counts(&old, &new), may, "{pointer}: {value}");
        }
        let new = ModelServingStatus { recoveries: vec![serde_json::from_value(recovery).unwrap()], ..old.clone() };
        assert!(!same_but_counts(&old, &new), "a recovery is written before its deletes");
    }
}
