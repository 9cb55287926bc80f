//! Envoy Gateway as a process, and the Envoy that it starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cluster::binaries::Binary;
use crate::cluster::control_plane::ControlPlane;
use crate::process::{Process, Program};
use crate::scratch::Scratch;
use crate::{client, envoy, poll};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::objects::Objects;
use super::{SOON, sandbox, tail};

/// Where it keeps its own things in the cluster.
const HOME: &str = "envoy-gateway-system";

/// Where a user reads how to configure Envoy Gateway for pools.
const POOLS_GUIDE: &str = include_str!("../../../gateway-api-examples/envoy-gateway-pools/README.md");

/// Its certificates are in `/certs`, whatever one says. So it gets a root of its own in a mount namespace of its own:
/// all that is in `/`, and this folder more. `$1` holds the certificates, the rest is the command.
const IN_A_ROOT_WITH_CERTS: &str = r#"
set -e
mount -t tmpfs tmpfs /mnt
for entry in /*; do
    case "$entry" in /mnt | /certs) continue ;; esac
    if [ -L "$entry" ]; then cp -P "$entry" "/mnt$entry"
    elif [ -d "$entry" ]; then mkdir "/mnt$entry"; mount --rbind "$entry" "/mnt$entry"
    fi
done
mkdir /mnt/certs
cp "$1"/* /mnt/certs/
shift
exec chroot /mnt "$@"
"#;

/// Envoy Gateway, and the Envoy that it starts.
pub struct EnvoyGateway {
    process: Process,
    admin: Option<SocketAddr>,
    scratch: Scratch,
}

impl EnvoyGateway {
    /// Starts it with more configuration.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_with(plane: &ControlPlane, objects: &Objects, traces: SocketAddr, more: &Value) -> Result<Self> {
        let scratch = Scratch::new("envoy-gateway")?;
        let folder = |name: &str| scratch.file(name).to_string_lossy().into_owned();
        let program = Binary::EnvoyGateway.path().await?;
        objects
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}).to_string())
            .await?;
        // Files for both ends of xDS; and the Secrets that it reads at its start.
        certificates(&program, plane, &["--local", "--config-home", &folder("config")]).await?;
        certificates(&program, plane, &["--disable-topology-injector"]).await?;
        // It takes an Envoy that is there already.
        let bin = scratch.file("data").join("envoy-versions").join(envoy::VERSION).join("bin");
        std::fs::create_dir_all(&bin)?;
        std::os::unix::fs::symlink(envoy::binary().await?, bin.join("envoy"))?;

        let mut config = json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
            "provider": {"type": "Custom", "custom": {
                "resource": {"type": "Kubernetes", "kubernetes": {"leaderElection": {"disable": true}}},
                "infrastructure": {"type": "Host", "host": {
                    "configHome": folder("config"), "dataHome": folder("data"),
                    "stateHome": folder("state"), "runtimeDir": folder("run"),
                }},
            }},
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        std::fs::write(scratch.file("config.yaml"), config.to_string())?;
        objects.apply(&class(traces)).await?;
        let process = Program::new("Envoy Gateway", "unshare")
            .args(["--mount", "sh", "-c", IN_A_ROOT_WITH_CERTS, "sh", &folder("config/certs/envoy-gateway")])
            .args([program.as_os_str()])
            .args(["server", "--config-path", &folder("config.yaml")])
            .env("KUBECONFIG", plane.kubeconfig())
            .env("ENVOY_GATEWAY_NAMESPACE", HOME)
            .sweep(scratch.path())
            .start()?;
        let gateway = Self { process, admin: None, scratch };
        let readiness = poll::until("Envoy Gateway's readiness", SOON, async || {
            let ready =
                client::get(([127, 0, 0, 1], 8081).into(), "/readyz").await.is_ok_and(|reply| reply.status == 200);
            if ready { Some(true) } else { gateway.process.try_exit_code().map(|_| false) }
        });
        let ready = readiness.await.with_context(|| gateway.said())?;
        anyhow::ensure!(ready, "Envoy Gateway ended:\n{}", gateway.said());
        Ok(gateway)
    }

    /// After the manifests were applied: until the gateway's port answers.
    ///
    /// # Errors
    /// When it does not in time, with what was said.
    pub async fn attach(&mut self) -> Result<()> {
        let found = poll::until("Envoy's admin address", SOON, async || {
            std::fs::read_to_string(self.address_file()?).ok()?.trim().parse().ok()
        });
        self.admin = Some(found.await.with_context(|| self.said())?);
        sandbox::wait_for_listener("the gateway", self.address()).await.with_context(|| self.said())
    }

    /// Where clients ask.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 80).into()
    }

    /// Envoy's admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.admin.unwrap_or(([127, 0, 0, 1], 0).into())
    }

    /// The ends of its logs.
    pub fn said(&self) -> String {
        format!("Envoy Gateway and Envoy said:\n{}", tail(&self.process.output().join("\n"), 30))
    }

    /// The folder with its certificate.
    pub fn certificates(&self) -> PathBuf {
        self.scratch.file("config/certs/envoy-gateway")
    }

    /// Where Envoy wrote its admin address.
    fn address_file(&self) -> Option<PathBuf> {
        let runs = std::fs::read_dir(self.scratch.file("run")).ok()?;
        runs.filter_map(|run| Some(run.ok()?.path().join("admin-address.txt"))).find(|file| file.exists())
    }
}

/// These settings of an `EnvoyProxy`, for an Envoy that is a process.
pub fn of_a_process(mut spec: Value) -> Value {
    spec["provider"] = json!({"type": "Host", "host": {"envoyVersion": envoy::VERSION}});
    spec["concurrency"] = json!(1);
    spec["extraArgs"] = json!(["--disable-hot-restart"]);
    spec
}

/// The guide's configuration for pools, with an extension server at this port of loopback.
///
/// # Errors
/// When the guide has none.
pub fn for_pools(port: u16) -> Result<Value> {
    let block = POOLS_GUIDE.split("```yaml").nth(1).and_then(|rest| rest.split("```").next());
    let values: Value = serde_saphyr::from_str(block.context("the guide's values")?)?;
    let mut more = values["config"]["envoyGateway"].clone();
    more["extensionManager"]["service"] = json!({"ip": {"address": "127.0.0.1", "port": port}});
    Ok(more)
}

/// The class that an installation brings.
fn class(traces: SocketAddr) -> String {
    let proxy = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyProxy",
        "metadata": {"name": "process", "namespace": HOME},
        "spec": of_a_process(json!({"telemetry": {"tracing": {"samplingRate": 100, "provider": {
            "type": "OpenTelemetry", "host": traces.ip(), "port": traces.port(),
        }}}})),
    });
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "eg"},
        "spec": {
            "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
            "parametersRef": {
                "group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "process", "namespace": HOME,
            },
        },
    });
    format!("{proxy}\n---\n{class}")
}

async fn certificates(program: &Path, plane: &ControlPlane, arguments: &[&str]) -> Result<()> {
    let made = tokio::process::Command::new(program)
        .arg("certgen")
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig())
        .env("ENVOY_GATEWAY_NAMESPACE", HOME)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SOON, made).await.context("envoy-gateway certgen hangs")??;
    anyhow::ensure!(
        output.status.success(),
        "envoy-gateway certgen: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
