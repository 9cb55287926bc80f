//! Groups below the partition keep their revision.

use anyhow::Result;
use serde_json::json;

use crate::stage::{Stage, image, role, rolling};

/// Five groups of which three are kept at `engine:1`, the others at `engine:2`.
async fn partitioned(label: &str) -> Result<Stage> {
    let stage = Stage::new(label).await?;
    stage.create("llm", rolling(5, &[role("prefill", 1, 0)], json!({"maxUnavailable": 2, "partition": 3}))).await?;
    stage.wait_done("llm").await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage
        .wait_status("llm", "two updated groups", |serving, status| {
            let answered = serving.metadata.generation == Some(status.observed_generation);
            (answered && status.updated_replicas == 2 && status.available_replicas == 5).then_some(())
        })
        .await?;
    Ok(stage)
}

fn pod(ordinal: usize) -> String {
    format!("llm-{ordinal}-prefill-0-0")
}

async fn assert_images(stage: &Stage, old: usize, all: usize) -> Result<()> {
    let wanted = (0..all).map(|ordinal| (pod(ordinal), format!("engine:{}", if ordinal < old { 1 } else { 2 })));
    assert_eq!(stage.images().await?, wanted.collect());
    Ok(())
}

#[tokio::test]
async fn groups_below_the_partition_keep_their_revision() -> Result<()> {
    let stage = partitioned("boundary").await?;
    assert_images(&stage, 3, 5).await?;
    let (status, revisions) = (stage.status("llm").await?, stage.revisions().await?);
    assert_eq!(status.current_revision.as_ref(), revisions.get(&pod(0)));
    assert_eq!(status.update_revision.as_ref(), revisions.get(&pod(4)));
    assert_ne!(status.current_revision, status.update_revision);
    stage.set("llm", "/spec/rolloutStrategy/rollingUpdateConfiguration/partition", json!(0)).await?;
    stage.wait_done("llm").await?;
    assert_images(&stage, 0, 5).await
}

#[tokio::test]
async fn a_protected_group_comes_back_at_its_ordinal_with_its_own_template() -> Result<()> {
    let stage = partitioned("history").await?;
    let (uids, revisions, status) = (stage.uids().await?, stage.revisions().await?, stage.status("llm").await?);
    stage.delete_pod(&pod(1)).await?;
    let back = stage.wait_replaced(&pod(1), &uids[&pod(1)]).await?;
    assert_eq!(image(&back), "engine:1");
    assert_eq!(stage.revisions().await?, revisions);
    stage
        .wait_status("llm", "five available groups", |_, status| (status.available_replicas == 5).then_some(()))
        .await?;
    let now = stage.status("llm").await?;
    assert_eq!((now.current_revision, now.update_revision), (status.current_revision, status.update_revision));
    Ok(())
}

#[tokio::test]
async fn new_groups_above_the_partition_are_new() -> Result<()> {
    let stage = partitioned("partition-up").await?;
    let before = stage.uids().await?;
    stage.change("llm", json!({"spec": {"replicas": 7}})).await?;
    stage
        .wait_status("llm", "seven available groups", |_, status| (status.available_replicas == 7).then_some(()))
        .await?;
    assert_images(&stage, 3, 7).await?;
    let after = stage.uids().await?;
    assert!((0..3).all(|ordinal| before[&pod(ordinal)] == after[&pod(ordinal)]));
    Ok(())
}

#[tokio::test]
async fn groups_above_the_partition_go_first() -> Result<()> {
    let stage = partitioned("partition-down").await?;
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage
        .wait_status("llm", "three old groups", |_, status| {
            let counts = [status.replicas, status.updated_replicas, status.current_replicas, status.available_replicas];
            (counts == [3, 0, 3, 3]).then_some(())
        })
        .await?;
    assert_images(&stage, 3, 3).await
}
