//! Gangs: Volcano's PodGroups.

use anyhow::{Context as _, Result};
use controller_api::pod_group::PodGroup;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tests::poll;

use crate::stage::{SOON, Stage, role, spec, uid};
use crate::world::World;

const POD_GROUPS: &str = "podgroups.scheduling.volcano.sh";

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

/// Puts another schema of the PodGroup's spec in place, as an update of Volcano does.
async fn update_definition(world: &World, change: impl Fn(&mut Value)) -> Result<()> {
    let kinds: Api<CustomResourceDefinition> = Api::all(world.plane.client().await?);
    let mut definition = serde_json::to_value(kinds.get(POD_GROUPS).await?)?;
    let fields = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    change(definition.pointer_mut(fields).context("a schema")?);
    kinds.replace(POD_GROUPS, &PostParams::default(), &serde_json::from_value(definition)?).await?;
    Ok(())
}

#[tokio::test]
async fn with_the_pod_groups_of_volcano_1_13_a_gang_has_parts_only_once_the_definition_has_them() -> Result<()> {
    let world = World::new("older-volcano").await?;
    let kinds: Api<CustomResourceDefinition> = Api::all(world.plane.client().await?);
    let newer = serde_json::to_value(kinds.get(POD_GROUPS).await?)?;
    let parts =
        newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["subGroupPolicy"]
            .clone();
    assert!(parts.is_object(), "the definition of 1.14 has them");
    // That of 1.13 has all else that a gang of ours says.
    update_definition(&world, |fields| drop(fields.as_object_mut().and_then(|all| all.remove("subGroupPolicy"))))
        .await?;

    let operator = world.operator().await?;
    let serving = serde_json::from_value(json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing", "metadata": {"name": "llm"},
        "spec": for_volcano(1, &[role("prefill", 2, 1)]),
    }))?;
    let servings = world.namespace.api::<ModelServing>();
    servings.create(&PostParams::default(), &serving).await?;
    let gang = async || {
        let gang = world.namespace.api::<PodGroup>().get("llm-0").await.ok()?;
        serde_json::to_value(gang.spec).ok()
    };
    let available = poll::until("an available group", SOON, async || {
        (servings.get("llm").await.ok()?.status?.available_replicas == 1).then_some(())
    });
    available.await.with_context(|| operator.log())?;
    let first = gang().await.context("a gang")?;
    assert_eq!((&first["minMember"], first.get("subGroupPolicy")), (&json!(4), None), "{first}");
    let pods = async || -> Result<Vec<String>> {
        let pods = world.namespace.api::<Pod>().list(&ListParams::default()).await?;
        Ok(pods.iter().map(|pod| uid(pod).to_owned()).collect())
    };
    let before = pods().await?;

    update_definition(&world, |fields| fields["subGroupPolicy"] = parts.clone()).await?;
    let updated =
        poll::until("the parts of the gang", SOON, async || gang().await?["subGroupPolicy"].as_array().map(Vec::len));
    assert_eq!(updated.await.with_context(|| operator.log())?, 1);
    assert_eq!(pods().await?, before);
    // With the field gone again, what asked for it is no longer written.
    update_definition(&world, |fields| drop(fields.as_object_mut().and_then(|all| all.remove("subGroupPolicy"))))
        .await?;
    let gone =
        poll::until("a gang without parts", SOON, async || gang().await?.get("subGroupPolicy").is_none().then_some(()));
    gone.await.with_context(|| operator.log())?;
    assert_eq!(pods().await?, before);
    Ok(())
}
