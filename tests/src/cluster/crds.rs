//! The kinds of others that ours meet, from the files of their modules.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::binaries;
use super::go::Go;
use crate::cache;

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
    /// `nodeinfo.volcano.sh` Numatopology, which Volcano's scheduler wants to watch.
    Numatopology,
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
    pub const ALL: [Self; 8] = [
        Self::PodGroup,
        Self::Queue,
        Self::HyperNode,
        Self::Numatopology,
        Self::LeaderWorkerSet,
        Self::InferencePool,
        Self::Gateway,
        Self::HttpRoute,
    ];

    /// The module, `NAME@VERSION`, and the file in it.
    fn source(self) -> Result<(String, &'static str)> {
        let volcano = |path| Ok((binaries::volcano_module()?, path));
        let module = |name: &str, path| Ok((name.to_owned(), path));
        match self {
            // From 1.14 on it has `subGroupPolicy`.
            Self::PodGroup => volcano("config/crd/volcano/bases/scheduling.volcano.sh_podgroups.yaml"),
            Self::Queue => volcano("config/crd/volcano/bases/scheduling.volcano.sh_queues.yaml"),
            Self::HyperNode => volcano("config/crd/volcano/bases/topology.volcano.sh_hypernodes.yaml"),
            Self::Numatopology => volcano("config/crd/volcano/bases/nodeinfo.volcano.sh_numatopologies.yaml"),
            Self::LeaderWorkerSet => {
                module(LEADER_WORKER_SET, "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml")
            }
            Self::InferencePool => {
                module(INFERENCE_EXTENSION, "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml")
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
        let (module, path) = self.source()?;
        let caches = cache::folder()?;
        let folder = caches.join("crds").join(module.replace('/', "-"));
        let copy = folder.join(path.rsplit('/').next().unwrap_or(path));
        if !copy.exists() {
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let _lock = cache::lock(&folder, "fetch", LOCK_DEADLINE).await?;
            if !copy.exists() {
                fetch(&caches, &module, path, &copy).await?;
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
