//! What is written to the API server by whoever else would: the user, kubelets, kube-scheduler.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::{checkout, poll};
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

/// The namespace of all manifests.
pub const NAMESPACE: &str = "default";

/// An administrator's hands, in one namespace.
pub struct Objects {
    client: kube::Client,
    namespace: String,
}

impl Objects {
    pub fn new(client: kube::Client) -> Self {
        Self { client, namespace: NAMESPACE.to_owned() }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Self {
        Self { client: self.client.clone(), namespace: namespace.to_owned() }
    }

    /// Applies each YAML file of a folder of `gateway-api-examples`.
    ///
    /// # Errors
    /// What the API server has against one.
    pub async fn apply_example(&self, folder: &str) -> Result<()> {
        let folder = checkout::path("gateway-api-examples").join(folder);
        let files = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut files = files.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            self.apply(&text).await.with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Applies YAML documents.
    ///
    /// # Errors
    /// What the API server has against one.
    pub async fn apply(&self, documents: &str) -> Result<()> {
        for object in parse(documents)? {
            let types = object.types.clone().context("an object has a kind")?;
            let name = object.metadata.name.clone().unwrap_or_default();
            let api = self.dynamic(&types.api_version, &types.kind, object.metadata.namespace.as_deref())?;
            // A webhook that came with the kinds, or a kind that was served only just now.
            let mut refused = None;
            let what = format!("{} {name} to be accepted", types.kind);
            let applied = poll::until(&what, Duration::from_secs(10), async || {
                let params = PatchParams::apply("a-user").validation_strict().force();
                match api.patch(&name, &params, &Patch::Apply(&object)).await {
                    Ok(_) => Some(Ok(())),
                    Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => Some(Err(status)),
                    Err(error) => {
                        refused = Some(error.to_string());
                        None
                    }
                }
            });
            let applied = applied.await.with_context(|| refused.unwrap_or_default())?;
            applied.map_err(|status| anyhow::anyhow!("{} {name} is refused: {}", types.kind, status.message))?;
        }
        Ok(())
    }

    /// The text of a file of `gateway-api-examples`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn example(file: &str) -> Result<String> {
        let file = checkout::path("gateway-api-examples").join(file);
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// Deletes what YAML documents declare, the last first.
    ///
    /// # Errors
    /// What the API server has against it; not that it is gone already.
    pub async fn delete(&self, documents: &str) -> Result<()> {
        for object in parse(documents)?.iter().rev() {
            let types = object.types.clone().context("an object has a kind")?;
            let name = object.metadata.name.clone().unwrap_or_default();
            let api = self.dynamic(&types.api_version, &types.kind, object.metadata.namespace.as_deref())?;
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("{} {name}", types.kind)),
            }
        }
        Ok(())
    }

    /// An object of its namespace as the API server has it.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn get(&self, api_version: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let found = self.dynamic(api_version, kind, Some(&self.namespace))?.get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// The pods of its namespace that have a label.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn pods_with(&self, label: &str) -> Result<Vec<Pod>> {
        Ok(self.pods().list(&ListParams::default().labels(label)).await?.items)
    }

    /// Merges `patch` into an object of its namespace.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn merge(&self, api_version: &str, kind: &str, name: &str, patch: &Value) -> Result<()> {
        let api = self.dynamic(api_version, kind, Some(&self.namespace))?;
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("{kind} {name}: {patch}"))?;
        Ok(())
    }

    fn dynamic(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk(&gvk);
        Ok(match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a pod that runs and is ready.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn create_pod(&self, name: &str, labels: &Value, ip: Ipv4Addr) -> Result<()> {
        self.create_listening_pod(name, labels, ip, &[]).await
    }

    /// The same with ports that have names.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn create_listening_pod(
        &self,
        name: &str,
        labels: &Value,
        ip: Ipv4Addr,
        ports: &[(&str, u16)],
    ) -> Result<()> {
        let ports: Vec<Value> = ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": "node-0", "containers": [{"name": "main", "image": "none", "ports": ports}]},
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        self.run_pod(name, ip).await
    }

    /// Puts a pod on the node, as kube-scheduler does: what is on none has no endpoint.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn bind_pod(&self, name: &str) -> Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node-0"},
        });
        let _bound: Value = self.pods().create_subresource("binding", name, &PostParams::default(), &binding).await?;
        Ok(())
    }

    /// Says, as a kubelet, that a pod runs at an address and is ready.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn run_pod(&self, name: &str, ip: Ipv4Addr) -> Result<()> {
        let ip = ip.to_string();
        let running = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        self.pods().patch_status(name, &PatchParams::default(), &Patch::Merge(running)).await?;
        self.set_ready(name, true).await
    }

    /// Says, as a kubelet, whether a pod is ready.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn set_ready(&self, name: &str, ready: bool) -> Result<()> {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        self.pods().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Deletes a pod, which is there and terminating until it [is gone](Self::remove_pod).
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        self.pods().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Says, as a kubelet, that a pod is gone; one that is gone already is.
    ///
    /// # Errors
    /// What the API server has against it.
    pub async fn remove_pod(&self, name: &str) -> Result<()> {
        match self.pods().delete(name, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            removed => Ok(removed.map(drop)?),
        }
    }
}

fn parse(documents: &str) -> Result<Vec<DynamicObject>> {
    let documents = documents.split("\n---\n").filter(|document| document.contains("kind"));
    documents.map(|document| serde_saphyr::from_str(document).with_context(|| document.to_owned())).collect()
}
