//! The picker's fleet from a real API server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::namespace::Namespace;
use tests::cluster::proxy::{Fault, Proxy};
use tests::picker::{Picker, PickerOptions};
use tests::poll;
use tests::shapes::{Pool, standalone};

/// From a change until the picker has seen it, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

async fn create_pod(namespace: &Namespace, name: &str, ip: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "llama"}},
        "spec": {"nodeName": "node-0", "containers": [{"name": "engine", "image": "engine:1"}]},
    });
    namespace.api::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    set_status(namespace, name, ip, true).await
}

async fn set_status(namespace: &Namespace, name: &str, ip: &str, ready: bool) -> Result<()> {
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}],
    }});
    namespace.api::<Pod>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn create_pool(namespace: &Namespace) -> Result<()> {
    let pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "llama"},
        "spec": {
            "selector": {"matchLabels": {"app": "llama"}}, "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    });
    namespace.api::<InferencePool>().create(&PostParams::default(), &serde_json::from_value(pool)?).await?;
    Ok(())
}

/// Of this namespace's pool, through a proxy that can fail.
async fn start(namespace: &Namespace, proxy: &Proxy) -> Result<Picker> {
    PickerOptions::of_cluster(&proxy.kubeconfig())
        .flag("--pool-name", "llama")
        .flag("--pool-namespace", namespace.name())
        .start()
        .await
}

fn addresses(fleet: &[Value]) -> BTreeSet<String> {
    fleet.iter().filter_map(|endpoint| Some(endpoint["address"].as_str()?.to_owned())).collect()
}

async fn wait_for(picker: &Picker, wanted: &[&str]) -> Result<()> {
    poll::until(&format!("the endpoints {wanted:?}"), SOON, async || {
        let there = addresses(&picker.fleet().await.ok()?);
        there.iter().map(String::as_str).eq(wanted.iter().copied()).then_some(())
    })
    .await
}

#[tokio::test]
async fn endpoints_come_and_go_with_pods_and_the_pool() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("picker").await?;
    let proxy = Proxy::start(plane).await?;
    create_pool(&namespace).await?;
    create_pod(&namespace, "one", "10.1.0.1").await?;
    let picker = start(&namespace, &proxy).await?;
    wait_for(&picker, &["10.1.0.1:8000"]).await?;

    create_pod(&namespace, "two", "10.1.0.2").await?;
    wait_for(&picker, &["10.1.0.1:8000", "10.1.0.2:8000"]).await?;

    let now = DeleteParams::default().grace_period(0);
    namespace.api::<Pod>().delete("one", &now).await?;
    wait_for(&picker, &["10.1.0.2:8000"]).await?;

    let another_port = json!({"spec": {"targetPorts": [{"number": 8001}]}});
    let pools = namespace.api::<InferencePool>();
    pools.patch("llama", &PatchParams::default(), &Patch::Merge(another_port)).await?;
    wait_for(&picker, &["10.1.0.2:8001"]).await
}

#[tokio::test]
async fn a_stand_alone_envoy_follows_the_pods_of_a_cluster() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("picker-envoy").await?;
    let proxy = Proxy::start(plane).await?;
    create_pool(&namespace).await?;
    create_pod(&namespace, "one", "10.1.0.1").await?;
    let picker = start(&namespace, &proxy).await?;
    let config = standalone::config(&Pool::new("llama", &[], picker.grpc_address()))?;
    // As in the file: the picker has one pool.
    let envoy = config.vary(|config| config.clusters()[1]["eds_cluster_config"]["service_name"] = Value::Null);
    let envoy = envoy.start().await?;
    let has = async |wanted: &[&str]| {
        let wanted: BTreeSet<SocketAddr> = wanted.iter().map(|address| address.parse().unwrap()).collect();
        poll::until(&format!("the hosts {wanted:?}"), SOON, async || {
            (envoy.hosts("engines").await.ok()? == wanted).then_some(())
        })
        .await
    };
    has(&["10.1.0.1:8000"]).await?;
    create_pod(&namespace, "two", "10.1.0.2").await?;
    has(&["10.1.0.1:8000", "10.1.0.2:8000"]).await?;
    set_status(&namespace, "one", "10.1.0.1", false).await?;
    has(&["10.1.0.2:8000"]).await?;
    namespace.api::<InferencePool>().delete("llama", &DeleteParams::default()).await?;
    has(&[]).await
}

#[tokio::test]
async fn a_model_server_tells_the_picker_which_engine_a_pod_runs() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("picker-engine").await?;
    let proxy = Proxy::start(plane).await?;
    create_pool(&namespace).await?;
    create_pod(&namespace, "one", "10.1.0.1").await?;
    let picker = start(&namespace, &proxy).await?;
    let server = json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer", "metadata": {"name": "llama"},
        "spec": {"inferenceEngine": "SGLang", "workloadSelector": {"matchLabels": {"app": "llama"}}},
    });
    namespace.api::<ModelServer>().create(&PostParams::default(), &serde_json::from_value(server)?).await?;
    poll::until("an SGLang engine", SOON, async || {
        let fleet = picker.fleet().await.ok()?;
        (fleet.first()?["engine"] == "SGLang").then_some(())
    })
    .await
}

#[tokio::test]
async fn a_lost_api_server_leaves_the_fleet_as_it_was_and_the_picker_ready() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("picker-lost").await?;
    let proxy = Proxy::start(plane).await?;
    create_pool(&namespace).await?;
    create_pod(&namespace, "one", "10.1.0.1").await?;
    let picker = start(&namespace, &proxy).await?;
    wait_for(&picker, &["10.1.0.1:8000"]).await?;

    let from = proxy.len();
    proxy.spoil(|_| Fault::Answer(500));
    proxy.cut();
    poll::until("a refused list", SOON, async || (proxy.len() > from).then_some(())).await?;
    create_pod(&namespace, "two", "10.1.0.2").await?;
    assert_eq!(addresses(&picker.fleet().await?), BTreeSet::from(["10.1.0.1:8000".to_owned()]));
    picker.wait_until_ready().await?;

    proxy.heal();
    wait_for(&picker, &["10.1.0.1:8000", "10.1.0.2:8000"]).await
}
