//! `ModelServing`: groups of prefill, decode or other role instances that serve a model together.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many groups there shall be, of what they consist, and how they change.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "workload.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelServing",
    namespaced,
    status = "ModelServingStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ModelServingSpec {
    /// How many serving groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The scheduler of every pod; with `volcano`, each group is a gang. Empty means the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// What is done to each pod before it is created, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin>,
    /// Of what each group consists.
    pub template: ServingGroupTemplate,
    /// How groups move to another revision of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_strategy: Option<RolloutStrategy>,
    /// What is rebuilt when a pod fails or disappears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_policy: Option<RecoveryPolicy>,
    /// How many revisions that no group uses are kept for a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
}

/// A step in the building of a pod.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// The name of a built-in plugin.
    pub name: String,
    /// Where the plugin lives.
    #[serde(rename = "type", default)]
    pub kind: PluginType,
    /// The plugin's own settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// Which pods it is applied to; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<PluginScope>,
}

/// Where a plugin lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PluginType {
    /// In the operator.
    #[default]
    BuiltIn,
}

/// Which pods a plugin is applied to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginScope {
    /// Names of roles; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Entry pods, worker pods, or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PluginTarget>,
}

/// Which pods of a role instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PluginTarget {
    /// Both.
    #[default]
    All,
    /// The entry pod.
    Entry,
    /// The worker pods.
    Worker,
}

/// Of what a group consists.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServingGroupTemplate {
    /// How long a failed pod is left to recover by itself, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_grace_period_seconds: Option<i64>,
    /// How much of a group must be schedulable at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_policy: Option<GangPolicy>,
    /// How near to each other a group's nodes must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_topology: Option<GroupNetworkTopology>,
    /// One to four roles.
    pub roles: Vec<Role>,
}

/// How much of a group must be schedulable at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GangPolicy {
    /// Role name → instances; a role that is absent counts with all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_role_replicas: Option<BTreeMap<String, i32>>,
}

/// How near to each other nodes must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupNetworkTopology {
    /// For all pods of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_policy: Option<NetworkTopology>,
    /// For the pods of each role instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_policy: Option<NetworkTopology>,
}

/// Volcano's `NetworkTopologySpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkTopology {
    /// Whether the limit binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkTopologyMode>,
    /// The highest tier of the topology that a gang may span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_tier_allowed: Option<i32>,
    /// The same by the tier's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_tier_name: Option<String>,
}

/// Whether a topology's limit binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkTopologyMode {
    /// It does.
    #[default]
    Hard,
    /// It is a wish.
    Soft,
}

/// One role: instances of an entry pod and its workers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Unique among the roles; part of its pods' names.
    pub name: String,
    /// Instances per group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The first pod of an instance.
    pub entry_template: PodTemplateSpec,
    /// Worker pods per instance, beside the entry pod.
    #[serde(default)]
    pub worker_replicas: i32,
    /// Each worker pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_template: Option<PodTemplateSpec>,
    /// With `RoleRollingUpdate`: instances of this role in one group that may be missing during an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// With `RoleRollingUpdate`: instances with a lower index keep their revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<IntOrString>,
    /// With `RoleRollingUpdate`: instances above `replicas` that may exist during an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
}

/// How groups move to another revision.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStrategy {
    /// What is replaced at a time.
    #[serde(rename = "type", default)]
    pub kind: RolloutType,
    /// Limits for whole groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update_configuration: Option<RollingUpdate>,
    /// Holds the rollout where it is; repair and scaling go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Serves this revision, by number or name, in place of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_to: Option<IntOrString>,
}

/// What is replaced at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RolloutType {
    /// Whole groups.
    #[default]
    ServingGroupRollingUpdate,
    /// The instances of those roles that changed.
    RoleRollingUpdate,
}

/// Limits of a rolling update of groups.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// Groups that may be missing; a percentage of `replicas` is rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// Groups with a lower ordinal keep their revision; a percentage is rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<IntOrString>,
    /// Groups above `replicas` that may exist; a percentage is rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
}

/// What is rebuilt when a pod fails or disappears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RecoveryPolicy {
    /// Its whole group.
    ServingGroupRecreate,
    /// Its role instance.
    #[default]
    RoleRecreate,
    /// That pod, if its object is gone; a failing one is left to the kubelet.
    None,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelServingStatus {
    /// The generation of the spec that this status answers.
    #[serde(default)]
    pub observed_generation: i64,
    /// Groups that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Groups not yet at `updateRevision`; all groups once an update is complete.
    #[serde(default)]
    pub current_replicas: i32,
    /// Groups at `updateRevision`.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Groups of which every pod is ready.
    #[serde(default)]
    pub available_replicas: i32,
    /// The revision that groups are coming from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// The revision that groups are going to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// Selects one pod per group: what an autoscaler counts and averages over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// What a person or a tool waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Each role over all groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleStatus>,
    /// Groups (`llm-3`) and role instances (`llm-3/prefill-0`) that are being built for the first time or again: a
    /// pod that is missing in one of them has yet to be created. Anywhere else it was lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forming: Vec<String>,
    /// Recent recoveries; the next one of the same part waits longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoveries: Vec<Recovery>,
}

/// One role over all groups.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// The role.
    pub name: String,
    /// Instances that exist.
    pub replicas: i32,
    /// Instances of which every pod is ready.
    pub ready_replicas: i32,
    /// Instances at the newest template of the role.
    pub updated_replicas: i32,
}

/// A part that was, or is about to be, torn down and built again.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// The group (`llm-3`) or the role instance (`llm-3/prefill-0`).
    pub part: String,
    /// How often in a row.
    pub count: i32,
    /// When last.
    pub last_time: Time,
    /// The UID of the oldest pod of the part then, which tells one recovery from the next.
    pub cause: String,
    /// Why, for a person: `pod llm-3-prefill-0-1 failed: OOMKilled`.
    pub reason: String,
}
