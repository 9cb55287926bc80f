//! Gangs: Volcano's PodGroups.

use anyhow::Result;
use controller_api::pod_group::PodGroup;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tests::poll;

use crate::stage::{SOON, Stage, role, spec};

fn for_volcano(replicas: u32, roles: &[Value]) -> Value {
    let mut spec = spec(replicas, roles);
    spec["schedulerName"] = json!("volcano");
    spec
}

async fn pod_group(stage: &Stage, name: &str) -> Result<Value> {
    Ok(serde_json::to_value(stage.namespace.api::<PodGroup>().get(name).await?)?)
}

#[tokio::test]
async fn a_group_for_volcano_is_a_gang_with_a_part_for_each_role() -> Result<()> {
    let stage = Stage::new("gang").await?;
    let mut prefill = role("prefill", 2, 1);
    for key in ["entryTemplate", "workerTemplate"] {
        prefill[key]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    }
    stage.create("llm", for_volcano(2, &[prefill, role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    for name in ["llm-0", "llm-1"] {
        let gang = pod_group(&stage, name).await?;
        assert_eq!(gang["spec"]["minMember"], 5);
        assert_eq!(gang["spec"]["minResources"]["cpu"], "400m");
        let parts = gang["spec"]["subGroupPolicy"].as_array().map(Vec::len);
        assert_eq!(parts, Some(2), "{gang}");
    }
    let pod = stage.namespace.api::<Pod>().get("llm-1-decode-0-0").await?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("scheduling.k8s.io/group-name").map(String::as_str), Some("llm-1"));
    stage.writes_nothing().await?;
    stage.change("llm", json!({"spec": {"replicas": 1}})).await?;
    stage.wait_done("llm").await?;
    poll::until("the gang's end", SOON, async || {
        stage.namespace.api::<PodGroup>().get_opt("llm-1").await.ok()?.is_none().then_some(())
    })
    .await
}

#[tokio::test]
async fn a_gang_needs_only_its_minimum_and_follows_the_scaling_of_a_role() -> Result<()> {
    let stage = Stage::new("gang-minimum").await?;
    let mut wanted = for_volcano(1, &[role("prefill", 3, 1), role("decode", 2, 0)]);
    wanted["template"]["gangPolicy"] = json!({"minRoleReplicas": {"prefill": 1, "decode": 1}});
    stage.create("llm", wanted).await?;
    stage.wait_done("llm").await?;
    assert_eq!(pod_group(&stage, "llm-0").await?["spec"]["minMember"], 3);
    stage.set("llm", "/spec/template/roles/0/replicas", json!(1)).await?;
    stage.wait_pods(&["llm-0-decode-0-0", "llm-0-decode-1-0", "llm-0-prefill-0-0", "llm-0-prefill-0-1"]).await?;
    stage.wait_done("llm").await?;
    assert_eq!(pod_group(&stage, "llm-0").await?["spec"]["minMember"], 3);
    Ok(())
}

#[tokio::test]
async fn a_gang_that_is_deleted_comes_back_and_a_changed_topology_reaches_it() -> Result<()> {
    let stage = Stage::new("gang-back").await?;
    let mut wanted = for_volcano(1, &[role("prefill", 1, 1)]);
    wanted["template"]["networkTopology"] = json!({"groupPolicy": {"mode": "hard", "highestTierAllowed": 1}});
    stage.create("llm", wanted).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    let api = stage.namespace.api::<PodGroup>();
    let first = api.get("llm-0").await?.metadata.uid;
    api.delete("llm-0", &DeleteParams::default()).await?;
    poll::until("another gang", SOON, async || {
        api.get_opt("llm-0").await.ok()?.filter(|gang| gang.metadata.uid != first)
    })
    .await?;
    stage.set("llm", "/spec/template/networkTopology/groupPolicy/highestTierAllowed", json!(2)).await?;
    poll::until("the new topology", SOON, async || {
        let gang = pod_group(&stage, "llm-0").await.ok()?;
        (gang["spec"]["networkTopology"]["highestTierAllowed"] == 2).then_some(())
    })
    .await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.uids().await?, before);
    Ok(())
}
