//! `/debug/config_dump`: objects in the JSON of Kthena's debug server.

use std::collections::BTreeSet;

use scheduling::{Endpoint, EngineKind, Role, Snapshot};
use serde_json::{Map, Value, json};

use super::Kind;
use crate::declarations::Declarations;

/// The engine's name in `ModelServer.spec.inferenceEngine`.
pub(super) fn engine(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Vllm => "vLLM",
        EngineKind::Sglang => "SGLang",
    }
}

/// All objects of a kind; `null` when there is none, as Kthena answers.
pub(super) fn list(snapshot: &Snapshot, config: &Declarations, kind: Kind) -> Option<Vec<Value>> {
    let objects: Vec<Value> =
        manifests(config, kind).iter().map(|object| show(snapshot, kind, object, false)).collect();
    (!objects.is_empty()).then_some(objects)
}

/// One object, in detail.
pub(super) fn one(
    snapshot: &Snapshot,
    config: &Declarations,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Option<Value> {
    let objects = manifests(config, kind);
    let found = objects.iter().find(|object| identity(object) == (namespace, name))?;
    Some(show(snapshot, kind, found, true))
}

/// The objects in use as they would be written.
fn manifests(config: &Declarations, kind: Kind) -> Vec<Value> {
    fn values(objects: &[impl serde::Serialize]) -> Vec<Value> {
        objects.iter().map(|object| json!(object)).collect()
    }
    let resources = config.resources.load();
    match kind {
        Kind::ModelRoutes => values(&resources.model_routes),
        Kind::ModelServers => values(&resources.model_servers),
        Kind::Pods => values(&resources.pods),
        Kind::InferencePools => values(&resources.inference_pools),
    }
}

/// Namespace and name; a file may leave the namespace out.
fn identity(object: &Value) -> (&str, &str) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    (text("/metadata/namespace").unwrap_or("default"), text("/metadata/name").unwrap_or_default())
}

fn show(snapshot: &Snapshot, kind: Kind, object: &Value, detail: bool) -> Value {
    let (namespace, name) = identity(object);
    let part = |pointer: &str| object.pointer(pointer).cloned().unwrap_or(Value::Null);
    let mut shown = Map::new();
    shown.insert("name".into(), name.into());
    shown.insert("namespace".into(), namespace.into());
    match kind {
        Kind::ModelRoutes => {
            shown.insert("spec".into(), part("/spec"));
        }
        Kind::InferencePools => {
            shown.insert("spec".into(), part("/spec"));
            shown.insert("status".into(), part("/status"));
        }
        Kind::ModelServers => {
            shown.insert("spec".into(), part("/spec"));
            let name = format!("{namespace}/{name}");
            let pods = associated(snapshot, &name);
            let server = snapshot.pools.values().find_map(|pool| pool.routing.servers.get(name.as_str()));
            let role = |role: Role| {
                pods.iter().filter(move |endpoint| server.and_then(|server| server.role(endpoint)) == Some(role))
            };
            shown.insert("associatedPods".into(), names(pods.iter()));
            shown.insert("decodePods".into(), names(role(Role::Decode)));
            shown.insert("prefillPods".into(), names(role(Role::Prefill)));
        }
        Kind::Pods => {
            if detail {
                let info = json!({
                    "podIP": part("/status/podIP"),
                    "nodeName": part("/spec/nodeName"),
                    "phase": part("/status/phase"),
                    "startTime": part("/status/startTime"),
                    "labels": part("/metadata/labels"),
                });
                shown.insert("podInfo".into(), info);
            }
            shown.extend(engine_state(snapshot, &format!("{namespace}/{name}")));
        }
    }
    Value::Object(shown)
}

/// What the fleet knows of a pod. Of a pod with several ports the first is shown.
fn engine_state(snapshot: &Snapshot, pod: &str) -> Map<String, Value> {
    let pools = snapshot.pools.values();
    let found = pools.flat_map(|pool| pool.all_endpoints()).find(|endpoint| *endpoint.name == *pod);
    let mut state = Map::new();
    let Some(endpoint) = found else { return state };
    let gauges = endpoint.gauges.as_ref();
    let seconds = |duration: Option<std::time::Duration>| duration.map(|duration| duration.as_secs_f64());
    let metrics = gauges.map(|gauges| {
        json!({
            "gpuCacheUsage": gauges.kv_usage,
            "requestWaitingNum": gauges.waiting,
            "requestRunningNum": gauges.running,
            "tpot": seconds(gauges.time_per_output_token),
            "ttft": seconds(gauges.time_to_first_token),
        })
    });
    let models: Option<Vec<&str>> =
        gauges.and_then(|gauges| gauges.models.as_ref()).map(|models| models.iter().map(|model| &**model).collect());
    let servers: BTreeSet<&str> = snapshot
        .pools
        .values()
        .flat_map(|pool| pool.routing.servers.values())
        .filter(|server| server.selects(endpoint))
        .map(|server| &*server.name)
        .collect();
    state.insert("engine".into(), engine(endpoint.engine).into());
    state.insert("metrics".into(), json!(metrics));
    state.insert("models".into(), json!(models));
    state.insert("modelServers".into(), json!(servers));
    state
}

fn associated<'a>(snapshot: &'a Snapshot, server: &str) -> Vec<&'a Endpoint> {
    let pools = snapshot.pools.values();
    let selected = pools.filter_map(|pool| pool.routing.servers.get(server).map(|server| (pool, server)));
    selected.flat_map(|(pool, server)| pool.all_endpoints().map(|it| &**it).filter(|it| server.selects(it))).collect()
}

/// `namespace/pod` of each, once.
fn names<'a>(endpoints: impl Iterator<Item = &'a &'a Endpoint>) -> Value {
    let names: BTreeSet<&str> = endpoints.map(|endpoint| &*endpoint.name).collect();
    json!(names)
}
