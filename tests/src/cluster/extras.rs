//! What runs beside the API server by wish.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::binaries::Binary;
use super::control_plane::{ControlPlane, ControlPlaneOptions, flag};
use crate::poll;
use crate::process::{Process, Program};
use crate::scratch::Scratch;

/// How many pods a node holds.
const PODS_PER_NODE: u32 = 500;
/// From Volcano's start until its queues are there.
const QUEUES_DEADLINE: Duration = Duration::from_secs(60);
/// `schedulerName` of kube-scheduler's pods.
const KUBERNETES: &str = "default-scheduler";
/// `schedulerName` of Volcano's pods.
const VOLCANO: &str = "volcano";

/// Programs, built.
pub(super) struct Extras {
    controller_manager: Option<PathBuf>,
    scheduler: Option<PathBuf>,
    volcano: Option<PathBuf>,
    kwok: Option<PathBuf>,
    nodes: u32,
    endpoint_slices: bool,
}

impl Extras {
    /// Builds what `options` ask for.
    ///
    /// # Errors
    /// As [`Binary::path`].
    pub(super) async fn built(options: &ControlPlaneOptions) -> Result<Self> {
        let path = async |wanted: bool, binary: Binary| -> Result<Option<PathBuf>> {
            if wanted { Ok(Some(binary.path().await?)) } else { Ok(None) }
        };
        Ok(Self {
            controller_manager: path(options.garbage_collection || options.endpoint_slices, Binary::ControllerManager)
                .await?,
            scheduler: path(options.scheduler, Binary::Scheduler).await?,
            volcano: path(options.volcano, Binary::VolcanoScheduler).await?,
            kwok: path(options.nodes > 0, Binary::Kwok).await?,
            nodes: options.nodes,
            endpoint_slices: options.endpoint_slices,
        })
    }

    /// Starts them.
    ///
    /// # Errors
    /// When one cannot be started, or the nodes cannot be created.
    pub(super) async fn start(self, plane: &ControlPlane) -> Result<Vec<Process>> {
        let mut running = Vec::new();
        let kubeconfig = flag("kubeconfig", plane.kubeconfig().display());
        if let Some(path) = self.controller_manager {
            let mut controllers = "--controllers=garbage-collector-controller,namespace-controller".to_owned();
            if self.endpoint_slices {
                controllers.push_str(",endpointslice-controller");
            }
            let program = Program::new("kube-controller-manager", path)
                .args([kubeconfig.as_str(), &controllers, "--leader-elect=false", "--secure-port=0"])
                .args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
            running.push(program.start()?);
        }
        if let Some(path) = self.scheduler {
            let names: &[&str] = if self.volcano.is_some() { &[KUBERNETES] } else { &[KUBERNETES, VOLCANO] };
            let schedulers: Vec<Value> = names.iter().map(|name| json!({"schedulerName": name})).collect();
            let config = json!({
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": plane.kubeconfig(), "qps": 1000, "burst": 2000},
                "leaderElection": {"leaderElect": false},
                "profiles": schedulers,
            });
            running.push(configured("kube-scheduler", path, &config, &["--secure-port=0"])?);
        }
        if let Some(path) = self.volcano {
            running.push(volcano(path, &kubeconfig)?);
            open_queues(plane).await?;
        }
        if let Some(path) = self.kwok {
            create_nodes(plane, self.nodes).await?;
            // Without stages of ours it plays its own: nodes are ready, and pods run as soon as they are bound.
            let config = json!({
                "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
                "kind": "KwokConfiguration",
                "options": {
                    "manageAllNodes": true,
                    "manageNodesWithAnnotationSelector": "",
                    "podPlayStageParallelism": 16,
                },
            });
            running.push(configured("kwok", path, &config, &[&kubeconfig, "--server-address=127.0.0.1:0"])?);
        }
        Ok(running)
    }
}

/// Starts a program that reads its configuration from a file, which goes with it.
fn configured(name: &str, path: PathBuf, config: &Value, args: &[&str]) -> Result<Process> {
    let scratch = Scratch::new(name)?;
    let file = scratch.file("config.json");
    std::fs::write(&file, config.to_string())?;
    let folder = scratch.keep();
    Program::new(name, path).args([flag("config", file.display())]).args(args.iter().copied()).sweep(folder).start()
}

/// Volcano's scheduler with the actions and plugins of its chart, in rounds that follow each other quickly.
fn volcano(path: PathBuf, kubeconfig: &str) -> Result<Process> {
    let plugins = |names: &[&str]| -> Value {
        let plugins: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"plugins": plugins})
    };
    let config = json!({
        "actions": "enqueue, allocate, backfill",
        "tiers": [
            plugins(&["priority", "gang", "conformance"]),
            plugins(&["overcommit", "drf", "predicates", "proportion", "nodeorder", "binpack", "network-topology-aware"]),
        ],
    });
    let scratch = Scratch::new("volcano")?;
    // YAML, of which JSON is a part.
    let file = scratch.file("scheduler.conf");
    std::fs::write(&file, config.to_string())?;
    let folder = scratch.keep();
    Program::new("volcano-scheduler", path)
        .args([kubeconfig.to_owned(), flag("scheduler-conf", file.display())])
        .args(["--disable-default-scheduler-config=true", "--leader-elect=false", "--cache-dumper=false"])
        .args(["--schedule-period=100ms"])
        // Where a person may change its log level; else it would be a place that all such programs share.
        .env("DEBUG_SOCKET_DIR", &folder)
        .sweep(folder)
        .start()
}

/// The scheduler makes the queues `root` and `default`; what they are used for waits until they are open. It is
/// Volcano's own controller that says so, which does not run here.
async fn open_queues(plane: &ControlPlane) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("scheduling.volcano.sh", "v1beta1", "Queue"));
    let queues: Api<DynamicObject> = Api::all_with(plane.client().await?, &kind);
    for name in ["root", "default"] {
        let open = Patch::Merge(json!({"status": {"state": "Open"}}));
        poll::until(&format!("Volcano's queue {name}"), QUEUES_DEADLINE, async || {
            queues.patch_status(name, &PatchParams::default(), &open).await.ok()
        })
        .await?;
    }
    Ok(())
}

async fn create_nodes(plane: &ControlPlane, nodes: u32) -> Result<()> {
    for number in 0..nodes {
        plane.create_node(&format!("node-{number}"), 1000, &[]).await?;
    }
    Ok(())
}

impl ControlPlane {
    /// A node that holds pods whose requests sum up to `cpus`; it becomes ready where kwok runs.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create_node(&self, name: &str, cpus: u32, labels: &[(&str, &str)]) -> Result<()> {
        let room = json!({"cpu": cpus.to_string(), "memory": "4000Gi", "pods": PODS_PER_NODE.to_string()});
        let mut labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        labels.insert("kubernetes.io/hostname", name);
        let node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": room, "capacity": room},
        }))?;
        let api: Api<Node> = Api::all(self.client().await?);
        api.create(&PostParams::default(), &node).await.with_context(|| format!("cannot create the node {name}"))?;
        Ok(())
    }
}
