//! What the operator says of a `ModelServing`, and what it remembers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Each role over all groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Vec<RoleStatus>,
    /// Groups (`llm-3`) and role instances (`llm-3/prefill-0`) that are being built for the first time or again: a
    /// pod that is missing in one of them has yet to be created. Anywhere else it was lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub forming: Vec<String>,
    /// Recent recoveries; the next one of the same part waits longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["part"]))]
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
