//! Objects in, objects and conditions out.

mod elsewhere;
mod random;
mod routes;
mod servers;

use std::sync::Arc;

use controller_api::inference_pool::FailureMode;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::Settings;
use super::selection::PodEndpoint;

fn settings() -> Settings {
    Settings {
        picker_service: "picker".to_owned(),
        picker_namespace: None,
        picker_port: 9002,
        failure_mode: FailureMode::FailClose,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// As old as its number: 1 is the oldest.
fn meta<K: kube::Resource>(mut object: K, name: &str, age: i64) -> K {
    let meta = object.meta_mut();
    meta.name = Some(name.to_owned());
    meta.namespace = Some("serve".to_owned());
    meta.uid = Some(format!("u-{name}"));
    meta.generation = Some(1);
    meta.creation_timestamp = Some(Time(at(age)));
    object
}

/// Of pods with these labels, on port 8000.
fn server(name: &str, age: i64, labels: &Value) -> ModelServer {
    let spec = json!({
        "inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": labels}, "workloadPort": {"port": 8000},
    });
    meta(ModelServer::new(name, serde_json::from_value(spec).unwrap()), name, age)
}

/// At the Gateway `edge`.
fn route(name: &str, age: i64, model: &str, rules: &Value) -> ModelRoute {
    let spec = json!({"modelName": model, "parentRefs": [{"name": "edge"}], "rules": rules});
    meta(ModelRoute::new(name, serde_json::from_value(spec).unwrap()), name, age)
}

fn pod(labels: &Value, ready: bool) -> Arc<PodEndpoint> {
    Arc::new(PodEndpoint { labels: serde_json::from_value(labels.clone()).unwrap(), ready })
}

/// `Accepted=True/SharesPool` and so on.
fn say(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|it| format!("{}={}/{}", it.type_, it.status, it.reason)).collect()
}

fn message<'a>(conditions: &'a [Condition], kind: &str) -> &'a str {
    &conditions.iter().find(|condition| condition.type_ == kind).unwrap().message
}
