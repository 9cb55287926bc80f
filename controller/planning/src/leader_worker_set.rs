//! A LeaderWorkerSet served as a ModelServing: its users keep their manifests.
//!
//! One role, `default`, with one instance per group: the leader is its entry pod. What a LeaderWorkerSet promises to
//! its containers holds (environment, labels, restarts, rollout, start-up order); names of pods and services are those
//! of a ModelServing, so a leader is found by `LWS_LEADER_ADDRESS` and by labels, not by a name that was put together.

mod status;

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::leader_worker_set::{
    EXCLUSIVE_TOPOLOGY, GROUP, KIND, LeaderWorkerSet, LeaderWorkerSetStatus, NAME_LABEL, SUBGROUP_EXCLUSIVE_TOPOLOGY,
};
use controller_api::v1alpha1::model_serving::{
    ModelServing, ModelServingSpec, Plugin, PluginType, RecoveryPolicy, Role, RollingUpdate, RolloutStrategy,
    RolloutType, ServingGroupTemplate,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;
use serde_json::{Value, json};
pub use status::status_of;
use xxhash_rust::xxh3::xxh3_64;

use crate::revision::write_sorted;

/// The only role.
pub const ROLE: &str = "default";

/// The scheduler of pods that name none. A LeaderWorkerSet is no gang unless it asks for one.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Annotation of the ModelServing: what was last applied, so that a field that was taken back is noticed.
const APPLIED: &str = "modelserving.volcano.sh/leader-worker-set";

/// Annotations that mean the same on both kinds.
const HANDED_DOWN: [&str; 4] = [labels::QUEUE_NAME, labels::PAUSED, labels::ROLLBACK_TO, labels::CHANGE_CAUSE];

/// What to write for a LeaderWorkerSet.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Server-side apply, if it differs from what there is.
    pub apply: Option<Box<ModelServing>>,
    /// The whole status, if it differs from what there is.
    pub status: Option<Box<LeaderWorkerSetStatus>>,
}

/// Why a LeaderWorkerSet is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something else has its name.
    #[error(
        "the ModelServing {0} exists and does not belong to this LeaderWorkerSet: rename one of them, or delete it"
    )]
    NameTaken(String),
    /// It asks for what a ModelServing does not do.
    #[error("{} cannot be served by a ModelServing: remove {}", .0.join(", "), if .0.len() == 1 { "it" } else { "them" })]
    Unsupported(Vec<&'static str>),
}

/// What to write for `set`, where `found` is the ModelServing of its name. A ModelServing that the set does not
/// control is never touched.
pub fn answer(set: &LeaderWorkerSet, found: Option<&ModelServing>, now: Timestamp) -> Answer {
    let ours = found.filter(|found| belongs(found, set));
    let foreign = found.is_some() && ours.is_none();
    let unsupported = unsupported(set);
    let refusal = if foreign {
        Some(Refusal::NameTaken(set.metadata.name.clone().unwrap_or_default()))
    } else if unsupported.is_empty() {
        None
    } else {
        Some(Refusal::Unsupported(unsupported))
    };
    let wanted = refusal.is_none().then(|| serving_of(set));
    let apply = wanted.filter(|wanted| ours.is_none_or(|ours| differs(wanted, ours)));
    let settled = if apply.is_some() { None } else { ours };
    let status = match &refusal {
        Some(refusal) => status::refused(set, ours, refusal, now),
        None => status::of(set, ours, settled.is_some(), now),
    };
    let told = set.status.as_ref().is_some_and(|before| !tells_more(&status, before));
    Answer { apply: apply.map(Box::new), status: (!told).then(|| Box::new(status)) }
}

/// Whether writing `status` would change `before`. Older releases of LWS (0.8) do not keep `observedGeneration`: its
/// absence is no difference; the conditions have their own.
fn tells_more(status: &LeaderWorkerSetStatus, before: &LeaderWorkerSetStatus) -> bool {
    let kept = before.observed_generation.and(status.observed_generation);
    *before != LeaderWorkerSetStatus { observed_generation: kept, ..status.clone() }
}

/// The LeaderWorkerSet that controls `serving`.
pub fn owner(serving: &ModelServing) -> Option<&OwnerReference> {
    let owners = serving.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == KIND
            && owner.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
    })
}

/// Whether `set`, this very object, controls `serving`.
pub fn belongs(serving: &ModelServing, set: &LeaderWorkerSet) -> bool {
    owner(serving).is_some_and(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
}

/// The ModelServing that serves `set`.
pub fn serving_of(set: &LeaderWorkerSet) -> ModelServing {
    let name = set.metadata.name.clone().unwrap_or_default();
    let template = &set.spec.leader_worker_template;
    let leader = template.leader_template.as_ref().unwrap_or(&template.worker_template);
    let scheduler = leader.spec.as_ref().and_then(|spec| spec.scheduler_name.clone());

    let mut annotations: BTreeMap<String, String> = set
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| HANDED_DOWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if set.spec.startup_policy.as_deref() == Some("LeaderReady") {
        annotations.insert(labels::STARTUP_POLICY.to_owned(), "LeaderReady".to_owned());
    }
    let spec = ModelServingSpec {
        replicas: Some(set.spec.replicas.unwrap_or(1)),
        scheduler_name: Some(scheduler.filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT_SCHEDULER.to_owned())),
        plugins: plugins(set),
        template: ServingGroupTemplate {
            roles: vec![Role {
                name: ROLE.to_owned(),
                replicas: Some(1),
                entry_template: leader.clone(),
                worker_replicas: template.size.unwrap_or(1).saturating_sub(1).max(0),
                worker_template: Some(template.worker_template.clone()),
                ..Role::default()
            }],
            ..ServingGroupTemplate::default()
        },
        rollout_strategy: Some(rollout(set)),
        recovery_policy: Some(match template.restart_policy.as_deref() {
            // One instance per group, so either recreates the same pods.
            None | Some("RecreateGroupOnPodRestart" | "RecreateGroupAfterStart") => {
                RecoveryPolicy::ServingGroupRecreate
            }
            Some(_) => RecoveryPolicy::None,
        }),
        revision_history_limit: None,
    };
    annotations.insert(APPLIED.to_owned(), digest(&spec, &annotations));
    let mut serving = ModelServing::new(&name, spec);
    serving.metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: set.metadata.namespace.clone(),
        labels: Some(BTreeMap::from([(NAME_LABEL.to_owned(), name.clone())])),
        annotations: Some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: LeaderWorkerSet::api_version(&()).into_owned(),
            kind: KIND.to_owned(),
            name,
            uid: set.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    };
    serving
}

fn plugins(set: &LeaderWorkerSet) -> Vec<Plugin> {
    let plugin = |name: &str, config| Plugin { name: name.to_owned(), kind: PluginType::BuiltIn, config, scope: None };
    let mut plugins = vec![plugin("lws-standard-labels", None), plugin("lws-environment", None)];
    let topology = set.metadata.annotations.as_ref().and_then(|all| all.get(EXCLUSIVE_TOPOLOGY));
    plugins.extend(topology.map(|key| plugin("lws-exclusive-topology", Some(json!({"topologyKey": key})))));
    plugins
}

/// The same limits; absent ones mean the same on both sides.
fn rollout(set: &LeaderWorkerSet) -> RolloutStrategy {
    let given = set.spec.rollout_strategy.as_ref().and_then(|given| given.rolling_update_configuration.as_ref());
    RolloutStrategy {
        kind: RolloutType::ServingGroupRollingUpdate,
        rolling_update_configuration: given.map(|given| RollingUpdate {
            max_unavailable: given.max_unavailable.clone(),
            partition: given.partition.map(IntOrString::Int),
            max_surge: given.max_surge.clone(),
        }),
        ..RolloutStrategy::default()
    }
}

/// Fields that would be lost, and that a set cannot do without.
fn unsupported(set: &LeaderWorkerSet) -> Vec<&'static str> {
    let template = &set.spec.leader_worker_template;
    let annotated = |key: &str| set.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key));
    [
        (!template.volume_claim_templates.is_empty(), "spec.leaderWorkerTemplate.volumeClaimTemplates"),
        (template.sub_group_policy.is_some(), "spec.leaderWorkerTemplate.subGroupPolicy"),
        (
            annotated(SUBGROUP_EXCLUSIVE_TOPOLOGY),
            "the annotation leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology",
        ),
    ]
    .into_iter()
    .filter_map(|(asked, what)| asked.then_some(what))
    .collect()
}

fn digest(spec: &ModelServingSpec, annotations: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    write_sorted(&json!({"spec": spec, "annotations": annotations}), &mut text);
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// Whether applying `wanted` would change `found`: a field of it is missing or different there (the API server's
/// defaults and what others added are beside the point), or something else was applied last.
fn differs(wanted: &ModelServing, found: &ModelServing) -> bool {
    !contains(&json!(found), &json!(wanted))
}

/// Whether all of `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

#[cfg(test)]
mod tests;
