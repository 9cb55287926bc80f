//! The debug port, on loopback: what is known of ModelServings and their objects, under Kthena's path.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use planning::observed::{Observed, PodHealth};
use serde_json::{Value, json};

use crate::observe::store::{Key, Serving, Store};

/// The routes of the debug port.
pub fn router(store: Arc<Store>) -> Router {
    Router::new().route("/debug/modelserving/cache", get(cache)).with_state(store)
}

async fn cache(State(store): State<Arc<Store>>) -> Json<Value> {
    let mut keys = store.servings().keys();
    keys.sort();
    Json(json!({"modelServings": keys.iter().filter_map(|key| serving(&store, key)).collect::<Vec<_>>()}))
}

fn serving(store: &Store, key: &Key) -> Option<Value> {
    let serving = store.servings().get(key).cloned()?;
    let name = json!({"namespace": &*key.namespace, "name": &*key.name});
    Some(match serving {
        Serving::Bad { uid, error } => json!({"modelServing": name, "uid": uid, "error": &*error}),
        Serving::Good(serving) => {
            let uid = serving.metadata.uid.as_deref().unwrap_or_default();
            let generation = serving.metadata.generation;
            let Observed { pods, services, pod_groups, revisions, gangs, attempt: _ } = store.observed(uid);
            let pods: Vec<Value> = pods
                .iter()
                .map(|pod| {
                    json!({
                        "name": pod.name, "uid": pod.uid, "group": pod.group, "role": pod.role, "roleId": pod.role_id,
                        "revision": pod.revision, "terminating": pod.terminating, "health": health(&pod.health),
                    })
                })
                .collect();
            let services: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            let pod_groups: Vec<&str> = pod_groups.iter().map(|group| group.name.as_str()).collect();
            let revisions: Vec<Value> = revisions
                .iter()
                .map(|revision| json!({"name": revision.metadata.name, "number": revision.revision}))
                .collect();
            json!({
                "modelServing": name, "uid": uid, "generation": generation, "status": serving.status, "pods": pods,
                "services": services, "podGroups": pod_groups, "revisions": revisions, "gangs": format!("{gangs:?}"),
            })
        }
    })
}

fn health(health: &PodHealth) -> String {
    match health {
        PodHealth::Ready => "Ready".to_owned(),
        PodHealth::NotReady => "NotReady".to_owned(),
        PodHealth::Failed { reason, .. } => format!("Failed: {reason}"),
        PodHealth::Finished => "Finished".to_owned(),
    }
}
