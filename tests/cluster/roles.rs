//! Rolling updates of roles: only what changed is replaced.

use anyhow::Result;
use serde_json::{Value, json};
use tests::poll;

use crate::stage::{SOON, Stage, image, role, spec};

/// One group that is updated role by role.
fn by_role(roles: &[Value]) -> Value {
    let mut spec = spec(1, roles);
    spec["rolloutStrategy"] = json!({"type": "RoleRollingUpdate"});
    spec
}

/// Four instances with a setting of their rolling update.
fn prefill(setting: &str, value: u32) -> Value {
    let mut role = role("prefill", 4, 0);
    role[setting] = json!(value);
    role
}

fn pod(index: usize) -> String {
    format!("llm-0-prefill-{index}-0")
}

#[tokio::test]
async fn only_the_role_that_changed_is_replaced() -> Result<()> {
    let stage = Stage::new("one-role").await?;
    stage.create("llm", by_role(&[role("prefill", 2, 0), role("decode", 2, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    for (name, uid) in stage.uids().await? {
        assert_eq!(before.get(&name) == Some(&uid), name.contains("decode"), "{name}");
    }
    stage.writes_nothing().await
}

#[tokio::test]
async fn no_more_instances_of_a_role_are_missing_than_allowed() -> Result<()> {
    let stage = Stage::new("role-budget").await?;
    stage.create("llm", by_role(&[prefill("maxUnavailable", 2), role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let decode = stage.uids().await?["llm-0-decode-0-0"].clone();
    stage.set_image("llm", 0, "bad:1").await?;
    let two_and_two = |images: Vec<&str>| {
        let count = |wanted: &str| images.iter().filter(|image| **image == wanted).count();
        (count("bad:1"), count("engine:1")) == (2, 3)
    };
    poll::until("two bad instances", SOON, async || {
        let images = stage.images().await.ok()?;
        two_and_two(images.values().map(String::as_str).collect()).then_some(())
    })
    .await?;
    stage.stays("two old instances and two bad ones", |pods| two_and_two(pods.values().map(image).collect())).await?;
    assert_eq!(stage.uids().await?["llm-0-decode-0-0"], decode);
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn instances_below_a_roles_partition_keep_their_template() -> Result<()> {
    let stage = Stage::new("role-partition").await?;
    stage.create("llm", by_role(&[prefill("partition", 2)])).await?;
    stage.wait_done("llm").await?;
    let wanted = |all: usize| {
        (0..all).map(|index| (pod(index), if index < 2 { "engine:1" } else { "engine:2" }.to_owned())).collect()
    };
    let settles = async |stage: &Stage, all: usize| {
        poll::until("the images that the partition asks for", SOON, async || {
            (stage.images().await.ok()? == wanted(all)).then_some(())
        })
        .await
    };
    stage.set_image("llm", 0, "engine:2").await?;
    settles(&stage, 4).await?;
    let before = stage.uids().await?;
    stage.delete_pod(&pod(0)).await?;
    stage.wait_replaced(&pod(0), &before[&pod(0)]).await?;
    settles(&stage, 4).await?;
    stage.set("llm", "/spec/template/roles/0/replicas", json!(6)).await?;
    settles(&stage, 6).await?;
    stage.set("llm", "/spec/template/roles/0/replicas", json!(3)).await?;
    settles(&stage, 3).await
}

#[tokio::test]
async fn a_role_that_is_removed_goes() -> Result<()> {
    let stage = Stage::new("role-removed").await?;
    stage.create("llm", by_role(&[role("prefill", 1, 0), role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage.change("llm", json!({"spec": {"template": {"roles": [role("prefill", 1, 0)]}}})).await?;
    stage.wait_pods(&["llm-0-prefill-0-0"]).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.uids().await?["llm-0-prefill-0-0"], before["llm-0-prefill-0-0"]);
    Ok(())
}
