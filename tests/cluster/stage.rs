//! Where a story is played: a namespace, a kubelet's stand-in, and an operator that sees that namespace only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Resource as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::kubelet::{Fate, Kubelet};
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::cluster::proxy::Proxy;
use tests::poll;

/// From a change until the operator has dealt with it, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a story is watched for what must not happen.
pub(crate) const A_WHILE: Duration = Duration::from_secs(3);

const GROUP: &str = "modelserving.volcano.sh/group-name";
const REVISION: &str = "modelserving.volcano.sh/revision";

/// A namespace with an operator and a kubelet's stand-in.
pub(crate) struct Stage {
    pub(crate) namespace: Namespace,
    pub(crate) kubelet: Kubelet,
    pub(crate) proxy: Proxy,
    operator: parking_lot::Mutex<Option<Operator>>,
}

impl Stage {
    /// With an operator that is ready, and pods that become ready at once unless their image is `bad`.
    pub(crate) async fn new(label: &str) -> Result<Self> {
        let stage = Self::without_operator(label).await?;
        stage.start_operator().await?;
        Ok(stage)
    }

    pub(crate) async fn without_operator(label: &str) -> Result<Self> {
        let plane = ControlPlane::shared().await?;
        let namespace = plane.namespace(label).await?;
        let proxy = Proxy::for_namespace(plane, namespace.name()).await?;
        let kubelet = Kubelet::start(&namespace);
        Ok(Self { namespace, kubelet, proxy, operator: parking_lot::Mutex::new(None) })
    }

    pub(crate) fn operator_options(&self) -> OperatorOptions {
        OperatorOptions::new(self.proxy.kubeconfig()).env("POD_NAMESPACE", self.namespace.name())
    }

    pub(crate) async fn start_operator(&self) -> Result<()> {
        let operator = self.operator_options().start().await?;
        *self.operator.lock() = Some(operator);
        Ok(())
    }

    /// As `kill -9`.
    pub(crate) fn kill_operator(&self) {
        drop(self.operator.lock().take());
    }

    /// What the operator has said.
    pub(crate) fn log(&self) -> String {
        self.operator.lock().as_ref().map(|operator| operator.log()).unwrap_or_default()
    }

    pub(crate) async fn create(&self, name: &str, spec: Value) -> Result<()> {
        self.create_annotated(name, json!({}), spec).await
    }

    pub(crate) async fn create_annotated(&self, name: &str, annotations: Value, spec: Value) -> Result<()> {
        let serving = json!({
            "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing",
            "metadata": {"name": name, "annotations": annotations}, "spec": spec,
        });
        let request = http::Request::post(self.namespace.api::<ModelServing>().resource_url())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serving.to_string().into_bytes())?;
        self.namespace.client().request::<Value>(request).await.context("the ModelServing is refused")?;
        Ok(())
    }

    /// Merges into the object.
    pub(crate) async fn change(&self, name: &str, patch: Value) -> Result<()> {
        let api = self.namespace.api::<ModelServing>();
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// JSON patch of `/spec/template/roles/0/entryTemplate/spec/containers/0/image` and its like.
    pub(crate) async fn set(&self, name: &str, path: &str, value: Value) -> Result<()> {
        let operations = serde_json::from_value(json!([{"op": "add", "path": path, "value": value}]))?;
        let api = self.namespace.api::<ModelServing>();
        api.patch(name, &PatchParams::default(), &Patch::Json::<ModelServing>(operations)).await?;
        Ok(())
    }

    /// Another image for the entry pods of the role at `index`.
    pub(crate) async fn set_image(&self, name: &str, index: usize, image: &str) -> Result<()> {
        let path = format!("/spec/template/roles/{index}/entryTemplate/spec/containers/0/image");
        self.set(name, &path, json!(image)).await
    }

    pub(crate) async fn serving(&self, name: &str) -> Result<ModelServing> {
        Ok(self.namespace.api::<ModelServing>().get(name).await?)
    }

    pub(crate) async fn status(&self, name: &str) -> Result<ModelServingStatus> {
        Ok(self.serving(name).await?.status.unwrap_or_default())
    }

    /// Waits until `look` makes something of the status.
    pub(crate) async fn wait_status<T>(
        &self,
        name: &str,
        what: &str,
        mut look: impl FnMut(&ModelServing, &ModelServingStatus) -> Option<T>,
    ) -> Result<T> {
        let api = self.namespace.api::<ModelServing>();
        let mut last = None;
        let seen = poll::until(what, SOON, async || {
            let serving = api.get(name).await.ok()?;
            let seen = serving.status.as_ref().and_then(|status| look(&serving, status));
            last = serving.status;
            seen
        })
        .await;
        seen.with_context(|| {
            format!(
                "the status is {}; the operator said:\n{}",
                serde_json::to_string(&last).unwrap_or_default(),
                self.log()
            )
        })
    }

    /// Waits until the newest spec is answered, and all groups are there, up to date and available.
    pub(crate) async fn wait_done(&self, name: &str) -> Result<()> {
        self.wait_status(name, "all groups up to date and available", |serving, status| {
            let wanted = serving.spec.replicas.unwrap_or(1);
            let answered = serving.metadata.generation == Some(status.observed_generation);
            let counts = [status.replicas, status.updated_replicas, status.available_replicas];
            (answered && counts == [wanted; 3] && condition(status, "Available") == Some(true)).then_some(())
        })
        .await
    }

    /// Pods by name, terminating ones left out.
    pub(crate) async fn pods(&self) -> Result<BTreeMap<String, Pod>> {
        let pods = self.namespace.api::<Pod>().list(&ListParams::default()).await?;
        let alive = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(alive.filter_map(|pod| Some((pod.metadata.name.clone()?, pod))).collect())
    }

    pub(crate) async fn pod_names(&self) -> Result<Vec<String>> {
        Ok(self.pods().await?.into_keys().collect())
    }

    pub(crate) async fn service_names(&self) -> Result<Vec<String>> {
        let services = self.namespace.api::<Service>().list(&ListParams::default()).await?;
        let mut names: Vec<String> = services.into_iter().filter_map(|service| service.metadata.name).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until exactly these pods are there, ready, and none is terminating.
    pub(crate) async fn wait_pods(&self, names: &[&str]) -> Result<()> {
        let api = self.namespace.api::<Pod>();
        let wanted: BTreeSet<&str> = names.iter().copied().collect();
        let mut last = Vec::new();
        let seen = poll::until(&format!("the pods {names:?}, ready"), SOON, async || {
            let pods = api.list(&ListParams::default()).await.ok()?.items;
            last = pods.iter().map(|pod| (pod.metadata.name.clone().unwrap_or_default(), is_ready(pod))).collect();
            let there: BTreeSet<&str> = last.iter().map(|(name, _)| name.as_str()).collect();
            (there == wanted && pods.iter().all(is_ready)).then_some(())
        })
        .await;
        seen.with_context(|| format!("there are {last:?}; the operator said:\n{}", self.log()))
    }

    /// Waits until the pod of this name has another UID than `old` and is ready.
    pub(crate) async fn wait_replaced(&self, name: &str, old: &str) -> Result<Pod> {
        let api = self.namespace.api::<Pod>();
        let seen = poll::until(&format!("another pod {name}, ready"), SOON, async || {
            api.get_opt(name).await.ok()?.filter(|pod| uid(pod) != old && is_ready(pod))
        })
        .await;
        seen.with_context(|| format!("the operator said:\n{}", self.log()))
    }

    pub(crate) async fn delete_pod(&self, name: &str) -> Result<()> {
        self.namespace.api::<Pod>().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// UIDs by pod name.
    pub(crate) async fn uids(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.pods().await?.iter().map(|(name, pod)| (name.clone(), uid(pod).to_owned())).collect())
    }

    /// The first container's image by pod name.
    pub(crate) async fn images(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.pods().await?.iter().map(|(name, pod)| (name.clone(), image(pod).to_owned())).collect())
    }

    /// The revision labels by pod name.
    pub(crate) async fn revisions(&self) -> Result<BTreeMap<String, String>> {
        let revision = |pod: &Pod| pod.metadata.labels.as_ref()?.get(REVISION).cloned();
        Ok(self.pods().await?.iter().filter_map(|(name, pod)| Some((name.clone(), revision(pod)?))).collect())
    }

    /// Sets `controller.kubernetes.io/pod-deletion-cost`.
    pub(crate) async fn set_deletion_cost(&self, name: &str, cost: i64) -> Result<()> {
        let patch =
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost.to_string()}}});
        self.namespace.api::<Pod>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Watches for a while that `holds` stays true of the pods.
    pub(crate) async fn stays(&self, what: &str, holds: impl Fn(&BTreeMap<String, Pod>) -> bool) -> Result<()> {
        let broken = poll::until(what, A_WHILE, async || {
            let pods = self.pods().await.ok()?;
            (!holds(&pods)).then(|| pods.into_keys().collect::<Vec<_>>())
        });
        if let Ok(pods) = broken.await {
            anyhow::bail!("{what}: no longer with {pods:?}; the operator said:\n{}", self.log());
        }
        Ok(())
    }

    /// Watches for a while that the operator writes nothing.
    pub(crate) async fn writes_nothing(&self) -> Result<()> {
        let from = self.proxy.len();
        let written = poll::until("a write", A_WHILE, async || {
            let writes = self.proxy.writes(from);
            (!writes.is_empty()).then_some(writes)
        });
        if let Ok(writes) = written.await {
            anyhow::bail!("there was nothing to write, but: {writes:?}; the operator said:\n{}", self.log());
        }
        Ok(())
    }

    /// Makes every pod whose name is in `names` wait before it is ready.
    pub(crate) async fn hold(&self, names: &[&str]) -> Result<()> {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.kubelet
            .set_rule(move |pod| match &pod.metadata.name {
                Some(name) if names.contains(name) => Fate::NotReady,
                _ => Fate::Ready,
            })
            .await
    }

    /// An object beside ours.
    pub(crate) async fn create_pod(&self, pod: Value) -> Result<()> {
        self.namespace.api::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        Ok(())
    }
}

pub(crate) fn condition(status: &ModelServingStatus, name: &str) -> Option<bool> {
    let found = status.conditions.iter().find(|condition| condition.type_ == name)?;
    Some(found.status == "True")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|found| found.type_ == "Ready" && found.status == "True")
        && pod.meta().deletion_timestamp.is_none()
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn image(pod: &Pod) -> &str {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    container.and_then(|container| container.image.as_deref()).unwrap_or_default()
}

pub(crate) fn group(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(GROUP)).map_or("", String::as_str)
}

/// A pod template with one container.
pub(crate) fn template(image: &str) -> Value {
    json!({"spec": {"containers": [{"name": "engine", "image": image}]}})
}

/// A role of entry pods, or with workers beside each.
pub(crate) fn role(name: &str, replicas: u32, workers: u32) -> Value {
    let mut role = json!({
        "name": name, "replicas": replicas, "entryTemplate": template("engine:1"), "workerReplicas": workers,
    });
    if workers > 0 {
        role["workerTemplate"] = template("engine:1");
    }
    role
}

/// So many groups of these roles; pods are not for Volcano unless a test says so.
pub(crate) fn spec(replicas: u32, roles: &[Value]) -> Value {
    json!({"replicas": replicas, "schedulerName": "default-scheduler", "template": {"roles": roles}})
}

/// As [`spec`], with limits of a rolling update of groups.
pub(crate) fn rolling(replicas: u32, roles: &[Value], configuration: Value) -> Value {
    let mut spec = spec(replicas, roles);
    spec["rolloutStrategy"] = json!({"type": "ServingGroupRollingUpdate", "rollingUpdateConfiguration": configuration});
    spec
}
