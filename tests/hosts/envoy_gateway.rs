//! Envoy Gateway with policies: the pods are a headless Service's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::cluster::binaries::Binary;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
pub(crate) use tests::gateways::envoy_gateway::EnvoyGateway;
use tests::gateways::envoy_gateway::of_a_process;

use crate::host::{Body, Failure, Host, Setting};
use crate::objects::Objects;

/// Where a user reads how to have spans told to a collector.
const TELEMETRY_GUIDE: &str = include_str!("../../gateway-api-examples/otel/README.md");

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";

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
        self.said()
    }
}
