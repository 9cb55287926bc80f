//! A test fixture in place of scheduler and kubelet: binds pods, says in their status how they fare, and lets
//! terminating ones go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::namespace::Namespace;
use crate::poll;

/// Pods that are served at a time.
const CONCURRENCY: usize = 32;
/// From a change until the API server has it.
const DEADLINE: Duration = Duration::from_secs(20);

/// How a pod fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody looks after it: not bound, no status.
    Unscheduled,
    /// Bound, but its image cannot be pulled.
    ImagePullBackOff,
    /// Running, and not ready (yet, or any more).
    NotReady,
    /// Running and ready.
    Ready,
    /// A container ended and was started again, and is not ready.
    Restarted,
    /// A container ended and was started again, and is ready.
    RestartedAndReady,
    /// Phase Failed: its container was killed for want of memory.
    Failed,
    /// Phase Failed: evicted from its node.
    Evicted,
    /// Phase Succeeded.
    Succeeded,
    /// Its node is out of reach: not ready, and deletion does not end.
    NodeLost,
}

/// Which fate a pod has by itself.
type Rule = Arc<dyn Fn(&Pod) -> Fate + Send + Sync>;

/// Looks after all pods of a namespace until it is dropped.
pub struct Kubelet {
    pods: Api<Pod>,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

struct State {
    rule: Rule,
    /// By UID.
    fates: HashMap<String, Fate>,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Kubelet").finish_non_exhaustive()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Kubelet {
    /// One for whom every pod is ready at once, save those whose first image contains `bad`: they cannot be pulled.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        Self::with_rule(namespace, |pod| {
            let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref());
            if image.is_some_and(|image| image.contains("bad")) { Fate::ImagePullBackOff } else { Fate::Ready }
        })
    }

    /// One for whom pods have the fate that `rule` says.
    #[must_use]
    pub fn with_rule(namespace: &Namespace, rule: impl Fn(&Pod) -> Fate + Send + Sync + 'static) -> Self {
        let pods: Api<Pod> = namespace.api();
        let state = Arc::new(Mutex::new(State { rule: Arc::new(rule), fates: HashMap::new() }));
        let serving = tokio::spawn(serve(pods.clone(), Arc::clone(&state)));
        Self { pods, state, serving }
    }

    /// Gives all pods without a fate of their own, those to come included, the fate that `rule` says.
    ///
    /// # Errors
    /// When the API server refuses a change.
    pub async fn set_rule(&self, rule: impl Fn(&Pod) -> Fate + Send + Sync + 'static) -> Result<()> {
        self.state.lock().rule = Arc::new(rule);
        for pod in self.pods.list(&kube::api::ListParams::default()).await? {
            look_after(&self.pods, &self.state, &pod).await?;
        }
        Ok(())
    }

    /// Gives the pod of this name its fate; its successor of the same name does not inherit it.
    ///
    /// # Errors
    /// When there is no such pod, or it does not come to that.
    pub async fn set(&self, name: &str, fate: Fate) -> Result<()> {
        let pod = self.pods.get(name).await.with_context(|| format!("no pod {name} to change"))?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.state.lock().fates.insert(uid.clone(), fate);
        poll::until(&format!("pod {name} to be {fate:?}"), DEADLINE, async || {
            let Ok(Some(pod)) = self.pods.get_opt(name).await else { return Some(()) };
            if pod.metadata.uid.as_deref() != Some(&uid) {
                return Some(());
            }
            look_after(&self.pods, &self.state, &pod).await.ok()
        })
        .await
    }
}

async fn serve(pods: Api<Pod>, state: Arc<Mutex<State>>) {
    let events = watcher::watcher(pods.clone(), watcher::Config::default());
    events
        .for_each_concurrent(CONCURRENCY, async |event| {
            if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
                // A conflict or a pod that is gone: its next event sets it right.
                let _ = look_after(&pods, &state, &pod).await;
            }
        })
        .await;
}

async fn look_after(pods: &Api<Pod>, state: &Mutex<State>, pod: &Pod) -> Result<()> {
    let (Some(name), Some(uid)) = (&pod.metadata.name, &pod.metadata.uid) else { bail!("a pod without a name") };
    let fate = {
        let state = state.lock();
        state.fates.get(uid).copied().unwrap_or_else(|| (state.rule)(pod))
    };
    let terminating = pod.metadata.deletion_timestamp.is_some();
    if terminating && fate != Fate::NodeLost {
        let precondition = Preconditions { uid: Some(uid.clone()), resource_version: None };
        let now = DeleteParams::default().grace_period(0).preconditions(precondition);
        return gone_is_fine(pods.delete(name, &now).await.map(drop));
    }
    if fate == Fate::Unscheduled {
        return Ok(());
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) && !terminating {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node-0"},
        });
        let path = format!("{}/{name}/binding", pods.resource_url());
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&binding)?)?;
        match pods.clone().into_client().request::<Value>(request).await {
            Ok(_) => {}
            // Bound already: this event is old.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return gone_is_fine(Err(error)),
        }
    }
    let status = status(pod, fate);
    if pod.status.as_ref().is_some_and(|now| shows(&serde_json::to_value(now).unwrap_or_default(), &status)) {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    gone_is_fine(pods.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
}

/// 404, or 409 because another of its name is there.
fn gone_is_fine(result: kube::Result<()>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => Ok(other?),
    }
}

/// Whether a status says the same as `wanted`, times aside.
fn shows(status: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(wanted) => wanted.iter().all(|(key, wanted)| {
            let nothing = wanted.is_null() || wanted == &json!({});
            key.ends_with("Time")
                || key.ends_with("At")
                || status.get(key).map_or(nothing, |value| shows(value, wanted))
        }),
        Value::Array(wanted) => {
            wanted.iter().enumerate().all(|(index, wanted)| status.get(index).is_some_and(|value| shows(value, wanted)))
        }
        _ => status == wanted,
    }
}

fn status(pod: &Pod, fate: Fate) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ready = matches!(fate, Fate::Ready | Fate::RestartedAndReady);
    let restarts = i32::from(matches!(fate, Fate::Restarted | Fate::RestartedAndReady));
    let ended = json!({"exitCode": 137, "reason": "OOMKilled", "startedAt": now, "finishedAt": now});
    let state = match fate {
        Fate::ImagePullBackOff => json!({"waiting": {"reason": "ImagePullBackOff"}}),
        Fate::Restarted => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        Fate::Failed | Fate::Evicted => json!({"terminated": ended}),
        Fate::Succeeded => json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now}}),
        _ => json!({"running": {"startedAt": now}}),
    };
    let last = if restarts > 0 { json!({"terminated": ended}) } else { json!({}) };
    let containers: Vec<Value> = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "", "ready": ready, "started": ready,
                "restartCount": restarts, "state": state, "lastState": last,
            })
        })
        .collect();
    let truth = match fate {
        Fate::NodeLost => "Unknown",
        _ if ready => "True",
        _ => "False",
    };
    let (phase, reason) = match fate {
        Fate::ImagePullBackOff | Fate::Unscheduled => ("Pending", None),
        Fate::Failed => ("Failed", Some("OOMKilled")),
        Fate::Evicted => ("Failed", Some("Evicted")),
        Fate::Succeeded => ("Succeeded", None),
        Fate::NodeLost => ("Running", Some("NodeLost")),
        _ => ("Running", None),
    };
    let condition = |name: &str, truth: &str| json!({"type": name, "status": truth, "lastTransitionTime": now});
    json!({
        "phase": phase, "reason": reason, "podIP": "10.1.0.1",
        "conditions": [
            condition("PodScheduled", "True"), condition("Initialized", "True"),
            condition("ContainersReady", truth), condition("Ready", truth),
        ],
        "containerStatuses": containers,
    })
}
