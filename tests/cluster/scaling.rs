//! More groups and instances, and fewer.

use anyhow::Result;
use serde_json::json;
use tests::cluster::kubelet::Fate;

use crate::stage::{Stage, role, spec};

#[tokio::test]
async fn groups_are_added_and_removed() -> Result<()> {
    let stage = Stage::new("groups").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await?;
    let first = stage.uids().await?;
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.pods().await?.len(), 6);
    assert_eq!(stage.service_names().await?, ["llm-0-prefill-0-0", "llm-1-prefill-0-0", "llm-2-prefill-0-0"]);
    stage.change("llm", json!({"spec": {"replicas": 1}})).await?;
    stage.wait_done("llm").await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "llm-0-prefill-0-1"]).await?;
    assert_eq!(stage.uids().await?, first);
    assert_eq!(stage.service_names().await?, ["llm-0-prefill-0-0"]);
    Ok(())
}

#[tokio::test]
async fn role_instances_are_added_and_removed() -> Result<()> {
    let stage = Stage::new("instances").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 0), role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let first = stage.uids().await?;
    stage.set("llm", "/spec/template/roles/0/replicas", json!(3)).await?;
    let all = ["llm-0-decode-0-0", "llm-0-prefill-0-0", "llm-0-prefill-1-0", "llm-0-prefill-2-0"];
    stage.wait_pods(&all).await?;
    stage.set("llm", "/spec/template/roles/0/replicas", json!(1)).await?;
    stage.wait_pods(&["llm-0-decode-0-0", "llm-0-prefill-0-0"]).await?;
    assert_eq!(stage.uids().await?, first);
    stage.wait_done("llm").await
}

#[tokio::test]
async fn a_gap_is_filled_before_a_new_ordinal_is_taken() -> Result<()> {
    let stage = Stage::new("gaps").await?;
    stage.create("llm", spec(3, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    stage.set_deletion_cost("llm-0-prefill-0-0", 10).await?;
    stage.set_deletion_cost("llm-2-prefill-0-0", 10).await?;
    stage.change("llm", json!({"spec": {"replicas": 2}})).await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "llm-2-prefill-0-0"]).await?;
    stage.wait_done("llm").await?;
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "llm-1-prefill-0-0", "llm-2-prefill-0-0"]).await
}

#[tokio::test]
async fn the_group_that_costs_most_to_delete_stays() -> Result<()> {
    let stage = Stage::new("group-cost").await?;
    stage.create("llm", spec(4, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    for ordinal in 0..4_i64 {
        stage.set_deletion_cost(&format!("llm-{ordinal}-prefill-0-0"), ordinal * 100).await?;
    }
    stage.change("llm", json!({"spec": {"replicas": 1}})).await?;
    stage.wait_pods(&["llm-3-prefill-0-0"]).await
}

#[tokio::test]
async fn the_instance_that_costs_most_to_delete_stays() -> Result<()> {
    let stage = Stage::new("instance-cost").await?;
    stage.create("llm", spec(1, &[role("prefill", 4, 0)])).await?;
    stage.wait_done("llm").await?;
    for index in 0..4_i64 {
        stage.set_deletion_cost(&format!("llm-0-prefill-{index}-0"), index * 100).await?;
    }
    stage.set("llm", "/spec/template/roles/0/replicas", json!(1)).await?;
    stage.wait_pods(&["llm-0-prefill-3-0"]).await
}

#[tokio::test]
async fn costs_count_for_groups_and_for_instances_at_once() -> Result<()> {
    let stage = Stage::new("both-costs").await?;
    stage.create("llm", spec(2, &[role("prefill", 2, 0), role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    for group in 0..2_i64 {
        stage.set_deletion_cost(&format!("llm-{group}-prefill-0-0"), group * 100).await?;
        stage.set_deletion_cost(&format!("llm-{group}-prefill-1-0"), group * 100 + 10).await?;
        stage.set_deletion_cost(&format!("llm-{group}-decode-0-0"), group * 100).await?;
    }
    stage.change("llm", json!({"spec": {"replicas": 1}})).await?;
    stage.set("llm", "/spec/template/roles/0/replicas", json!(1)).await?;
    stage.wait_pods(&["llm-1-decode-0-0", "llm-1-prefill-1-0"]).await
}

#[tokio::test]
async fn a_group_that_is_not_ready_goes_first() -> Result<()> {
    let stage = Stage::new("unready-group").await?;
    stage.hold(&["llm-1-prefill-0-0"]).await?;
    stage.create("llm", spec(4, &[role("prefill", 1, 0)])).await?;
    stage
        .wait_status("llm", "three available groups", |_, status| (status.available_replicas == 3).then_some(()))
        .await?;
    stage.set_deletion_cost("llm-1-prefill-0-0", 1000).await?;
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "llm-2-prefill-0-0", "llm-3-prefill-0-0"]).await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn an_instance_that_is_not_ready_goes_first() -> Result<()> {
    let stage = Stage::new("unready-instance").await?;
    stage.create("llm", spec(1, &[role("prefill", 4, 0)])).await?;
    stage.wait_done("llm").await?;
    stage.kubelet.set("llm-0-prefill-1-0", Fate::NotReady).await?;
    stage.wait_status("llm", "no available group", |_, status| (status.available_replicas == 0).then_some(())).await?;
    stage.set("llm", "/spec/template/roles/0/replicas", json!(3)).await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "llm-0-prefill-2-0", "llm-0-prefill-3-0"]).await
}
