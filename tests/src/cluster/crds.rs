//! The kinds of others that ours meet, from the files of their modules.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::binaries::{self, Binary};
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
        let volcano = |path| Ok((binaries::module_of(Binary::VolcanoScheduler)?, path));
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
            Self::Gateway => module(GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_gateways.yaml"),
            Self::HttpRoute => module(GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
        }
    }

    /// The version of the module that it comes from, as `v1.2.3`.
    ///
    /// # Errors
    /// When a `go.mod` names none.
    pub fn version(self) -> Result<String> {
        version_of(&self.source()?.0)
    }

    /// The text of its CustomResourceDefinition; fetched once into the cache.
    ///
    /// # Errors
    /// When it cannot be fetched, with what Go said and what to set.
    pub async fn manifest(self) -> Result<String> {
        let (module, path) = self.source()?;
        cached(&module, path, path.rsplit('/').next().unwrap_or(path)).await
    }
}

/// The kinds of a gateway, many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayKinds {
    /// `gateway.networking.k8s.io`, the standard channel.
    GatewayApi,
    /// `gateway.envoyproxy.io`.
    EnvoyGateway,
    /// `aigateway.envoyproxy.io`.
    AiGateway,
    /// `networking.istio.io` and its sisters.
    Istio,
}

impl GatewayKinds {
    /// Module, and the file or folder in it.
    fn source(self) -> Result<(String, &'static str)> {
        Ok(match self {
            Self::GatewayApi => (GATEWAY_API.to_owned(), "config/crd/standard"),
            Self::EnvoyGateway => {
                (binaries::module_of(Binary::EnvoyGateway)?, "charts/gateway-crds-helm/templates/generated")
            }
            Self::AiGateway => {
                (binaries::module_of(Binary::AiGateway)?, "manifests/charts/ai-gateway-crds-helm/templates")
            }
            Self::Istio => (binaries::module_of(Binary::Istiod)?, "manifests/charts/base/files/crd-all.gen.yaml"),
        })
    }

    /// The version of the module that they come from, as `v1.2.3`.
    ///
    /// # Errors
    /// When a `go.mod` names none.
    pub fn version(self) -> Result<String> {
        version_of(&self.source()?.0)
    }

    /// The texts of their CustomResourceDefinitions; fetched once into the cache.
    ///
    /// # Errors
    /// When they cannot be fetched, with what Go said and what to set.
    pub async fn manifests(self) -> Result<Vec<String>> {
        let (module, path) = self.source()?;
        let text = cached(&module, path, &format!("{self:?}.yaml")).await?;
        let documents = text.split("\n---").map(|document| document.trim_start_matches("---"));
        Ok(documents.filter(|document| document.contains("\nkind: CustomResourceDefinition")).map(Into::into).collect())
    }
}

fn version_of(module: &str) -> Result<String> {
    Ok(module.rsplit_once('@').context("a module without its version")?.1.to_owned())
}

/// The folder of Envoy Gateway's own chart; fetched once into the cache.
///
/// # Errors
/// When it cannot be fetched, with what Go said and what to set.
pub async fn chart_of_envoy_gateway() -> Result<PathBuf> {
    let module = binaries::module_of(Binary::EnvoyGateway)?;
    let folder = Go::find(&cache::folder()?, binaries::needed_go()?).await?.module_folder(&module).await?;
    Ok(folder.join("charts/gateway-helm"))
}

/// The text of `path` in `module`; of all YAML files in it where it is a folder. Kept in the cache as `name`.
async fn cached(module: &str, path: &str, name: &str) -> Result<String> {
    let caches = cache::folder()?;
    let folder = caches.join("crds").join(module.replace('/', "-"));
    let copy = folder.join(name);
    if !copy.exists() {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let _lock = cache::lock(&folder, "fetch", LOCK_DEADLINE).await?;
        if !copy.exists() {
            fetch(&caches, module, path, &copy).await?;
        }
    }
    std::fs::read_to_string(&copy).with_context(|| format!("cannot read {}", copy.display()))
}

async fn fetch(caches: &Path, module: &str, path: &str, copy: &Path) -> Result<()> {
    let source = Go::find(caches, binaries::needed_go()?).await?.module_folder(module).await?.join(path);
    let mut files = vec![source.clone()];
    if source.is_dir() {
        files = std::fs::read_dir(&source)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
    }
    let mut whole = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("{module} has no {path}"))?;
        // A chart's conditions around a manifest that has none inside.
        let lines = text.lines().filter(|line| !line.starts_with("{{")).collect::<Vec<_>>().join("\n");
        // Most begin a document themselves, and a second mark would begin a second one.
        whole.extend([if lines.starts_with("---") { "" } else { "---\n" }, &lines, "\n"]);
    }
    let fresh = copy.with_added_extension("fresh");
    std::fs::write(&fresh, whole)?;
    std::fs::rename(&fresh, copy)?;
    Ok(())
}
