//! The one picker that the chart installs for all namespaces serves pools of one name in two others.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::engine::EngineConfig;
use tests::progress::say;

use crate::host::Host;
use crate::objects::NAMESPACE;
use crate::scenario::{Ask, Scenario};
use crate::stage::{ENGINE_PORT, Stage};

const TENANTS: [&str; 2] = ["red", "blue"];
/// What is asked of each.
const REQUESTS: usize = 20;

/// # Errors
/// When a request does not go to the engine of its namespace, as the picker chose.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    if !H::SCENARIOS {
        say("  not told on this host");
        return Ok(());
    }
    open(stage, "All").await?;
    let values = ["picker.allNamespaces=true"];
    let mut scenario = Scenario::start_with(stage, &values, &[("--picker-namespace", NAMESPACE)]).await?;
    let told = all(&mut scenario).await;
    for tenant in TENANTS {
        scenario.stage.objects.of(tenant).remove_pod(&format!("{tenant}-0")).await?;
    }
    scenario.end(told).await?;
    open(stage, "Same").await
}

/// Which namespaces may have routes at the Gateway.
async fn open<H: Host>(stage: &Stage<H>, from: &str) -> Result<()> {
    let allowed = json!({"namespaces": {"from": from}});
    let listener = json!({"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed});
    let patch = json!({"spec": {"listeners": [listener]}});
    stage.objects.merge("gateway.networking.k8s.io/v1", "Gateway", "inference", &patch).await
}

fn manifests(tenant: &str) -> String {
    let meta = json!({"name": "llm", "namespace": tenant});
    let server = json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer", "metadata": meta,
        "spec": {
            "inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": "llm"}},
            "workloadPort": {"port": ENGINE_PORT},
        },
    });
    let backend = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llm"});
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta,
        "spec": {
            "parentRefs": [{"name": "inference", "namespace": NAMESPACE}],
            "hostnames": [format!("{tenant}.example.com")], "rules": [{"backendRefs": [backend]}],
        },
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": tenant}});
    let documents: [Value; 3] = [namespace, server, route];
    documents.map(|document| document.to_string()).join("\n---\n")
}

async fn all<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    for tenant in TENANTS {
        scenario.apply(manifests(tenant)).await?;
        let config = EngineConfig::instant("llama");
        scenario.add_engine_of(tenant, &format!("{tenant}-0"), &json!({"app": "llm"}), config).await?;
    }
    for (tenant, host) in [("red", "red.example.com"), ("blue", "blue.example.com")] {
        let ask = Ask::model("llama").header("host", host);
        scenario.wait_for(&ask, tenant).await?;
        scenario.all_by(&ask, REQUESTS, tenant).await.with_context(|| tenant.to_owned())?;
    }
    say("  one picker: requests of each namespace by its own pool, which has the other's name");
    Ok(())
}
