//! Envoy AI Gateway: Envoy Gateway, and the controller that teaches it InferencePools.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tests::cluster::binaries::Binary;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
use tests::process::{Process, Program};
use tests::scratch::Scratch;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::envoy_gateway::EnvoyGateway;
use crate::host::{Body, Failure, Host, Setting};
use crate::objects::{NAMESPACE, Objects};
use crate::sandbox::{self, address};
use crate::stage::tail;

const HOME: &str = "envoy-ai-gateway-system";
/// Both sides of the cable between Envoy Gateway's network and the controller's, whose ports clash.
const OUR_SIDE: &str = "10.200.1.1";
const ITS_SIDE: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 2);
const PORT: u16 = 1063;
/// Where pickers are asked.
const PICKER_PORT: u16 = 9002;
/// The pickers' Services, which AI Gateway finds by their names.
const SERVICES: [Services; 4] = [
    // The host's own example.
    Services { host: 31, namespace: NAMESPACE, names: &["llama-epp"], endpoints_of: "llama-epp" },
    // One for each pool of a scenario: they lead to the chart's picker.
    Services {
        host: 32,
        namespace: NAMESPACE,
        names: &["assistant-7b-epp", "assistant-72b-epp", "chat-epp", "code-epp", "llama-8b-epp", "assistant-epp"],
        endpoints_of: "kthena-ext-proc",
    },
    // Those without a selector, of namespaces without a picker: their endpoints are what the operator wrote.
    Services { host: 36, namespace: "red", names: &["llm-epp"], endpoints_of: "llm-epp" },
    Services { host: 37, namespace: "blue", names: &["llm-epp"], endpoints_of: "llm-epp" },
];

/// A network of its own, in which it waits for its end of the cable.
const IN_A_NETWORK: &str = r#"
set -e
ip link set lo up
until ip link show ext0 >/dev/null 2>&1; do sleep 0.1; done
ip address add 10.200.1.2/30 dev ext0
ip link set ext0 up
ip route add default via 10.200.1.1
exec "$@"
"#;

/// Services that lead to the same pods, at an address of their own.
struct Services {
    host: u8,
    namespace: &'static str,
    names: &'static [&'static str],
    /// The one whose EndpointSlices say which pods.
    endpoints_of: &'static str,
}

impl Services {
    /// Lines of `/etc/hosts`.
    fn lines(&self) -> String {
        let Self { host, namespace, names, .. } = self;
        let line =
            |name: &&str| format!("{} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local\n", address(*host));
        names.iter().map(line).collect()
    }
}

/// Envoy Gateway, AI Gateway's controller, and what kube-proxy would do for the pickers' Services.
pub(crate) struct AiGateway {
    controller: Process,
    proxies: Vec<JoinHandle<()>>,
    gateway: EnvoyGateway,
    _scratch: Scratch,
}

impl Drop for AiGateway {
    fn drop(&mut self) {
        self.proxies.iter().for_each(JoinHandle::abort);
    }
}

/// The controller looks for it and writes a certificate into it; nothing here matches.
fn webhook() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": format!("envoy-ai-gateway-gateway-pod-mutator.{HOME}")},
        "webhooks": [{
            "name": "never.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore", "clientConfig": {"url": "https://127.0.0.1:9444/mutate"},
            "objectSelector": {"matchLabels": {"never": "matches"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    })
}

/// Each connection to a Service that leads to the same pods as `service` goes to a ready one, as kube-proxy has it.
async fn serve(listener: TcpListener, slices: Api<EndpointSlice>, service: &'static str) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let slices = slices.clone();
        connections.spawn(async move {
            let ready = ready(&slices, service).await?;
            let chosen = ready.get(rand::random_range(0..ready.len().max(1))).context("no endpoint is ready")?;
            let mut pod = TcpStream::connect(*chosen).await?;
            for side in [&client, &pod] {
                side.set_nodelay(true)?;
            }
            tokio::io::copy_bidirectional(&mut client, &mut pod).await?;
            anyhow::Ok(())
        });
    }
}

async fn ready(slices: &Api<EndpointSlice>, service: &str) -> Result<Vec<SocketAddr>> {
    let mine = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let found = slices.list(&mine).await?.into_iter();
    let found = found.filter(|slice| slice.ports.iter().flatten().any(|port| port.port == Some(PICKER_PORT.into())));
    let endpoints = found.flat_map(|slice| slice.endpoints.unwrap_or_default());
    let ready = endpoints.filter(|one| one.conditions.as_ref().is_some_and(|state| state.ready == Some(true)));
    let addresses = ready.flat_map(|endpoint| endpoint.addresses);
    Ok(addresses.filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, PICKER_PORT))).collect())
}

impl Host for AiGateway {
    const NAME: &'static str = "ai-gateway";
    const TITLE: &'static str = "Envoy AI Gateway";
    const KINDS: &'static [GatewayKinds] =
        &[GatewayKinds::GatewayApi, GatewayKinds::EnvoyGateway, GatewayKinds::AiGateway];
    const SETTINGS: &'static [Setting] = &[
        Setting::new(Body::FullDuplex, Failure::Close),
        Setting::new(Body::Buffered, Failure::Close),
        Setting::new(Body::FullDuplex, Failure::Open),
    ];
    // It asks the Service by name; and it never fails open.
    const PICKERS_BY_POD: bool = false;
    const HEEDS_FAILURE_MODE: bool = false;
    // With a second one in a rule its controller answers with an error, and nothing more is programmed.
    const SHARES_BY_WEIGHT: bool = false;
    const TELEMETRY: &'static str = EnvoyGateway::TELEMETRY;

    async fn build() -> Result<()> {
        EnvoyGateway::build().await?;
        Binary::AiGateway.path().await.map(drop)
    }

    async fn start(plane: &ControlPlane, objects: &Objects, traces: SocketAddr) -> Result<Self> {
        let scratch = Scratch::new("ai-gateway")?;
        let hosts = scratch.file("hosts");
        let names: String = SERVICES.iter().map(Services::lines).collect();
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{names}"))?;
        // The cluster's name service, for this network alone.
        let mounted =
            tokio::process::Command::new("mount").arg("--bind").arg(&hosts).arg("/etc/hosts").status().await?;
        anyhow::ensure!(mounted.success(), "cannot put a file over /etc/hosts");

        let more = json!({"extensionManager": {
            "backendResources": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "version": "v1"}],
            "hooks": {"xdsTranslator": {
                "translation": {
                    "listener": {"includeAll": true}, "route": {"includeAll": true},
                    "cluster": {"includeAll": true}, "secret": {"includeAll": true},
                },
                "post": ["Translation", "Cluster", "Route"],
            }},
            "service": {"ip": {"address": ITS_SIDE.to_string(), "port": PORT}},
        }});
        let gateway = EnvoyGateway::start_with(plane, objects, traces, &more).await?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}});
        objects.apply(&format!("{namespace}\n---\n{}", webhook())).await?;
        let controller = Program::new("AI Gateway", "unshare")
            .args(["--net", "sh", "-c", IN_A_NETWORK, "sh"])
            .args([Binary::AiGateway.path().await?.as_os_str()])
            .args(["--enableLeaderElection=false", "--port", &SocketAddr::from((ITS_SIDE, PORT)).to_string()])
            .args(["--webhookPort", "9444", "--caBundleName", "ca.crt", "--tlsCertDir"])
            .args([gateway.certificates()])
            .env("KUBECONFIG", plane.kubeconfig())
            .env("POD_NAMESPACE", HOME)
            .sweep(scratch.path())
            .start()?;
        let pid = controller.pid().to_string();
        sandbox::ip(&["link", "add", "eg0", "type", "veth", "peer", "name", "ext0"]).await?;
        sandbox::move_link("ext0", &pid).await?;
        sandbox::ip(&["address", "add", &format!("{OUR_SIDE}/30"), "dev", "eg0"]).await?;
        sandbox::ip(&["link", "set", "eg0", "up"]).await?;

        let client = plane.client().await?;
        let mut proxies = Vec::new();
        for Services { host, namespace, endpoints_of, .. } in SERVICES {
            let listener = TcpListener::bind((address(host), PICKER_PORT)).await?;
            let slices = Api::namespaced(client.clone(), namespace);
            proxies.push(tokio::spawn(serve(listener, slices, endpoints_of)));
        }
        let host = Self { controller, proxies, gateway, _scratch: scratch };
        let there = sandbox::wait_for_listener("AI Gateway's controller", (ITS_SIDE, PORT).into()).await;
        there.with_context(|| host.said())?;
        Ok(host)
    }

    async fn attach(&mut self, _: &Objects) -> Result<()> {
        self.gateway.attach().await.with_context(|| self.said())
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    fn admin(&self) -> SocketAddr {
        self.gateway.admin()
    }

    async fn set(&self, objects: &Objects, setting: Setting) -> Result<()> {
        let body = if setting.body == Body::Buffered { json!("buffered") } else { Value::Null };
        let other = if setting.failure == Failure::Open { "FailClose" } else { "FailOpen" };
        let mode = if setting.failure == Failure::Open { "FailOpen" } else { "FailClose" };
        // A changed annotation alone goes unnoticed: the spec has to change with it.
        for mode in [other, mode] {
            let patch = json!({
                "metadata": {"annotations": {"aigateway.envoyproxy.io/processing-body-mode": body}},
                "spec": {"endpointPickerRef": {"failureMode": mode}},
            });
            objects.merge("inference.networking.k8s.io/v1", "InferencePool", "llama", &patch).await?;
        }
        Ok(())
    }

    fn said(&self) -> String {
        format!("AI Gateway said:\n{}{}", tail(&self.controller.output().join("\n"), 20), self.gateway.said())
    }
}
