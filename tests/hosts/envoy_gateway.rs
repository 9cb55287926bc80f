//! Envoy Gateway with policies: the pods are a headless Service's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tests::cluster::binaries::Binary;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
pub(crate) use tests::gateways::envoy_gateway::EnvoyGateway;

use crate::host::{Body, Failure, Host, Setting};
use crate::objects::Objects;

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
        self.attach().await
    }

    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn admin(&self) -> SocketAddr {
        self.admin()
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

    fn said(&self) -> String {
        self.said()
    }
}
