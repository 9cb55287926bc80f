//! A gang's pods are as near to each other as `spec.template.networkTopology` says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::json;

use crate::stage::{Role, Stage};

const PREFILL: Role = Role { name: "prefill", instances: 1, pods: 2 };
const DECODE: Role = Role { name: "decode", instances: 1, pods: 1 };

/// Two racks, each of so many nodes for one pod.
async fn two_racks(label: &str, nodes: u32) -> Result<Stage> {
    let stage = Stage::new(label).await?;
    for rack in ["a", "b"] {
        stage.rack(rack).await?;
        for node in 0..nodes {
            stage.node_in(rack, &format!("{rack}-{node}"), 1).await?;
        }
    }
    Ok(stage)
}

/// The racks of the pods whose names begin with `prefix`.
fn racks(bound: &BTreeMap<String, String>, prefix: &str) -> BTreeSet<String> {
    let rack = |node: &String| node.rsplit('-').nth(1).map(str::to_owned);
    bound.iter().filter(|(pod, _)| pod.starts_with(prefix)).filter_map(|(_, node)| rack(node)).collect()
}

#[tokio::test]
async fn a_group_that_must_be_in_one_rack_waits_for_a_rack_with_room_for_all() -> Result<()> {
    let stage = two_racks("rack", 2).await?;
    let policy = json!({"networkTopology": {"groupPolicy": {"mode": "hard", "highestTierAllowed": 1}}});
    stage.create(1, &[PREFILL, DECODE], policy).await?;
    // There are four nodes for its three pods, and never three in a rack.
    stage.wait_refused("llm-0", 3).await?;
    assert!(stage.bound().await?.is_empty());
    stage.node_in("b", "b-2", 1).await?;
    let bound = stage.wait_bound(3).await?;
    assert_eq!(racks(&bound, "llm-0"), BTreeSet::from(["b".to_owned()]), "{bound:?}");
    stage.wait_available(1).await
}

#[tokio::test]
async fn a_group_that_had_better_be_in_one_rack_is_bound_across_racks_where_none_has_room() -> Result<()> {
    let stage = two_racks("soft", 2).await?;
    let policy = json!({"networkTopology": {"groupPolicy": {"mode": "soft"}}});
    stage.create(1, &[PREFILL, DECODE], policy).await?;
    let bound = stage.wait_bound(3).await?;
    assert_eq!(racks(&bound, "llm-0").len(), 2, "{bound:?}");
    stage.wait_available(1).await
}

#[tokio::test]
async fn each_instance_of_a_role_stays_in_one_rack_though_the_group_spans_them() -> Result<()> {
    let stage = two_racks("role-rack", 3).await?;
    let policy = json!({"networkTopology": {"rolePolicy": {"mode": "hard", "highestTierAllowed": 1}}});
    stage.create(1, &[Role { name: "prefill", instances: 3, pods: 2 }], policy).await?;
    // Six nodes for six pods: in each rack one is left over when an instance has its two.
    stage.wait_refused("llm-0", 6).await?;
    assert!(stage.bound().await?.is_empty());
    stage.node_in("a", "a-3", 1).await?;
    let bound = stage.wait_bound(6).await?;
    for instance in 0..3 {
        assert_eq!(racks(&bound, &format!("llm-0-prefill-{instance}-")).len(), 1, "{bound:?}");
    }
    assert_eq!(racks(&bound, "llm-0").len(), 2, "{bound:?}");
    stage.wait_available(1).await
}

#[tokio::test]
async fn a_tier_can_be_named_and_operator_and_scheduler_do_not_write_against_each_other() -> Result<()> {
    let stage = two_racks("tier-name", 2).await?;
    let policy = json!({"networkTopology": {"groupPolicy": {"mode": "hard", "highestTierName": "rack"}}});
    stage.create(1, &[PREFILL, DECODE], policy).await?;
    stage.wait_refused("llm-0", 3).await?;
    // The scheduler has put the tier's number in place of its name.
    assert_eq!(stage.gang("llm-0").await?["spec"]["networkTopology"], json!({"mode": "hard", "highestTierAllowed": 1}));
    stage.wait_settled("llm-0").await?;
    stage.node_in("b", "b-2", 1).await?;
    let bound = stage.wait_bound(3).await?;
    assert_eq!(racks(&bound, "llm-0"), BTreeSet::from(["b".to_owned()]), "{bound:?}");
    stage.wait_available(1).await?;
    stage.wait_settled("llm-0").await
}
