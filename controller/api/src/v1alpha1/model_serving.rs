//! `ModelServing`: groups of prefill, decode or other role instances that serve a model together.
//!
//! The doc comments are what `kubectl explain` prints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::status::{ModelServingStatus, Recovery, RoleStatus};
use crate::pod_template;

mod rules;
mod status;

/// How many groups there shall be, of what they consist, and how they change.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "workload.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelServing",
    doc = "Groups of pods that serve a model together, in roles such as prefill and decode.",
    namespaced,
    status = "ModelServingStatus",
    derive = "PartialEq",
    shortname = "ms",
    category = "kthena",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.labelSelector"
    ),
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".status.replicas","description":"Groups that exist"}"#,
    printcolumn = r#"{"name":"Available","type":"integer","jsonPath":".status.availableReplicas","description":"Groups of which every pod is ready"}"#,
    printcolumn = r#"{"name":"Updated","type":"integer","jsonPath":".status.updatedReplicas","description":"Groups at the newest revision"}"#,
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".spec.replicas","description":"Groups that there shall be","priority":1}"#,
    printcolumn = r#"{"name":"Revision","type":"string","jsonPath":".status.updateRevision","description":"The newest revision","priority":1}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","description":"How it fares","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new(rules::NAME_FORM.0).message(rules::NAME_FORM.1).field_path(".metadata.name"),
    validation = Rule::new(rules::NAME_LENGTH.0).message(rules::NAME_LENGTH.1).field_path(".metadata.name")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::SPEC))]
pub struct ModelServingSpec {
    /// How many groups. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("default" = 1))]
    pub replicas: Option<i32>,
    /// The scheduler of every pod, in place of the one in its template. With `volcano`, each group is scheduled as a
    /// gang. Defaults to `volcano`, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("default" = "volcano"))]
    pub scheduler_name: Option<String>,
    /// What is done to each pod before it is created, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin>,
    /// Of what each group consists.
    pub template: ServingGroupTemplate,
    /// How groups move to another revision of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_strategy: Option<RolloutStrategy>,
    /// What is built again when a pod fails or disappears: its group (`ServingGroupRecreate`), its role instance
    /// (`RoleRecreate`, the default), or that pod alone if its object is gone (`None`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "RoleRecreate"))]
    pub recovery_policy: Option<RecoveryPolicy>,
    /// How many revisions that no group uses are kept for a rollback. Defaults to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("default" = 10))]
    pub revision_history_limit: Option<i32>,
}

/// A step in the building of a pod.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// The name of a built-in plugin.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where the plugin lives; only `BuiltIn`.
    #[serde(rename = "type", default)]
    pub kind: PluginType,
    /// The plugin's own settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
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
    /// `Entry` pods, `Worker` pods, or `All`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PluginTarget>,
}

/// Which pods of a role instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PluginTarget {
    /// Both.
    #[default]
    #[serde(alias = "")]
    All,
    /// The entry pod.
    Entry,
    /// The worker pods.
    Worker,
}

/// Of what a group consists.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::TEMPLATE))]
pub struct ServingGroupTemplate {
    /// How long a failed pod is left to recover by itself, in seconds. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("default" = 0))]
    pub restart_grace_period_seconds: Option<i64>,
    /// How much of a group must be schedulable at once; the whole group when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_policy: Option<GangPolicy>,
    /// How near to each other a group's nodes must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_topology: Option<GroupNetworkTopology>,
    /// One to four roles.
    #[schemars(length(min = 1, max = 4))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[schemars(extend("x-kubernetes-validations" = rules::ROLES))]
    pub roles: Vec<Role>,
}

/// How much of a group must be schedulable at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GangPolicy {
    /// By the name of a role, how many of its instances; all instances of a role that is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 4))]
    #[schemars(extend("x-kubernetes-validations" = rules::MIN_ROLE_REPLICAS))]
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
    /// Whether the limit binds (`hard`, the default) or is a wish (`soft`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "hard"))]
    pub mode: Option<NetworkTopologyMode>,
    /// The highest tier of the topology that a gang may span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub highest_tier_allowed: Option<i32>,
    /// The same by the tier's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
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
//
// The limits of an update have no default in the schema: an object that was written for updates of whole groups would
// carry them, and would then be held to them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::ROLE))]
pub struct Role {
    /// Unique among the roles; part of its pods' names. At most 12 lowercase letters, digits and `-`.
    #[schemars(length(min = 1, max = 12))]
    #[schemars(extend("x-kubernetes-validations" = rules::ROLE_NAME))]
    pub name: String,
    /// Instances per group. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("default" = 1))]
    pub replicas: Option<i32>,
    /// The first pod of an instance: labels, annotations and spec.
    #[schemars(schema_with = "pod_template::schema")]
    pub entry_template: PodTemplateSpec,
    /// Worker pods per instance, beside the entry pod. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub worker_replicas: i32,
    /// Each worker pod; required with `workerReplicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_template::schema")]
    pub worker_template: Option<PodTemplateSpec>,
    /// With `RoleRollingUpdate`: how many instances of this role in one group may be missing during an update, as a
    /// number or a percentage of the role's `replicas`, rounded down. 1 when absent. Otherwise without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::MAX_UNAVAILABLE))]
    pub max_unavailable: Option<IntOrString>,
    /// With `RoleRollingUpdate`: instances with a lower index keep their revision; a percentage of the role's
    /// `replicas` is rounded up. Otherwise without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::PARTITION))]
    pub partition: Option<IntOrString>,
    /// With `RoleRollingUpdate`: how many instances above `replicas` may exist during an update; a percentage is
    /// rounded up. 0 when absent. Otherwise without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::MAX_SURGE))]
    pub max_surge: Option<IntOrString>,
}

/// How groups move to another revision.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::ROLLOUT))]
pub struct RolloutStrategy {
    /// What is replaced at a time: whole groups (`ServingGroupRollingUpdate`, the default), or the instances of those
    /// roles that changed (`RoleRollingUpdate`), in all groups at the same time.
    #[serde(rename = "type", default)]
    pub kind: RolloutType,
    /// Limits for whole groups; only with `ServingGroupRollingUpdate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update_configuration: Option<RollingUpdate>,
    /// Holds the rollout where it is; repair and scaling go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Serves this revision, by number or name, in place of the template. `replicas` are still the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::ROLLBACK_TO))]
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
#[schemars(extend("x-kubernetes-validations" = rules::ROLLING_UPDATE))]
pub struct RollingUpdate {
    /// How many groups may be missing during an update, as a number or a percentage of `replicas`, rounded down.
    /// Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 1))]
    #[schemars(extend("x-kubernetes-validations" = rules::MAX_UNAVAILABLE))]
    pub max_unavailable: Option<IntOrString>,
    /// Groups with a lower ordinal keep their revision; a percentage of `replicas` is rounded up. 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::PARTITION))]
    pub partition: Option<IntOrString>,
    /// How many groups above `replicas` may exist during an update; a percentage is rounded up. 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::MAX_SURGE))]
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
