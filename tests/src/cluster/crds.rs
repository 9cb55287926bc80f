//! The kinds of others that ours meet, from the files of their modules.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::binaries;
use super::go::Go;
use crate::cache;

/// Volcano's module; its `PodGroup` has `subGroupPolicy`.
const VOLCANO: &str = "volcano.sh/volcano@v1.14.1";
/// LeaderWorkerSet's module.
const LEADER_WORKER_SET: &str = "sigs.k8s.io/lws@v0.8.0";
/// The Gateway API Inference Extension's module.
const INFERENCE_EXTENSION: &str = "sigs.k8s.io/gateway-api-inference-extension@v1.6.0";
/// The Gateway API's module.
const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.6.1";
/// How long another process may take to fetch.
const LOCK_DEADLINE: std::time::Duration = std::time::Duration::from_secs(1800);

/// Kinds of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// `scheduling.volcano.sh` PodGroup.
    PodGroup,
    /// `scheduling.volcano.sh` Queue.
    Queue,
    /// `topology.volcano.sh` HyperNode.
    HyperNode,
    /// `leaderworkerset.x-k8s.io` LeaderWorkerSet.
    LeaderWorkerSet,
    /// `inference.networking.k8s.io` InferencePool.
    InferencePool,
    /// `gateway.networking.k8s.io` Gateway.
    Gateway,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
}

impl Foreign {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::PodGroup,
        Self::Queue,
        Self::HyperNode,
        Self::LeaderWorkerSet,
        Self::InferencePool,
        Self::Gateway,
        Self::HttpRoute,
    ];

    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::PodGroup => (VOLCANO, "config/crd/volcano/bases/scheduling.volcano.sh_podgroups.yaml"),
            Self::Queue => (VOLCANO, "config/crd/volcano/bases/scheduling.volcano.sh_queues.yaml"),
            Self::HyperNode => (VOLCANO, "config/crd/volcano/bases/topology.volcano.sh_hypernodes.yaml"),
            Self::LeaderWorkerSet => {
                (LEADER_WORKER_SET, "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml")
            }
            Self::InferencePool => {
                (INFERENCE_EXTENSION, "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml")
            }
            Self::Gateway => (GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_gateways.yaml"),
            Self::HttpRoute => (GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
        }
    }

    /// The text of its CustomResourceDefinition; fetched once into the cache.
    ///
    /// # Errors
    /// When it cannot be fetched, with what Go said and what to set.
    pub async fn manifest(self) -> Result<String> {
        let (module, path) = self.source();
        let caches = cache::folder()?;
        let folder = caches.join("crds").join(module.replace('/', "-"));
        let copy = folder.join(path.rsplit('/').next().unwrap_or(path));
        if !copy.exists() {
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let _lock = cache::lock(&folder, "fetch", LOCK_DEADLINE).await?;
            if !copy.exists() {
                fetch(&caches, module, path, &copy).await?;
            }
        }
        std::fs::read_to_string(&copy).with_context(|| format!("cannot read {}", copy.display()))
    }
}

async fn fetch(caches: &std::path::Path, module: &str, path: &str, copy: &PathBuf) -> Result<()> {
    let source = Go::find(caches, binaries::needed_go()?).await?.module_folder(module).await?.join(path);
    let fresh = copy.with_added_extension("fresh");
    let text = std::fs::read(&source).with_context(|| format!("{module} has no {path}"))?;
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, copy)?;
    Ok(())
}
