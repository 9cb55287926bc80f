//! A folder of manifests for the picker's `--config-dir`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::scratch::Scratch;

/// The namespace of everything the builders here write.
pub const NAMESPACE: &str = "default";

/// A folder of manifests; each file appears and changes at once and whole.
#[derive(Debug)]
pub struct ConfigDir {
    scratch: Scratch,
}

impl ConfigDir {
    /// An empty one.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { scratch: Scratch::new("config")? })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes or replaces `file` with manifests.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &str, manifests: &[Value]) -> Result<PathBuf> {
        let documents: Vec<String> = manifests.iter().map(|manifest| format!("{manifest:#}\n")).collect();
        self.write_text(file, &documents.join("---\n"))
    }

    /// Writes or replaces `file` with any text, also with one that is no manifest.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_text(&self, file: &str, text: &str) -> Result<PathBuf> {
        let path = self.scratch.file(file);
        // Not a name that the picker reads.
        let fresh = self.scratch.file(&format!(".{file}.fresh"));
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &path)?;
        Ok(path)
    }

    /// Removes `file`.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.scratch.file(file))?)
    }

    /// Declares the pool `name` with `endpoints`, which must share one port, in `pool-NAME.yaml`: the
    /// InferencePool and a ready Pod for each. Its picker Service is `NAME-epp`, port 9002.
    /// Called again, it replaces the pool: so endpoints are added and removed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn pool(&self, name: &str, endpoints: &[SocketAddr]) -> Result<()> {
        let port = endpoints.first().map_or(8000, SocketAddr::port);
        assert!(endpoints.iter().all(|endpoint| endpoint.port() == port), "a pool has one target port");
        let pods =
            endpoints.iter().enumerate().map(|(index, endpoint)| pod(&format!("{name}-{index}"), name, *endpoint));
        let manifests: Vec<Value> = std::iter::once(inference_pool(name, port)).chain(pods).collect();
        self.write(&format!("pool-{name}.yaml"), &manifests)?;
        Ok(())
    }

    /// Declares the ModelServer `name` over the pods of `pool`, in `modelserver-NAME.yaml`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn model_server(&self, name: &str, pool: &str, port: u16, model: Option<&str>) -> Result<()> {
        let mut spec = json!({
            "inferenceEngine": "vLLM",
            "workloadSelector": {"matchLabels": {"app": pool}},
            "workloadPort": {"port": port},
        });
        if let Some(model) = model {
            spec["model"] = model.into();
        }
        self.write(&format!("modelserver-{name}.yaml"), &[networking("ModelServer", name, spec)])?;
        Ok(())
    }

    /// Declares the ModelServer and the pool `name` of prefill and decode pods that share one port, in
    /// `pairs-NAME.yaml`: pods of one group have the same value of the label `group`, the pool selects
    /// decode pods only, and requests for `model` go there. `vary` changes the ModelServer's `spec`,
    /// `decode_labels` are added to decode pods.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn pairs(
        &self,
        name: &str,
        model: &str,
        groups: &[Group],
        decode_labels: &Value,
        vary: impl FnOnce(&mut Value),
    ) -> Result<()> {
        let port = groups.iter().flat_map(|group| &group.decodes).next().map_or(8000, SocketAddr::port);
        let mut pool = inference_pool(name, port);
        pool["spec"]["selector"]["matchLabels"]["role"] = "decode".into();
        let mut spec = json!({
            "inferenceEngine": "vLLM",
            "workloadSelector": {
                "matchLabels": {"app": name},
                "pdGroup": {
                    "groupKey": "group",
                    "prefillLabels": {"role": "prefill"},
                    "decodeLabels": {"role": "decode"},
                },
            },
            "workloadPort": {"port": port},
            "kvConnector": {"type": "nixl"},
        });
        vary(&mut spec);
        let mut manifests = vec![pool, networking("ModelServer", name, spec)];
        for (number, group) in groups.iter().enumerate() {
            let roles = [("prefill", &group.prefills), ("decode", &group.decodes)];
            for (role, index, address) in
                roles.iter().flat_map(|(role, pods)| pods.iter().enumerate().map(move |(index, it)| (role, index, it)))
            {
                let mut pod = pod(&format!("{name}-{number}-{role}-{index}"), name, *address);
                let labels = &mut pod["metadata"]["labels"];
                labels["role"] = (*role).into();
                labels["group"] = format!("g{number}").into();
                if *role == "decode" {
                    for (key, value) in decode_labels.as_object().into_iter().flatten() {
                        labels[key] = value.clone();
                    }
                }
                manifests.push(pod);
            }
        }
        self.write(&format!("pairs-{name}.yaml"), &manifests)?;
        self.model_route(name, model, &[], name)
    }

    /// Declares the ModelRoute `name`: requests for `model` or one of `adapters` go to the ModelServer
    /// `server`, in `modelroute-NAME.yaml`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn model_route(&self, name: &str, model: &str, adapters: &[&str], server: &str) -> Result<()> {
        let spec = json!({
            "modelName": model,
            "loraAdapters": adapters,
            "rules": [{"name": "default", "targetModels": [{"modelServerName": server}]}],
        });
        self.write(&format!("modelroute-{name}.yaml"), &[networking("ModelRoute", name, spec)])?;
        Ok(())
    }
}

/// The ready pods of one group of prefill and decode pods.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Prefill pods.
    pub prefills: Vec<SocketAddr>,
    /// Decode pods.
    pub decodes: Vec<SocketAddr>,
}

/// The InferencePool `name` that selects pods labelled `app: NAME`.
#[must_use]
pub fn inference_pool(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": port}],
            "endpointPickerRef": {"name": format!("{name}-epp"), "port": {"number": 9002}},
        },
    })
}

/// A ready Pod labelled `app: APP` at the IP of `endpoint`.
#[must_use]
pub fn pod(name: &str, app: &str, endpoint: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": app}},
        "status": {
            "podIP": endpoint.ip(),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn networking(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}
