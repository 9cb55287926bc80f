//! istiod, and the stock Envoy as its gateway.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::cluster::binaries::Binary;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
use tests::process::{Process, Program};
use tests::scratch::Scratch;
use tests::{client, envoy, poll};

use crate::host::{Body, Failure, Host, Setting};
use crate::objects::{NAMESPACE, Objects};
use crate::sandbox::{self, address};
use crate::stage::{SOON, tail};

const HOME: &str = "istio-system";
/// Where istiod answers: xDS without TLS, and its readiness.
const XDS: u16 = 15010;
const HTTP: u16 = 8090;
/// The gateway's own pod.
const POD: &str = "inference-istio-0";
const POD_HOST: u8 = 20;

/// istiod and an Envoy.
pub(crate) struct Istio {
    envoy: Option<(Process, SocketAddr)>,
    istiod: Process,
    scratch: Scratch,
}

/// What istiod would deploy for the Gateway, were there nodes: its Service. The pod is the Envoy that we start.
fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "inference-istio", "namespace": NAMESPACE},
        "spec": {
            "selector": {"gateway.networking.k8s.io/gateway-name": "inference"},
            "ports": [{"name": "http", "port": 80, "targetPort": 80}],
        },
    })
}

/// Where spans go to.
fn collector(traces: SocketAddr) -> serde_json::Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "collector", "namespace": HOME},
        "spec": {
            "hosts": ["collector.example.com"], "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "ports": [{"number": traces.port(), "name": "grpc-otlp", "protocol": "GRPC"}],
            "endpoints": [{"address": traces.ip()}],
        },
    })
}

/// As istio-agent would write it, without its secrets: who we are, and where istiod is.
fn bootstrap() -> serde_json::Value {
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    json!({
        "node": {
            "id": format!("router~{}~{POD}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local", address(POD_HOST)),
            "cluster": format!("inference-istio.{NAMESPACE}"),
            "metadata": {
                "NAMESPACE": NAMESPACE, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0",
                "LABELS": {"gateway.networking.k8s.io/gateway-name": "inference"}, "SERVICE_ACCOUNT": "default",
            },
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": source, "cds_config": source,
        },
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": XDS}},
            }}]}]},
        }]},
    })
}

impl Host for Istio {
    const NAME: &'static str = "istio";
    const TITLE: &'static str = "Istio";
    const KINDS: &'static [GatewayKinds] = &[GatewayKinds::GatewayApi, GatewayKinds::Istio];
    const SETTINGS: &'static [Setting] =
        &[Setting::new(Body::FullDuplex, Failure::Close), Setting::new(Body::FullDuplex, Failure::Open)];
    const TELEMETRY: &'static str = "otel/istio.yaml";

    const FLEET: bool = true;

    async fn build() -> Result<()> {
        Binary::Istiod.path().await.map(drop)
    }

    async fn start(plane: &ControlPlane, objects: &Objects, traces: SocketAddr) -> Result<Self> {
        let scratch = Scratch::new("istio")?;
        // Without istio-agent nobody hands Envoy certificates for mutual TLS, and it would wait for them.
        let mesh = json!({
            "enableAutoMtls": false,
            "enableTracing": true,
            "defaultConfig": {"tracing": {"sampling": 100.0}},
            "defaultProviders": {"tracing": ["collector"]},
            "extensionProviders": [
                {"name": "collector", "opentelemetry": {"service": "collector.example.com", "port": traces.port()}},
                // As the guide has it.
                {"name": "otel", "opentelemetry": {"service": "otel-collector.default.svc.cluster.local", "port": 4317}},
            ],
        });
        std::fs::write(scratch.file("mesh.yaml"), mesh.to_string())?;
        objects
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}).to_string())
            .await?;
        objects.apply(&collector(traces).to_string()).await?;
        let istiod = Program::new("istiod", Binary::Istiod.path().await?)
            .args(["discovery", "--meshConfig", "mesh.yaml", "--ctrlz_port", "0", "--httpsAddr=", "--secureGRPCAddr="])
            .args(["--kubeconfig".as_ref(), plane.kubeconfig().as_os_str()])
            .args(["--grpcAddr", &format!("127.0.0.1:{XDS}"), "--httpAddr", &format!("127.0.0.1:{HTTP}")])
            .args(["--monitoringAddr", "127.0.0.1:15014"])
            .env("POD_NAMESPACE", HOME)
            .env("POD_NAME", "istiod-0")
            .env("ENABLE_GATEWAY_API_INFERENCE_EXTENSION", "true")
            // The stock Envoy has no filters of Istio's own, and nobody runs what istiod would deploy.
            .env("PILOT_ENABLE_ALPN_FILTER", "false")
            .env("PILOT_ENABLE_METADATA_EXCHANGE", "false")
            .env("PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER", "false")
            .dir(scratch.path())
            .sweep(scratch.path())
            .start()?;
        let host = Self { envoy: None, istiod, scratch };
        let readiness = poll::until("istiod's readiness", SOON, async || {
            let ready =
                client::get(([127, 0, 0, 1], HTTP).into(), "/ready").await.is_ok_and(|reply| reply.status == 200);
            if ready { Some(true) } else { host.istiod.try_exit_code().map(|_| false) }
        });
        let ready = readiness.await.with_context(|| host.said())?;
        ensure!(ready, "istiod ended:\n{}", host.said());
        Ok(host)
    }

    async fn attach(&mut self, objects: &Objects) -> Result<()> {
        objects.apply(&service().to_string()).await?;
        let labels = json!({"gateway.networking.k8s.io/gateway-name": "inference"});
        objects.create_pod(POD, &labels, address(POD_HOST)).await?;
        std::fs::write(self.scratch.file("envoy.json"), bootstrap().to_string())?;
        let process = Program::new("Envoy", envoy::binary().await?)
            .args(["--config-path", "envoy.json", "--disable-hot-restart", "--concurrency", "1"])
            .args(["--admin-address-path", "admin.address"])
            .dir(self.scratch.path())
            .start()?;
        let file = self.scratch.file("admin.address");
        let admin = poll::until("Envoy's admin address", SOON, async || {
            std::fs::read_to_string(&file).ok()?.trim().parse().ok()
        });
        let admin = admin.await.with_context(|| process.output().join("\n"))?;
        self.envoy = Some((process, admin));
        sandbox::wait_for_listener("the gateway", self.address()).await.with_context(|| self.said())
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 80).into()
    }

    fn admin(&self) -> SocketAddr {
        self.envoy.as_ref().map_or(([127, 0, 0, 1], 0).into(), |(_, admin)| *admin)
    }

    async fn set(&self, objects: &Objects, setting: Setting) -> Result<()> {
        let mode = if setting.failure == Failure::Open { "FailOpen" } else { "FailClose" };
        let patch = json!({"spec": {"endpointPickerRef": {"failureMode": mode}}});
        objects.merge("inference.networking.k8s.io/v1", "InferencePool", "llama", &patch).await
    }

    fn said(&self) -> String {
        let envoy = self.envoy.as_ref().map(|(process, _)| process.output()).unwrap_or_default();
        format!(
            "istiod said:\n{}Envoy said:\n{}",
            tail(&self.istiod.output().join("\n"), 20),
            tail(&envoy.join("\n"), 20)
        )
    }
}
