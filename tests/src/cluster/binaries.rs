//! The control plane's programs, and what looks at our manifests: built once from their Go modules into the cache.
//!
//! Which versions, say the `go.mod` files in `tools/`, and nothing else does.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::go::{Flags, Go};
use crate::{cache, checkout, progress};

/// How long another process may take with the same build.
const LOCK_DEADLINE: std::time::Duration = std::time::Duration::from_secs(2700);

/// A program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// etcd.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager: garbage collection, EndpointSlices.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kwok: nodes without machines, and what happens to pods on them.
    Kwok,
    /// helm: the chart.
    Helm,
    /// Volcano's scheduler: gangs, and nodes near to each other.
    VolcanoScheduler,
    /// Envoy Gateway.
    EnvoyGateway,
    /// The controller of Envoy AI Gateway.
    AiGateway,
    /// istiod.
    Istiod,
    /// promtool: rules for Prometheus, checked and tried.
    Promtool,
}

/// How a program is made.
struct Recipe {
    name: &'static str,
    /// The folder of its tools module.
    folder: &'static str,
    /// That module's `go.mod`.
    go_mod: &'static str,
    /// The module whose version is the program's.
    module: &'static str,
    package: &'static str,
    made: Made,
    /// How long it takes, for a person who waits.
    takes: &'static str,
}

/// How Go is told to make it. Nobody debugs these programs: none has debug information.
#[derive(Clone, Copy)]
struct Made {
    tags: &'static str,
    /// The variable that holds the version that the program tells.
    stamp: Option<&'static str>,
    /// What the benches measure against is; of others, optimising takes longer than it saves in all the tests.
    optimised: bool,
}

const QUICKLY: Made = Made { tags: "", stamp: None, optimised: false };
const OPTIMISED: Made = Made { optimised: true, ..QUICKLY };

impl Binary {
    fn recipe(self) -> Recipe {
        let kube = |name, package, takes| Recipe {
            name,
            folder: "kube",
            go_mod: include_str!("tools/kube/go.mod"),
            module: "k8s.io/kubernetes",
            package,
            // What kube-apiserver says of itself under /version.
            made: Made { stamp: Some("k8s.io/component-base/version.gitVersion"), ..OPTIMISED },
            takes,
        };
        match self {
            Self::Etcd => Recipe {
                name: "etcd",
                folder: "etcd",
                go_mod: include_str!("tools/etcd/go.mod"),
                module: "go.etcd.io/etcd/server/v3",
                package: "go.etcd.io/etcd/server/v3",
                made: OPTIMISED,
                takes: "a minute",
            },
            Self::ApiServer => kube("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "six minutes"),
            Self::ControllerManager => {
                kube("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", "two minutes")
            }
            Self::Scheduler => kube("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", "a minute"),
            Self::Kwok => Recipe {
                name: "kwok",
                folder: "kwok",
                go_mod: include_str!("tools/kwok/go.mod"),
                module: "sigs.k8s.io/kwok",
                package: "sigs.k8s.io/kwok/cmd/kwok",
                made: OPTIMISED,
                takes: "two minutes",
            },
            Self::Helm => Recipe {
                name: "helm",
                folder: "helm",
                go_mod: include_str!("tools/helm/go.mod"),
                module: "helm.sh/helm/v4",
                package: "helm.sh/helm/v4/cmd/helm",
                made: QUICKLY,
                takes: "two minutes",
            },
            Self::VolcanoScheduler => Recipe {
                name: "volcano-scheduler",
                folder: "volcano",
                // With the replacements of its own `go.mod`: Go heeds those of the main module only.
                go_mod: include_str!("tools/volcano/go.mod"),
                module: "volcano.sh/volcano",
                package: "volcano.sh/volcano/cmd/scheduler",
                made: QUICKLY,
                takes: "four minutes",
            },
            Self::EnvoyGateway => Recipe {
                name: "envoy-gateway",
                folder: "envoy-gateway",
                go_mod: include_str!("tools/envoy-gateway/go.mod"),
                module: "github.com/envoyproxy/gateway",
                package: "github.com/envoyproxy/gateway/cmd/envoy-gateway",
                made: QUICKLY,
                takes: "seven minutes",
            },
            Self::AiGateway => Recipe {
                name: "ai-gateway-controller",
                folder: "ai-gateway",
                go_mod: include_str!("tools/ai-gateway/go.mod"),
                module: "github.com/envoyproxy/ai-gateway",
                package: "github.com/envoyproxy/ai-gateway/cmd/controller",
                made: QUICKLY,
                takes: "two minutes, after Envoy Gateway",
            },
            Self::Istiod => Recipe {
                name: "pilot-discovery",
                folder: "istio",
                go_mod: include_str!("tools/istio/go.mod"),
                module: "istio.io/istio",
                package: "istio.io/istio/pilot/cmd/pilot-discovery",
                made: QUICKLY,
                takes: "ten minutes",
            },
            Self::Promtool => Recipe {
                name: "promtool",
                folder: "promtool",
                go_mod: include_str!("tools/promtool/go.mod"),
                module: "github.com/prometheus/prometheus",
                package: "github.com/prometheus/prometheus/cmd/promtool",
                // No clouds to discover targets in.
                made: Made { tags: "remove_all_sd", ..QUICKLY },
                takes: "two minutes",
            },
        }
    }

    /// The program's path; built if need be. etcd and kube-apiserver of `$KUBEBUILDER_ASSETS` are taken instead.
    ///
    /// # Errors
    /// When it cannot be built, with what Go said and what to set.
    pub async fn path(self) -> Result<PathBuf> {
        let recipe = self.recipe();
        if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty())
            && matches!(self, Self::Etcd | Self::ApiServer)
        {
            let path = Path::new(&assets).join(recipe.name);
            if !path.exists() {
                bail!(
                    "KUBEBUILDER_ASSETS={} has no {}: unset it, or name a folder that has",
                    assets.display(),
                    path.display()
                );
            }
            return Ok(path);
        }
        let version = version(recipe.go_mod, recipe.module)?;
        let caches = cache::folder()?;
        let folder = caches.join("control-plane");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let name = format!("{}-{version}", recipe.name);
        let binary = folder.join(&name);
        if binary.exists() {
            return Ok(binary);
        }
        // One after another: each takes all the processors there are.
        let _lock = cache::lock(&folder, "build", LOCK_DEADLINE).await?;
        if !binary.exists() {
            let needed = version_of_go(recipe.go_mod)?;
            let go = Go::find(&caches, needed).await?;
            progress::say(&format!(
                "building {name} from its Go module into {} (once; about {} on two processors)",
                folder.display(),
                recipe.takes
            ));
            let tools = checkout::path("tests/src/cluster/tools").join(recipe.folder);
            let Made { tags, stamp, optimised } = recipe.made;
            let stamp = stamp.map(|variable| format!(" -X {variable}=v{version}")).unwrap_or_default();
            let compiler = if optimised { "-dwarf=false" } else { "-dwarf=false -N -l" };
            let linker = format!("-s -w{stamp}");
            go.build(&tools, recipe.package, Flags { tags, compiler, linker: &linker }, &binary).await?;
        }
        Ok(binary)
    }
}

/// `module@vVERSION` of a program, as its `go.mod` in `tools/` says.
pub(super) fn module_of(binary: Binary) -> Result<String> {
    let recipe = binary.recipe();
    Ok(format!("{}@v{}", recipe.module, version(recipe.go_mod, recipe.module)?))
}

/// The version of Go that the tools need.
pub(super) fn needed_go() -> Result<&'static str> {
    version_of_go(include_str!("tools/kube/go.mod"))
}

fn version_of_go(go_mod: &str) -> Result<&str> {
    go_mod.lines().find_map(|line| line.strip_prefix("go ")).context("go.mod names no version of Go")
}

/// The version, without its `v`, at which `go_mod` requires `module`.
fn version<'a>(go_mod: &'a str, module: &str) -> Result<&'a str> {
    let required = |line: &'a str| {
        let line = line.trim().trim_start_matches("require ");
        line.strip_prefix(module)?.strip_prefix(" v")?.split(' ').next()
    };
    go_mod.lines().find_map(required).with_context(|| format!("go.mod does not require {module}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_go_mod() {
        let go_mod = "module tools/x\n\ngo 1.26.0\n\nrequire example.org/a v1.2.3\n\nrequire (\n\texample.org/b v0.1.0 // indirect\n)\n";
        assert_eq!(version(go_mod, "example.org/a").unwrap(), "1.2.3");
        assert_eq!(version(go_mod, "example.org/b").unwrap(), "0.1.0");
        assert!(version(go_mod, "example.org/c").is_err());
        assert_eq!(version_of_go(go_mod).unwrap(), "1.26.0");
    }

    #[test]
    fn every_program_has_a_version() {
        use Binary::{
            AiGateway, ApiServer, ControllerManager, EnvoyGateway, Etcd, Helm, Istiod, Kwok, Promtool, Scheduler,
            VolcanoScheduler,
        };
        let kubernetes = [Etcd, ApiServer, ControllerManager, Scheduler, Kwok];
        for binary in kubernetes.into_iter().chain([VolcanoScheduler, Helm, EnvoyGateway, AiGateway, Istiod, Promtool])
        {
            let recipe = binary.recipe();
            assert!(version(recipe.go_mod, recipe.module).is_ok(), "{}", recipe.name);
        }
    }
}
