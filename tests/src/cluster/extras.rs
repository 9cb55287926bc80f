//! What runs beside the API server by wish.

use std::path::PathBuf;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::binaries::Binary;
use super::control_plane::{ControlPlane, ControlPlaneOptions, flag};
use crate::process::{Process, Program};
use crate::scratch::Scratch;

/// What each node holds.
const PODS_PER_NODE: u32 = 500;

/// Programs, built.
pub(super) struct Extras {
    controller_manager: Option<PathBuf>,
    scheduler: Option<PathBuf>,
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
            let config = json!({
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": plane.kubeconfig(), "qps": 1000, "burst": 2000},
                "leaderElection": {"leaderElect": false},
                "profiles": [{"schedulerName": "default-scheduler"}, {"schedulerName": "volcano"}],
            });
            running.push(configured("kube-scheduler", path, &config, &["--secure-port=0"])?);
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
fn configured(name: &str, path: PathBuf, config: &serde_json::Value, args: &[&str]) -> Result<Process> {
    let scratch = Scratch::new(name)?;
    let file = scratch.file("config.json");
    std::fs::write(&file, config.to_string())?;
    let folder = scratch.keep();
    Program::new(name, path).args([flag("config", file.display())]).args(args.iter().copied()).sweep(folder).start()
}

async fn create_nodes(plane: &ControlPlane, nodes: u32) -> Result<()> {
    let api: Api<Node> = Api::all(plane.client().await?);
    let room = json!({"cpu": "1000", "memory": "4000Gi", "pods": PODS_PER_NODE.to_string()});
    for number in 0..nodes {
        let node = serde_json::from_value(json!({
            "metadata": {"name": format!("node-{number}"), "labels": {"kubernetes.io/hostname": format!("node-{number}")}},
            "status": {"allocatable": room, "capacity": room},
        }))?;
        api.create(&PostParams::default(), &node).await?;
    }
    Ok(())
}
