//! Envoy Gateway with policies: the pods are a headless Service's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::cluster::binaries::Binary;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
use tests::process::{Process, Program};
use tests::scratch::Scratch;
use tests::{client, envoy, poll};

use crate::host::{Body, Failure, Host, Setting};
use crate::objects::Objects;
use crate::sandbox;
use crate::stage::{SOON, tail};

/// Where it keeps its own things in the cluster.
const HOME: &str = "envoy-gateway-system";

/// Where a user reads how to have spans told to a collector.
const TELEMETRY_GUIDE: &str = include_str!("../../gateway-api-examples/otel/README.md");

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";

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
pub(crate) struct EnvoyGateway {
    process: Process,
    admin: Option<SocketAddr>,
    scratch: Scratch,
}

impl EnvoyGateway {
    /// Starts it with more configuration.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) async fn start_with(
        plane: &ControlPlane,
        objects: &Objects,
        traces: SocketAddr,
        more: &Value,
    ) -> Result<Self> {
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

    /// The folder with its certificate.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.scratch.file("config/certs/envoy-gateway")
    }

    /// Where Envoy wrote its admin address.
    fn address_file(&self) -> Option<PathBuf> {
        let runs = std::fs::read_dir(self.scratch.file("run")).ok()?;
        runs.filter_map(|run| Some(run.ok()?.path().join("admin-address.txt"))).find(|file| file.exists())
    }
}

/// These settings of an `EnvoyProxy`, for an Envoy that is a process.
fn of_a_process(mut spec: Value) -> Value {
    spec["provider"] = json!({"type": "Host", "host": {"envoyVersion": envoy::VERSION}});
    spec["concurrency"] = json!(1);
    spec["extraArgs"] = json!(["--disable-hot-restart"]);
    spec
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

impl Host for EnvoyGateway {
    const NAME: &'static str = "envoy-gateway";
    const TITLE: &'static str = "Envoy Gateway";
    const KINDS: &'static [GatewayKinds] = &[GatewayKinds::GatewayApi, GatewayKinds::EnvoyGateway];
    // It refuses to fail open where bodies are streamed.
    const SETTINGS: &'static [Setting] = &[
        Setting::new(Body::FullDuplex, Failure::Close),
        Setting::new(Body::Buffered, Failure::Close),
        Setting::new(Body::Buffered, Failure::Open),
    ];
    const SCENARIOS: bool = false;
    const TELEMETRY: &'static str = "otel/envoy-gateway.yaml";

    async fn build() -> Result<()> {
        Binary::EnvoyGateway.path().await.map(drop)
    }

    async fn start(plane: &ControlPlane, objects: &Objects, traces: SocketAddr) -> Result<Self> {
        Self::start_with(plane, objects, traces, &json!({})).await
    }

    async fn attach(&mut self, _: &Objects) -> Result<()> {
        let found = poll::until("Envoy's admin address", SOON, async || {
            std::fs::read_to_string(self.address_file()?).ok()?.trim().parse().ok()
        });
        self.admin = Some(found.await.with_context(|| self.said())?);
        sandbox::wait_for_listener("the gateway", self.address()).await.with_context(|| self.said())
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 80).into()
    }

    fn admin(&self) -> SocketAddr {
        self.admin.unwrap_or(([127, 0, 0, 1], 0).into())
    }

    async fn set(&self, objects: &Objects, setting: Setting) -> Result<()> {
        let (body, response) = match setting.body {
            Body::Buffered => ("Buffered", json!({})),
            Body::FullDuplex => ("FullDuplexStreamed", json!({})),
            Body::OnDemand => anyhow::bail!("no policy can have it"),
        };
        let patch = json!({"spec": {"extProc": [{
            "backendRefs": [{"name": "llama-epp", "port": 9002}],
            "messageTimeout": format!("{}s", Duration::from_secs(5).as_secs()),
            "failOpen": setting.failure == Failure::Open,
            "statusOnError": 503,
            "processingMode": {
                "request": {"body": body, "attributes": ["xds.route_name", "request.id"]}, "response": response,
            },
            "metadata": {"accessibleNamespaces": ["envoy.lb"], "writableNamespaces": ["envoy.lb"]},
        }]}});
        objects.merge("gateway.envoyproxy.io/v1alpha1", "EnvoyExtensionPolicy", "llama-epp", &patch).await
    }

    async fn tell_spans(&self, objects: &Objects, settings: &str) -> Result<()> {
        let mut proxy: Value = serde_saphyr::from_str(settings)?;
        proxy["spec"] = of_a_process(proxy["spec"].take());
        objects.apply(&proxy.to_string()).await?;
        let command = TELEMETRY_GUIDE.split("kubectl patch gateway inference --type=merge -p '").nth(1);
        let patch = command.and_then(|rest| rest.split('\'').next()).context("the guide's patch of the Gateway")?;
        objects.merge(GATEWAYS, "Gateway", "inference", &serde_json::from_str(patch)?).await
    }

    async fn tell_spans_as_before(&self, objects: &Objects, settings: &str) -> Result<()> {
        objects.merge(GATEWAYS, "Gateway", "inference", &json!({"spec": {"infrastructure": null}})).await?;
        objects.delete(settings).await
    }

    fn said(&self) -> String {
        format!("Envoy Gateway and Envoy said:\n{}", tail(&self.process.output().join("\n"), 30))
    }
}
