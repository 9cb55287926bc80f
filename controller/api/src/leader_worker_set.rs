//! `leaderworkerset.x-k8s.io/v1` `LeaderWorkerSet`, as far as it is read: SIG Apps owns the kind.
//!
//! Policies are words, not enums: one that a newer release adds must not make the object unreadable.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group.
pub const GROUP: &str = "leaderworkerset.x-k8s.io";
/// The kind.
pub const KIND: &str = "LeaderWorkerSet";

/// Label of a pod: the LeaderWorkerSet.
pub const NAME_LABEL: &str = "leaderworkerset.sigs.k8s.io/name";
/// Label of a pod: its group's number.
pub const GROUP_INDEX_LABEL: &str = "leaderworkerset.sigs.k8s.io/group-index";
/// Label of a pod: its number in the group; 0 is the leader.
pub const WORKER_INDEX_LABEL: &str = "leaderworkerset.sigs.k8s.io/worker-index";
/// Label of a pod: the same for all pods of a group, and for no others.
pub const GROUP_KEY_LABEL: &str = "leaderworkerset.sigs.k8s.io/group-key";
/// Annotation: each group has a domain of this topology key for itself.
pub const EXCLUSIVE_TOPOLOGY: &str = "leaderworkerset.sigs.k8s.io/exclusive-topology";
/// Annotation: each subgroup has a domain of this topology key for itself.
pub const SUBGROUP_EXCLUSIVE_TOPOLOGY: &str = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology";

/// Environment of every container: where the leader is reached.
pub const LEADER_ADDRESS_ENV: &str = "LWS_LEADER_ADDRESS";
/// Environment of every container: pods in the group, the leader included.
pub const GROUP_SIZE_ENV: &str = "LWS_GROUP_SIZE";
/// Environment of every container: 0 for the leader.
pub const WORKER_INDEX_ENV: &str = "LWS_WORKER_INDEX";

/// Groups of a leader and its workers.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "leaderworkerset.x-k8s.io",
    version = "v1",
    kind = "LeaderWorkerSet",
    plural = "leaderworkersets",
    namespaced,
    status = "LeaderWorkerSetStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct LeaderWorkerSetSpec {
    /// How many groups; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Of what a group consists.
    pub leader_worker_template: LeaderWorkerTemplate,
    /// How groups move to another template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_strategy: Option<LeaderWorkerSetRollout>,
    /// `LeaderCreated` (if absent): workers start with their leader. `LeaderReady`: after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_policy: Option<String>,
    /// How pods are named in DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_config: Option<NetworkConfig>,
}

/// Of what a group consists.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderWorkerTemplate {
    /// The leader; like a worker if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_template: Option<PodTemplateSpec>,
    /// Each worker.
    #[serde(default)]
    pub worker_template: PodTemplateSpec,
    /// Pods in a group, the leader included; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i32>,
    /// `RecreateGroupOnPodRestart` (if absent), `RecreateGroupAfterStart`, `None`, or `Default`, which is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
    /// Groups within the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_group_policy: Option<LeaderWorkerSubGroupPolicy>,
    /// Claims of each pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_claim_templates: Vec<serde_json::Value>,
}

/// Groups within the group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderWorkerSubGroupPolicy {
    /// `LeaderWorker` (if absent) or `LeaderExcluded`.
    #[serde(rename = "subGroupPolicyType", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Pods in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_group_size: Option<i32>,
}

/// How groups move to another template.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderWorkerSetRollout {
    /// `RollingUpdate`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update_configuration: Option<LeaderWorkerSetRollingUpdate>,
}

/// Limits of a rolling update.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderWorkerSetRollingUpdate {
    /// Groups with a lower number keep their template; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Groups that may be missing; 1 if absent; a percentage is rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// Groups above `replicas` that may exist; 0 if absent; a percentage is rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
}

/// How pods are named in DNS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// `Shared` (if absent) or `UniquePerReplica`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdomain_policy: Option<String>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderWorkerSetStatus {
    /// The generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Groups that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Groups of which every pod is ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Groups of the newest template.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Selects the leaders: what an autoscaler counts and averages over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hpa_pod_selector: Option<String>,
    /// `Available`, `Progressing`, `UpdateInProgress`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
