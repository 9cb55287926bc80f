//! `ModelServer`: the pods that serve one model, and how they are reached.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel::Rule;

/// On a duration.
const DURATION: &[Rule] = &[Rule::new(
    "self.matches('^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$') || self == '0'",
    "must be a duration, such as 30s, 1m30s or 100ms",
)];

/// On `workloadSelector`.
const SELECTOR: &[Rule] = &[Rule::new(
    "!has(self.pdGroup) || self.pdGroup.groupKey != ''",
    "pdGroup.groupKey must not be empty: name the label whose value a prefill pod and a decode pod share, such as \
     modelserving.volcano.sh/group-name",
)];

/// Names the pods that serve a model, their engine, and how traffic to them behaves.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelServer",
    namespaced,
    status = "ModelServerStatus",
    derive = "PartialEq",
    shortname = "mserver",
    category = "kthena",
    doc = "The pods that serve one model, and how they are reached.",
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".spec.inferenceEngine","description":"Which engine the pods run"}"#,
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.model","description":"What the engines call the model"}"#,
    printcolumn = r#"{"name":"Port","type":"integer","jsonPath":".spec.workloadPort.port","description":"The engines' port"}"#,
    printcolumn = r#"{"name":"Protocol","type":"string","jsonPath":".spec.workloadPort.protocol","description":"What the engines speak","priority":1}"#,
    printcolumn = r#"{"name":"Endpoints","type":"integer","jsonPath":".status.endpoints","description":"How many endpoints there are"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyEndpoints","description":"How many of them can be picked"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].reason","description":"What became of its InferencePool","priority":1}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","description":"How it fares","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ModelServerSpec {
    /// Written over the request's `model`, unless the route matched the name of an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// Which engine the pods run.
    pub inference_engine: InferenceEngine,
    /// Which pods, in the ModelServer's namespace.
    pub workload_selector: WorkloadSelector,
    /// The engines' port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_port: Option<WorkloadPort>,
    /// How traffic behaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// How KV blocks travel from prefill to decode pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_connector: Option<KvConnector>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelServerStatus {
    /// The generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many endpoints there are: pods that get requests, times their ports. With a `pdGroup`, decode pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<i32>,
    /// How many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_endpoints: Option<i32>,
    /// What a person or a tool waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// An inference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum InferenceEngine {
    /// `vLLM`.
    #[serde(rename = "vLLM")]
    Vllm,
    /// `SGLang`.
    #[serde(rename = "SGLang")]
    Sglang,
}

/// Selects pods by their labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = SELECTOR))]
pub struct WorkloadSelector {
    /// All must be equal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Present when prefill and decode run in pods of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pd_group: Option<PdGroup>,
}

/// How prefill and decode pods are told apart, and which of them belong together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("required" = ["decodeLabels", "groupKey", "prefillLabels"]))]
pub struct PdGroup {
    /// The label whose value a prefill pod and a decode pod must share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_key: Option<String>,
    /// The labels of prefill pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefill_labels: BTreeMap<String, String>,
    /// The labels of decode pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub decode_labels: BTreeMap<String, String>,
}

/// The engines' port.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What an engine speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The default.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

/// How traffic to the pods behaves.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// How long a request may take, as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = DURATION))]
    pub timeout: Option<String>,
    /// What happens after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// What happens after a failed attempt.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many more attempts.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub attempts: i32,
    /// The pause between two attempts.
    #[serde(default = "retry_interval")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = DURATION))]
    pub retry_interval: String,
}

fn retry_interval() -> String {
    "100ms".to_owned()
}

/// How KV blocks travel.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvConnector {
    /// The connector that the engines are started with.
    #[serde(default)]
    pub r#type: KvConnectorType,
}

/// A way for KV blocks to travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvConnectorType {
    /// Engines pass them over HTTP; the default.
    #[default]
    Http,
    /// Through `LMCache`.
    Lmcache,
    /// Through NIXL.
    Nixl,
    /// Through Mooncake.
    Mooncake,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_with_every_field_survives_the_round_trip() {
        let manifest = json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1",
            "kind": "ModelServer",
            "metadata": {"name": "blue", "namespace": "default"},
            "spec": {
                "model": "org/model",
                "inferenceEngine": "SGLang",
                "workloadSelector": {
                    "matchLabels": {"app": "blue"},
                    "pdGroup": {"groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"}}
                },
                "workloadPort": {"port": 30000, "protocol": "http"},
                "trafficPolicy": {"timeout": "30s", "retry": {"attempts": 3, "retryInterval": "1s"}},
                "kvConnector": {"type": "nixl"}
            }
        });
        let server: ModelServer = serde_json::from_value(manifest.clone()).unwrap();
        assert_eq!(serde_json::to_value(&server).unwrap(), manifest);
    }

    #[test]
    fn defaults_are_kthenas_and_an_unknown_engine_is_refused() {
        let spec: ModelServerSpec = serde_json::from_value(json!({
            "inferenceEngine": "vLLM", "workloadSelector": {}, "workloadPort": {"port": 8000},
            "trafficPolicy": {"retry": {"attempts": 1}}, "kvConnector": {}
        }))
        .unwrap();
        assert_eq!(spec.workload_port.unwrap().protocol, Protocol::Http);
        assert_eq!(spec.kv_connector.unwrap().r#type, KvConnectorType::Http);
        assert_eq!(spec.traffic_policy.unwrap().retry.unwrap().retry_interval, "100ms");

        let error =
            serde_json::from_value::<ModelServerSpec>(json!({"inferenceEngine": "vllm", "workloadSelector": {}}));
        assert!(error.unwrap_err().to_string().contains("`vLLM` or `SGLang`"));
    }
}
