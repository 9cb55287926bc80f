//! All of a gang is bound, or none of it.

use anyhow::Result;
use serde_json::json;

use crate::stage::{Role, Stage};

const PREFILL: Role = Role { name: "prefill", instances: 1, pods: 2 };
const DECODE: Role = Role { name: "decode", instances: 1, pods: 1 };

#[tokio::test]
async fn a_group_that_does_not_fit_whole_is_not_bound_in_part_and_is_bound_whole_when_room_comes() -> Result<()> {
    let stage = Stage::new("group").await?;
    stage.node("a", 2).await?;
    stage.create(1, &[PREFILL, DECODE], json!({})).await?;
    stage.wait_refused("llm-0", 3).await?;
    assert!(stage.bound().await?.is_empty());
    stage.node("b", 1).await?;
    stage.wait_bound(3).await?;
    stage.wait_available(1).await
}

#[tokio::test]
async fn where_one_of_two_groups_fits_that_one_is_bound_whole_and_the_other_waits() -> Result<()> {
    let stage = Stage::new("groups").await?;
    stage.node("a", 5).await?;
    stage.create(2, &[PREFILL, DECODE], json!({})).await?;
    stage.wait_available(1).await?;
    let bound = stage.bound().await?;
    let first = if bound.contains_key("llm-0-decode-0-0") { "llm-0" } else { "llm-1" };
    let second = if first == "llm-0" { "llm-1" } else { "llm-0" };
    stage.wait_refused(second, 3).await?;
    let bound: Vec<String> = stage.bound().await?.into_keys().collect();
    assert_eq!(bound, ["decode-0-0", "prefill-0-0", "prefill-0-1"].map(|pod| format!("{first}-{pod}")));
    stage.node("b", 1).await?;
    stage.wait_bound(6).await?;
    stage.wait_available(2).await
}

#[tokio::test]
async fn an_instance_of_a_role_that_does_not_fit_whole_is_not_bound_in_part() -> Result<()> {
    let stage = Stage::new("role").await?;
    stage.node("a", 5).await?;
    let roles = [Role { name: "prefill", instances: 2, pods: 3 }];
    stage.create(1, &roles, json!({"gangPolicy": {"minRoleReplicas": {"prefill": 1}}})).await?;
    let bound = stage.wait_bound(3).await?;
    let (first, second) = if bound.contains_key("llm-0-prefill-0-0") { (0, 1) } else { (1, 0) };
    let pods = |instance: u32| [0, 1, 2].map(|pod| format!("llm-0-prefill-{instance}-{pod}"));
    stage.wait_no_room(&pods(second).each_ref().map(String::as_str)).await?;
    let bound: Vec<String> = stage.bound().await?.into_keys().collect();
    assert_eq!(bound, pods(first));
    stage.node("b", 1).await?;
    stage.wait_bound(6).await?;
    stage.wait_available(1).await
}
