//! Pods that fail or disappear.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use tests::cluster::kubelet::Fate;

use crate::stage::{Stage, role, spec, uid};

/// Two groups, each of a prefill instance with a worker, and of a decode pod.
fn with_policy(policy: &str) -> Value {
    let mut spec = spec(2, &[role("prefill", 1, 1), role("decode", 1, 0)]);
    spec["recoveryPolicy"] = json!(policy);
    spec
}

/// The pods that are still those of before.
async fn kept(stage: &Stage, before: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let now = stage.uids().await?;
    Ok(before.iter().filter(|(name, uid)| now.get(*name) == Some(uid)).map(|(name, _)| name.clone()).collect())
}

#[tokio::test]
async fn a_lost_pod_comes_back() -> Result<()> {
    let stage = Stage::new("lost-pod").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let name = "llm-0-prefill-0-0";
    let before = stage.uids().await?;
    stage.delete_pod(name).await?;
    stage.wait_replaced(name, before.get(name).map_or("", String::as_str)).await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn with_role_recreate_a_lost_worker_takes_its_instance_with_it_and_no_other() -> Result<()> {
    let stage = Stage::new("role-recreate").await?;
    stage.create("llm", with_policy("RoleRecreate")).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.delete_pod("llm-0-prefill-0-1").await?;
    for name in ["llm-0-prefill-0-0", "llm-0-prefill-0-1"] {
        stage.wait_replaced(name, &before[name]).await?;
    }
    stage.wait_done("llm").await?;
    let untouched =
        ["llm-0-decode-0-0", "llm-1-decode-0-0", "llm-1-prefill-0-0", "llm-1-prefill-0-1"].map(str::to_owned);
    assert_eq!(kept(&stage, &before).await?, untouched);
    stage.writes_nothing().await
}

#[tokio::test]
async fn with_serving_group_recreate_a_failed_pod_takes_its_group_with_it_and_no_other() -> Result<()> {
    let stage = Stage::new("group-recreate").await?;
    stage.create("llm", with_policy("ServingGroupRecreate")).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.kubelet.set("llm-0-decode-0-0", Fate::Failed).await?;
    for name in ["llm-0-prefill-0-0", "llm-0-prefill-0-1", "llm-0-decode-0-0"] {
        stage.wait_replaced(name, &before[name]).await?;
    }
    stage.wait_done("llm").await?;
    let untouched = ["llm-1-decode-0-0", "llm-1-prefill-0-0", "llm-1-prefill-0-1"].map(str::to_owned);
    assert_eq!(kept(&stage, &before).await?, untouched);
    stage.writes_nothing().await
}

#[tokio::test]
async fn with_no_policy_a_failed_pod_is_left_to_the_kubelet_and_a_lost_one_is_replaced() -> Result<()> {
    let stage = Stage::new("none").await?;
    stage.create("llm", with_policy("None")).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.kubelet.set("llm-0-prefill-0-1", Fate::Restarted).await?;
    stage.wait_status("llm", "one available group", |_, status| (status.available_replicas == 1).then_some(())).await?;
    stage
        .stays("every pod is there", |pods| {
            pods.iter().all(|(name, pod)| before.get(name).is_some_and(|old| old == uid(pod)))
        })
        .await?;
    stage.kubelet.set("llm-0-prefill-0-1", Fate::RestartedAndReady).await?;
    stage.wait_done("llm").await?;
    stage.delete_pod("llm-0-prefill-0-1").await?;
    stage.wait_replaced("llm-0-prefill-0-1", &before["llm-0-prefill-0-1"]).await?;
    stage.wait_done("llm").await?;
    assert_eq!(kept(&stage, &before).await?.len(), 5);
    Ok(())
}

#[tokio::test]
async fn every_way_to_fail_is_recovered_from() -> Result<()> {
    let stage = Stage::new("fates").await?;
    stage.create("llm", spec(4, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    let fates = [Fate::Failed, Fate::Evicted, Fate::Restarted, Fate::Succeeded];
    for (ordinal, fate) in fates.into_iter().enumerate() {
        stage.kubelet.set(&format!("llm-{ordinal}-prefill-0-0"), fate).await?;
    }
    for (name, old) in &before {
        stage.wait_replaced(name, old).await?;
    }
    stage.wait_done("llm").await
}

#[tokio::test]
async fn a_pod_that_is_not_ready_for_a_while_makes_its_group_unavailable_and_is_kept() -> Result<()> {
    let stage = Stage::new("not-ready").await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.kubelet.set("llm-0-prefill-0-0", Fate::NotReady).await?;
    stage.wait_status("llm", "one available group", |_, status| (status.available_replicas == 1).then_some(())).await?;
    stage.kubelet.set("llm-0-prefill-0-0", Fate::Ready).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.uids().await?, before);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_recovers_within_its_grace_period_is_kept() -> Result<()> {
    let stage = Stage::new("grace").await?;
    let mut spec = spec(1, &[role("prefill", 1, 0)]);
    spec["template"]["restartGracePeriodSeconds"] = json!(600);
    stage.create("llm", spec).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.kubelet.set("llm-0-prefill-0-0", Fate::Restarted).await?;
    stage.wait_status("llm", "no available group", |_, status| (status.available_replicas == 0).then_some(())).await?;
    stage.kubelet.set("llm-0-prefill-0-0", Fate::RestartedAndReady).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.uids().await?, before);
    Ok(())
}

#[tokio::test]
async fn a_grace_period_ends_also_across_a_restart() -> Result<()> {
    let stage = Stage::new("grace-end").await?;
    let mut spec = spec(1, &[role("prefill", 1, 0)]);
    spec["template"]["restartGracePeriodSeconds"] = json!(3);
    stage.create("llm", spec).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    let (name, old) = before.first_key_value().expect("there is a pod");
    stage.kubelet.set(name, Fate::Restarted).await?;
    stage.kill_operator();
    stage.start_operator().await?;
    stage.wait_replaced(name, old).await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn pods_that_failed_while_no_operator_ran_are_recovered() -> Result<()> {
    let stage = Stage::new("down").await?;
    stage.create("llm", spec(3, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.kill_operator();
    stage.kubelet.set("llm-0-prefill-0-0", Fate::Failed).await?;
    stage.kubelet.set("llm-1-prefill-0-1", Fate::Restarted).await?;
    for name in ["llm-2-prefill-0-0", "llm-2-prefill-0-1"] {
        stage.delete_pod(name).await?;
    }
    stage.start_operator().await?;
    for (name, old) in &before {
        stage.wait_replaced(name, old).await?;
    }
    stage.wait_done("llm").await?;
    assert_eq!(stage.pods().await?.len(), 6);
    Ok(())
}

#[tokio::test]
async fn pods_lost_together_are_one_recovery() -> Result<()> {
    let stage = Stage::new("together").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 2)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    for name in before.keys() {
        stage.delete_pod(name).await?;
    }
    for (name, old) in &before {
        stage.wait_replaced(name, old).await?;
    }
    stage.wait_done("llm").await?;
    let recovered = stage.uids().await?;
    stage
        .stays("no pod is replaced again", |pods| {
            pods.iter().all(|(name, pod)| recovered.get(name).is_some_and(|known| known == uid(pod)))
        })
        .await
}
