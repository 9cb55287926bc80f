//! Envoy Gateway with pools: our operator is its extension server.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
use tests::cluster::operator::{self, Operator, OperatorOptions};
use tests::gateways::envoy_gateway::for_pools;

use crate::envoy_gateway::EnvoyGateway;
use crate::host::{Body, Failure, Host, Setting};
use crate::objects::Objects;
use crate::stage::tail;

/// Where the operator answers, here where nobody knows its Service.
const PORT: u16 = 5005;

/// Envoy Gateway, and the operator.
pub(crate) struct EnvoyGatewayPools {
    gateway: EnvoyGateway,
    operator: Operator,
}

impl Host for EnvoyGatewayPools {
    const NAME: &'static str = "envoy-gateway-pools";
    const TITLE: &'static str = "Envoy Gateway, InferencePool";
    const KINDS: &'static [GatewayKinds] = EnvoyGateway::KINDS;
    const SETTINGS: &'static [Setting] = &[
        Setting::new(Body::FullDuplex, Failure::Close),
        Setting::new(Body::Buffered, Failure::Close),
        Setting::new(Body::FullDuplex, Failure::Open),
        Setting::new(Body::OnDemand, Failure::Open),
    ];
    const PICKER_OF_EACH_SHARE: bool = true;
    const SCENARIOS: bool = false;
    const TELEMETRY: &'static str = EnvoyGateway::TELEMETRY;

    async fn build() -> Result<()> {
        operator::binary().await?;
        EnvoyGateway::build().await
    }

    async fn start(plane: &ControlPlane, objects: &Objects, traces: SocketAddr) -> Result<Self> {
        let operator = OperatorOptions::new(plane.kubeconfig())
            .flag("--extension-server-port", PORT)
            .flag("--extension-server-target", format!("127.0.0.1:{PORT}"))
            .start()
            .await?;
        let gateway = EnvoyGateway::start_with(plane, objects, traces, &for_pools(PORT)?).await?;
        Ok(Self { gateway, operator })
    }

    async fn attach(&mut self, _: &Objects) -> Result<()> {
        let attached = self.gateway.attach().await;
        attached.with_context(|| self.said())
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    fn admin(&self) -> SocketAddr {
        self.gateway.admin()
    }

    async fn set(&self, objects: &Objects, setting: Setting) -> Result<()> {
        let body = match setting.body {
            Body::FullDuplex => Value::Null,
            Body::Buffered => json!("buffered"),
            Body::OnDemand => json!("on-demand"),
        };
        let modes = match setting.failure {
            Failure::Open => ["FailClose", "FailOpen"],
            Failure::Close => ["FailOpen", "FailClose"],
        };
        // A changed annotation alone goes unnoticed: the spec has to change with it.
        for mode in modes {
            let patch = json!({
                "metadata": {"annotations": {"networking.serving.volcano.sh/request-body-mode": body}},
                "spec": {"endpointPickerRef": {"failureMode": mode}},
            });
            objects.merge("inference.networking.k8s.io/v1", "InferencePool", "llama", &patch).await?;
        }
        Ok(())
    }

    fn said(&self) -> String {
        format!("the operator said:\n{}{}", tail(&self.operator.log(), 20), self.gateway.said())
    }
}
