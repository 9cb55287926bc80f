//! The guide's settings for traces: gateway and picker tell the guide's collector, and it is one trace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::gateways::envoy_gateway::of_a_process;
use tests::poll;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::host::Host;
use crate::objects::Objects;
use crate::sandbox::address;
use crate::stage::{SOON, Stage};
use crate::traces;

/// Where a user reads how to have spans told to a collector.
const GUIDE: &str = include_str!("../../gateway-api-examples/otel/README.md");

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";
const ENVOY_PROXY: &str = "EnvoyProxy";

const POD: &str = "otel-collector-0";
const POD_HOST: u8 = 34;
const PORT: u16 = 4317;

/// # Errors
/// When the gateway does not tell the collector, or a trace falls into parts.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    // The collector's pod hands on what it gets.
    let told = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind((address(POD_HOST), PORT)).await?;
    let mut collector = JoinSet::new();
    collector.spawn(hand_on(listener, stage.sink.address(), Arc::clone(&told)));
    stage.objects.create_pod(POD, &json!({"app": "otel-collector"}), address(POD_HOST)).await?;
    let [service, settings] = [Objects::example("otel/collector.yaml")?, Objects::example(H::TELEMETRY)?];
    stage.objects.apply(&service).await?;
    switch_on(&stage.objects, &settings).await?;
    let verdict = async {
        poll::until("the gateway to call the collector", SOON, async || {
            stage.ask().await.ok()?;
            (told.load(Ordering::Relaxed) > 0).then_some(())
        })
        .await?;
        traces::tell(stage).await
    };
    let verdict = verdict.await.with_context(|| format!("with {}: {}", H::TELEMETRY, stage.said()));
    switch_off(&stage.objects, &settings).await?;
    stage.objects.delete(&service).await?;
    stage.objects.remove_pod(POD).await?;
    verdict
}

/// Applies the example. A Gateway of Envoy Gateway's has to name it, as the guide says; and here its Envoy is a process.
async fn switch_on(objects: &Objects, settings: &str) -> Result<()> {
    let mut object: Value = serde_saphyr::from_str(settings)?;
    if object["kind"] != ENVOY_PROXY {
        return objects.apply(settings).await;
    }
    object["spec"] = of_a_process(object["spec"].take());
    objects.apply(&object.to_string()).await?;
    let command = GUIDE.split("kubectl patch gateway inference --type=merge -p '").nth(1);
    let patch = command.and_then(|rest| rest.split('\'').next()).context("the guide's patch of the Gateway")?;
    objects.merge(GATEWAYS, "Gateway", "inference", &serde_json::from_str(patch)?).await
}

async fn switch_off(objects: &Objects, settings: &str) -> Result<()> {
    let object: Value = serde_saphyr::from_str(settings)?;
    if object["kind"] == ENVOY_PROXY {
        objects.merge(GATEWAYS, "Gateway", "inference", &json!({"spec": {"infrastructure": null}})).await?;
    }
    objects.delete(settings).await
}

async fn hand_on(listener: TcpListener, to: SocketAddr, told: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((mut gateway, _)) = listener.accept().await {
        told.fetch_add(1, Ordering::Relaxed);
        connections.spawn(async move {
            let mut sink = TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut gateway, &mut sink).await
        });
    }
}
