//! From one revision to the next, group by group.

use anyhow::Result;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::ListParams;
use serde_json::json;
use tests::poll;

use crate::availability::Availability;
use crate::stage::{SOON, Stage, condition, image, role, rolling, spec};

async fn wait_whole(watched: &Availability) -> Result<()> {
    poll::until("all groups, whole", SOON, async || watched.fewest()).await?;
    Ok(())
}

#[tokio::test]
async fn every_group_moves_and_keeps_its_ordinal() -> Result<()> {
    let stage = Stage::new("moves").await?;
    stage.create("llm", spec(3, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = (stage.pod_names().await?, stage.uids().await?);
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.pod_names().await?, before.0);
    assert!(stage.uids().await?.iter().all(|(name, uid)| before.1.get(name) != Some(uid)));
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));
    let status = stage.status("llm").await?;
    assert_eq!(status.current_revision, status.update_revision);
    Ok(())
}

#[tokio::test]
async fn never_more_groups_are_missing_than_allowed() -> Result<()> {
    let stage = Stage::new("budget").await?;
    stage.create("llm", rolling(4, &[role("prefill", 4, 0)], json!({"maxUnavailable": 2}))).await?;
    let watched = Availability::watch(&stage.namespace, "llm", 4, 4);
    stage.wait_done("llm").await?;
    wait_whole(&watched).await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));
    assert!(watched.fewest() >= Some(2), "{:?} groups were whole", watched.fewest());
    Ok(())
}

#[tokio::test]
async fn a_bad_image_costs_no_more_than_allowed_and_its_fix_rolls_out() -> Result<()> {
    let stage = Stage::new("bad").await?;
    stage.create("llm", rolling(6, &[role("prefill", 1, 0)], json!({"maxUnavailable": 2}))).await?;
    let watched = Availability::watch(&stage.namespace, "llm", 6, 1);
    stage.wait_done("llm").await?;
    wait_whole(&watched).await?;
    stage.set_image("llm", 0, "bad:1").await?;
    poll::until("two groups of the bad image", SOON, async || {
        let images = stage.images().await.ok()?;
        (images.values().filter(|image| *image == "bad:1").count() == 2 && images.len() == 6).then_some(())
    })
    .await?;
    stage
        .stays("four groups stay whole", |pods| pods.values().filter(|pod| image(pod) == "engine:1").count() == 4)
        .await?;
    let status = stage.status("llm").await?;
    assert_eq!((condition(&status, "UpdateInProgress"), condition(&status, "Available")), (Some(true), Some(false)));
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));
    assert!(watched.fewest() >= Some(4), "{:?} groups were whole", watched.fewest());
    Ok(())
}

#[tokio::test]
async fn a_surge_keeps_every_group_until_its_successor_is_ready() -> Result<()> {
    let stage = Stage::new("surge").await?;
    stage.create("llm", rolling(3, &[role("prefill", 1, 0)], json!({"maxUnavailable": 0, "maxSurge": 1}))).await?;
    let watched = Availability::watch(&stage.namespace, "llm", 3, 1);
    stage.wait_done("llm").await?;
    wait_whole(&watched).await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    poll::until("the end of the surge", SOON, async || (stage.pods().await.ok()?.len() == 3).then_some(())).await?;
    assert_eq!(watched.fewest(), Some(3));
    Ok(())
}

#[tokio::test]
async fn a_role_that_is_added_joins_no_old_group() -> Result<()> {
    let stage = Stage::new("added").await?;
    stage.create("llm", rolling(3, &[role("prefill", 1, 0)], json!({"maxUnavailable": 1}))).await?;
    let watched = Availability::watch(&stage.namespace, "llm", 3, 1);
    stage.wait_done("llm").await?;
    wait_whole(&watched).await?;
    stage.set("llm", "/spec/template/roles/1", role("decode", 1, 0)).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.pods().await?.len(), 6);
    assert!(watched.fewest() >= Some(2), "{:?} groups were whole", watched.fewest());
    let created =
        stage.proxy.writes(0).into_iter().filter(|call| call.verb == "create" && call.resource == "pods").count();
    assert_eq!(created, 3 + 6, "no pod is created to be thrown away");
    Ok(())
}

#[tokio::test]
async fn available_is_said_only_when_all_groups_are() -> Result<()> {
    let stage = Stage::new("honest").await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let waiting = stage.kubelet.set_rule(|pod| {
        use tests::cluster::kubelet::Fate;
        if image(pod) == "engine:2" { Fate::NotReady } else { Fate::Ready }
    });
    waiting.await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage
        .wait_status("llm", "a rollout that waits", |_, status| {
            let waits = status.updated_replicas == 1 && status.available_replicas == 1;
            (waits
                && condition(status, "Available") == Some(false)
                && condition(status, "UpdateInProgress") == Some(true))
            .then_some(())
        })
        .await?;
    stage.kubelet.set_rule(|_| tests::cluster::kubelet::Fate::Ready).await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn the_old_template_brings_the_old_revision_back() -> Result<()> {
    let stage = Stage::new("back").await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let first = stage.revisions().await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    assert_ne!(stage.revisions().await?, first);
    stage.set_image("llm", 0, "engine:1").await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.revisions().await?, first);
    let revisions = stage.namespace.api::<ControllerRevision>().list(&ListParams::default()).await?;
    let mut numbers: Vec<i64> = revisions.into_iter().filter_map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    Ok(())
}

#[tokio::test]
async fn a_rollback_by_number_serves_that_revision_until_it_is_lifted() -> Result<()> {
    let stage = Stage::new("rollback").await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    stage.set_image("llm", 0, "bad:1").await?;
    poll::until("a bad pod", SOON, async || {
        stage.images().await.ok()?.values().any(|image| image == "bad:1").then_some(())
    })
    .await?;
    let annotation = |value| json!({"metadata": {"annotations": {"modelserving.volcano.sh/rollback-to": value}}});
    stage.change("llm", annotation(json!("1"))).await?;
    poll::until("the old image everywhere", SOON, async || {
        let images = stage.images().await.ok()?;
        (images.len() == 2 && images.values().all(|image| image == "engine:1")).then_some(())
    })
    .await?;
    stage.wait_done("llm").await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage.change("llm", annotation(json!(null))).await?;
    poll::until("the new image everywhere", SOON, async || {
        let images = stage.images().await.ok()?;
        (images.len() == 2 && images.values().all(|image| image == "engine:2")).then_some(())
    })
    .await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn a_paused_rollout_waits_and_still_repairs() -> Result<()> {
    let stage = Stage::new("paused").await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage
        .change("llm", json!({"spec": {"rolloutStrategy": {"type": "ServingGroupRollingUpdate", "paused": true}}}))
        .await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage.delete_pod("llm-0-prefill-0-0").await?;
    let repaired = stage.wait_replaced("llm-0-prefill-0-0", &before["llm-0-prefill-0-0"]).await?;
    assert_eq!(image(&repaired), "engine:1");
    stage.stays("nothing moves", |pods| pods.values().all(|pod| image(pod) == "engine:1")).await?;
    stage.change("llm", json!({"spec": {"rolloutStrategy": {"paused": null}}})).await?;
    stage.wait_done("llm").await?;
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));
    Ok(())
}
