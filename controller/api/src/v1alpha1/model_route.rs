//! `ModelRoute`: from a model name to weighted `ModelServer`s.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;

/// On the spec.
const SPEC: &[cel::Rule] = &[cel::Rule::new(
    "(has(self.modelName) && self.modelName != '') || (has(self.loraAdapters) && size(self.loraAdapters) > 0)",
    "modelName and loraAdapters cannot both be empty: name the model, or at least one adapter",
)];

/// On `modelName`.
const MODEL_NAME: &[cel::Rule] = &[cel::Rule::new(
    "self == oldSelf",
    "modelName is immutable: create a ModelRoute for the new name, then delete this one",
)];

/// Says which ModelServers serve the requests for a model, or for its LoRA adapters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelRoute",
    namespaced,
    status = "ModelRouteStatus",
    derive = "PartialEq",
    shortname = "mroute",
    category = "kthena",
    doc = "From the name of a model to the ModelServers that serve it.",
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.modelName","description":"The model that requests name"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status","description":"Whether its Gateways get it and its ModelServers are there"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].reason","description":"What became of its HTTPRoutes","priority":1}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","description":"How it fares","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = SPEC))]
pub struct ModelRouteSpec {
    /// The `model` of a request: the engine's name for it, an alias, or a name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = MODEL_NAME))]
    pub model_name: Option<String>,
    /// More values of `model`, which are names of LoRA adapters; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub lora_adapters: Vec<String>,
    /// The Gateways that the route is attached to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// In order; the first that matches wins. At most 16.
    #[schemars(length(max = 16))]
    pub rules: Vec<Rule>,
    /// Limits on the tokens of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteStatus {
    /// The generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What a person or a tool waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The Gateway API's reference to a Gateway, or to one of its listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// `gateway.networking.k8s.io` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("default" = "gateway.networking.k8s.io"))]
    pub group: Option<String>,
    /// `Gateway` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), extend("default" = "Gateway"))]
    pub kind: Option<String>,
    /// The route's own namespace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The Gateway's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// One listener of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// One port of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// Where the requests go that meet all conditions.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The conditions; every request meets them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_match: Option<ModelMatch>,
    /// The ModelServers, by weight: 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    pub target_models: Vec<TargetModel>,
}

/// The conditions of a rule: all that are present must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelMatch {
    /// On the first value of each header; an absent header compares as the empty string.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatch>,
    /// On the path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<StringMatch>,
    /// On the request's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyMatch>,
}

/// A condition on a string. `exact` goes before `prefix`, `prefix` before `regex`; none of them
/// matches everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StringMatch {
    /// The whole string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// Its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// An RE2 expression that matches anywhere in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// A condition on the request's body.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BodyMatch {
    /// Equal to the request's `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A weighted ModelServer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetModel {
    /// A ModelServer in the route's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub model_server_name: String,
    /// Its share of the sum of weights, 0 to 100. Defaults to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100), extend("default" = 100))]
    pub weight: Option<u32>,
}

/// Limits on tokens in a unit of time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Prompt tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub input_tokens_per_unit: Option<u32>,
    /// Generated tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output_tokens_per_unit: Option<u32>,
    /// The unit of time.
    #[serde(default)]
    pub unit: RateLimitUnit,
    /// Counted by all pickers together; each counts by itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalRateLimit>,
}

/// The unit of time of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateLimitUnit {
    /// The default.
    #[default]
    Second,
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 30 days.
    Month,
}

/// Where limits are counted that all pickers share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GlobalRateLimit {
    /// The store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
}

/// A Redis server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// `host:port`.
    #[schemars(length(min = 1, max = 261))]
    pub address: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_with_every_field_survives_the_round_trip() {
        let manifest = json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1",
            "kind": "ModelRoute",
            "metadata": {"name": "assistant", "namespace": "default"},
            "spec": {
                "modelName": "assistant",
                "loraAdapters": ["sql", "legal"],
                "parentRefs": [{"name": "edge", "namespace": "infra", "sectionName": "https", "port": 443,
                                "group": "gateway.networking.k8s.io", "kind": "Gateway"}],
                "rules": [{
                    "name": "canary",
                    "modelMatch": {
                        "headers": {"x-tier": {"exact": "gold"}, "x-who": {"regex": "^a"}},
                        "uri": {"prefix": "/v1/chat"},
                        "body": {"model": "assistant"}
                    },
                    "targetModels": [{"modelServerName": "blue", "weight": 90}, {"modelServerName": "green", "weight": 10}]
                }],
                "rateLimit": {"inputTokensPerUnit": 1000, "outputTokensPerUnit": 10, "unit": "minute",
                              "global": {"redis": {"address": "redis:6379"}}}
            }
        });
        let route: ModelRoute = serde_json::from_value(manifest.clone()).unwrap();
        assert_eq!(serde_json::to_value(&route).unwrap(), manifest);
    }

    #[test]
    fn a_route_needs_rules_and_a_limit_is_per_second_by_default() {
        let error = serde_json::from_value::<ModelRouteSpec>(json!({"modelName": "m"})).unwrap_err();
        assert!(error.to_string().contains("rules"), "{error}");
        let limit: RateLimit = serde_json::from_value(json!({"inputTokensPerUnit": 5})).unwrap();
        assert_eq!(limit.unit, RateLimitUnit::Second);
    }
}
