//! Nodes that go away under their pods.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams};
use serde_json::{Value, json};
use tests::cluster::kubelet::Fate;
use tests::poll;

use crate::stage::{SOON, Stage, role, spec};

/// Two groups, each of a prefill instance with a worker, and of a decode pod.
fn two_groups() -> Value {
    let mut spec = spec(2, &[role("prefill", 1, 1), role("decode", 1, 0)]);
    spec["recoveryPolicy"] = json!("RoleRecreate");
    spec
}

/// As the node's controllers do once the node does not answer: the pod is not ready, and is deleted, which nobody on
/// the node hears.
async fn lose(stage: &Stage, name: &str) -> Result<()> {
    stage.kubelet.set(name, Fate::NodeLost).await?;
    stage.delete_pod(name).await
}

/// As the control plane does once the node itself is deleted.
async fn forget(stage: &Stage, name: &str) -> Result<()> {
    stage.namespace.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_does_not_answer_costs_its_group_only_until_it_is_back() -> Result<()> {
    let stage = Stage::new("node-silent").await?;
    stage.create("llm", two_groups()).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.kubelet.set("llm-0-prefill-0-0", Fate::NodeLost).await?;
    stage.wait_status("llm", "one available group", |_, status| (status.available_replicas == 1).then_some(())).await?;
    stage.kubelet.set("llm-0-prefill-0-0", Fate::Ready).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.uids().await?, before);
    stage.writes_nothing().await
}

#[tokio::test]
async fn a_pod_that_cannot_end_on_a_lost_node_holds_up_its_instance_only_and_is_replaced_once_it_is_gone() -> Result<()>
{
    let stage = Stage::new("node-lost").await?;
    stage.create("llm", two_groups()).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    lose(&stage, "llm-0-prefill-0-1").await?;
    // The rest of its instance goes at once: it is of no use without it. No other pod of that name can be made.
    let entry = stage.namespace.api::<Pod>();
    poll::until("the end of the entry pod", SOON, async || {
        let now = entry.get_opt("llm-0-prefill-0-0").await.ok()?;
        now.is_none_or(|pod| pod.metadata.uid.as_ref() != before.get("llm-0-prefill-0-0")).then_some(())
    })
    .await?;
    stage.wait_status("llm", "one available group", |_, status| (status.available_replicas == 1).then_some(())).await?;
    // Meanwhile there is scaling, by whole groups.
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage
        .wait_status("llm", "two available groups", |_, status| (status.available_replicas == 2).then_some(()))
        .await?;
    let others = ["llm-0-decode-0-0", "llm-1-decode-0-0", "llm-1-prefill-0-0", "llm-1-prefill-0-1"];
    let now = stage.uids().await?;
    assert!(others.iter().all(|name| now.get(*name) == before.get(*name)), "{now:?} were {before:?}");

    forget(&stage, "llm-0-prefill-0-1").await?;
    for name in ["llm-0-prefill-0-0", "llm-0-prefill-0-1"] {
        stage.wait_replaced(name, &before[name]).await?;
    }
    stage.wait_done("llm").await?;
    stage.writes_nothing().await
}

#[tokio::test]
async fn a_group_on_a_lost_node_can_be_scaled_away_while_its_pods_cannot_end() -> Result<()> {
    let stage = Stage::new("node-scale").await?;
    stage.create("llm", two_groups()).await?;
    stage.wait_done("llm").await?;
    let lost = ["llm-0-decode-0-0", "llm-0-prefill-0-0", "llm-0-prefill-0-1"];
    for name in lost {
        lose(&stage, name).await?;
    }
    stage.wait_status("llm", "one available group", |_, status| (status.available_replicas == 1).then_some(())).await?;
    let before = stage.uids().await?;
    // What is not ready goes first, though its ordinal is the lowest.
    stage.change("llm", json!({"spec": {"replicas": 1}})).await?;
    stage
        .wait_status("llm", "one group, available", |serving, status| {
            let answered = serving.metadata.generation == Some(status.observed_generation);
            (answered && status.available_replicas == 1).then_some(())
        })
        .await?;
    for name in lost {
        forget(&stage, name).await?;
    }
    stage.wait_pods(&["llm-1-decode-0-0", "llm-1-prefill-0-0", "llm-1-prefill-0-1"]).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.uids().await?, before);
    stage.writes_nothing().await
}

#[tokio::test]
async fn a_pod_that_is_evicted_from_a_node_that_is_drained_comes_back() -> Result<()> {
    let stage = Stage::new("node-drained").await?;
    stage.create("llm", two_groups()).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.namespace.api::<Pod>().evict("llm-0-prefill-0-0", &EvictParams::default()).await?;
    for name in ["llm-0-prefill-0-0", "llm-0-prefill-0-1"] {
        stage.wait_replaced(name, &before[name]).await?;
    }
    stage.wait_done("llm").await?;
    let kept = stage.uids().await?;
    assert_eq!(kept.iter().filter(|(name, uid)| before.get(*name) == Some(uid)).count(), 4);
    stage.writes_nothing().await
}
