//! The fixture in place of a kubelet does what a kubelet would, as far as the API shows it.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::kubelet::{Fate, Kubelet};
use tests::cluster::namespace::Namespace;
use tests::poll;

const SOON: Duration = Duration::from_secs(20);

async fn create(namespace: &Namespace, name: &str, image: &str) -> Result<()> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "engine", "image": image}]},
    }))?;
    namespace.api::<Pod>().create(&PostParams::default(), &pod).await?;
    Ok(())
}

/// Phase, readiness and restarts.
async fn see(namespace: &Namespace, name: &str) -> Option<(String, bool, i32)> {
    let status = namespace.api::<Pod>().get_opt(name).await.ok()??.status?;
    let ready = status.conditions.iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True");
    let restarts = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
    Some((status.phase?, ready, restarts))
}

async fn wait_for(namespace: &Namespace, name: &str, wanted: (&str, bool, i32)) -> Result<()> {
    poll::until(&format!("{name} to be {wanted:?}"), SOON, async || {
        let (phase, ready, restarts) = see(namespace, name).await?;
        ((phase.as_str(), ready, restarts) == wanted).then_some(())
    })
    .await
}

#[tokio::test]
async fn pods_fare_as_scripted_and_go_when_they_are_deleted() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("kubelet").await?;
    let kubelet = Kubelet::start(&namespace);
    create(&namespace, "good", "engine:1").await?;
    create(&namespace, "poor", "bad:1").await?;
    wait_for(&namespace, "good", ("Running", true, 0)).await?;
    wait_for(&namespace, "poor", ("Pending", false, 0)).await?;
    for (fate, seen) in [
        (Fate::NotReady, ("Running", false, 0)),
        (Fate::Restarted, ("Running", false, 1)),
        (Fate::RestartedAndReady, ("Running", true, 1)),
        (Fate::NodeLost, ("Running", false, 0)),
        (Fate::Failed, ("Failed", false, 0)),
    ] {
        kubelet.set("good", fate).await?;
        wait_for(&namespace, "good", seen).await?;
    }
    let api = namespace.api::<Pod>();
    for name in ["good", "poor"] {
        api.delete(name, &DeleteParams::default()).await?;
        poll::until("the pod's end", SOON, async || api.get_opt(name).await.ok()?.is_none().then_some(())).await?;
    }
    // What was scripted for the one is not for its successor.
    create(&namespace, "good", "engine:1").await?;
    wait_for(&namespace, "good", ("Running", true, 0)).await
}

#[tokio::test]
async fn a_pod_on_a_lost_node_stays_terminating() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("lost").await?;
    let kubelet = Kubelet::start(&namespace);
    create(&namespace, "far", "engine:1").await?;
    wait_for(&namespace, "far", ("Running", true, 0)).await?;
    kubelet.set("far", Fate::NodeLost).await?;
    let api = namespace.api::<Pod>();
    api.delete("far", &DeleteParams::default()).await?;
    // The fixture has dealt with the deletion once it has made a pod ready that came after it.
    create(&namespace, "near", "engine:1").await?;
    wait_for(&namespace, "near", ("Running", true, 0)).await?;
    assert!(api.get("far").await?.metadata.deletion_timestamp.is_some());
    Ok(())
}
