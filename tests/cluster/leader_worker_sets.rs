//! LeaderWorkerSets, served as ModelServings.

use anyhow::{Context as _, Result};
use controller_api::leader_worker_set::{LeaderWorkerSet, LeaderWorkerSetStatus};
use controller_api::v1alpha1::model_serving::ModelServing;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tests::poll;

use crate::stage::{SOON, Stage, role, spec, template};

async fn create(stage: &Stage, name: &str, spec: Value) -> Result<()> {
    let set = json!({
        "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name}, "spec": spec,
    });
    let api = stage.namespace.api::<LeaderWorkerSet>();
    api.create(&PostParams::default(), &serde_json::from_value(set)?)
        .await
        .context("the LeaderWorkerSet is refused")?;
    Ok(())
}

fn groups_of_two(replicas: u32) -> Value {
    json!({"replicas": replicas, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template("engine:1")}})
}

async fn wait(
    stage: &Stage,
    name: &str,
    what: &str,
    seen: impl Fn(&LeaderWorkerSetStatus) -> bool,
) -> Result<LeaderWorkerSetStatus> {
    let api = stage.namespace.api::<LeaderWorkerSet>();
    let mut last = None;
    let found = poll::until(what, SOON, async || {
        last = api.get(name).await.ok()?.status;
        last.clone().filter(&seen)
    })
    .await;
    found.with_context(|| {
        format!(
            "the status is {}; the operator said:\n{}",
            serde_json::to_string(&last).unwrap_or_default(),
            stage.log()
        )
    })
}

fn holds(status: &LeaderWorkerSetStatus, kind: &str, reason: &str) -> bool {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    found.is_some_and(|condition| condition.reason == reason)
}

/// As its conditions say: `status.observedGeneration` is younger than this kind's definition.
fn observed_generation(status: &LeaderWorkerSetStatus) -> Option<i64> {
    status.conditions.iter().filter_map(|condition| condition.observed_generation).min()
}

#[tokio::test]
async fn a_leader_worker_set_has_its_pods_labels_and_status() -> Result<()> {
    let stage = Stage::new("lws").await?;
    create(&stage, "vllm", groups_of_two(1)).await?;
    stage.wait_pods(&["vllm-0-default-0-0", "vllm-0-default-0-1"]).await?;
    let pods = stage.pods().await?;
    for (number, name) in ["vllm-0-default-0-0", "vllm-0-default-0-1"].iter().enumerate() {
        let pod = json!(pods[*name]);
        let label = |label: &str| pod["metadata"]["labels"][format!("leaderworkerset.sigs.k8s.io/{label}")].clone();
        assert_eq!((label("name"), label("group-index")), (json!("vllm"), json!("0")));
        assert_eq!(label("worker-index"), json!(number.to_string()));
        // printf 'vllm-0' | sha1sum
        assert_eq!(label("group-key"), "7c57e6b58984f91b949dcad6df752e5f4c1d8f2a");
        let env = &pod["spec"]["containers"][0]["env"];
        assert_eq!(env[0]["name"], "LWS_LEADER_ADDRESS");
        assert_eq!(env[0]["value"], format!("vllm-0-default-0-0.{}", stage.namespace.name()));
        assert_eq!(env[1], json!({"name": "LWS_GROUP_SIZE", "value": "2"}));
    }
    let owner = json!(stage.serving("vllm").await?.metadata.owner_references);
    assert_eq!(owner.as_array().map(Vec::len), Some(1));
    assert_eq!((&owner[0]["kind"], &owner[0]["controller"]), (&json!("LeaderWorkerSet"), &json!(true)));
    let status =
        wait(&stage, "vllm", "an available set", |status| holds(status, "Available", "AllGroupsReady")).await?;
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas), (1, 1, 1));
    assert_eq!(observed_generation(&status), Some(1));
    stage.writes_nothing().await
}

#[tokio::test]
async fn a_leader_worker_set_scales_and_rolls() -> Result<()> {
    let stage = Stage::new("lws-roll").await?;
    create(&stage, "vllm", groups_of_two(1)).await?;
    stage.wait_done("vllm").await?;
    let api = stage.namespace.api::<LeaderWorkerSet>();
    let mut changed = groups_of_two(2);
    changed["leaderWorkerTemplate"]["workerTemplate"] = template("engine:2");
    api.patch("vllm", &PatchParams::default(), &Patch::Merge(json!({"spec": changed}))).await?;
    let status = wait(&stage, "vllm", "two updated groups", |status| {
        observed_generation(status) == Some(2) && holds(status, "Available", "AllGroupsReady")
    })
    .await?;
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas), (2, 2, 2));
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));
    Ok(())
}

#[tokio::test]
async fn workers_come_after_a_leader_that_must_be_ready() -> Result<()> {
    let stage = Stage::new("lws-ready").await?;
    stage.hold(&["vllm-0-default-0-0"]).await?;
    let mut spec = groups_of_two(1);
    spec["startupPolicy"] = json!("LeaderReady");
    create(&stage, "vllm", spec).await?;
    let leader = ["vllm-0-default-0-0"];
    poll::until("the leader", SOON, async || (stage.pod_names().await.ok()? == leader).then_some(())).await?;
    stage.stays("the leader is alone", |pods| pods.keys().eq(leader)).await?;
    stage.hold(&[]).await?;
    stage.wait_pods(&["vllm-0-default-0-0", "vllm-0-default-0-1"]).await
}

#[tokio::test]
async fn a_model_serving_of_that_name_is_left_alone() -> Result<()> {
    let stage = Stage::new("lws-foreign").await?;
    stage.create("vllm", spec(1, &[role("decode", 1, 0)])).await?;
    stage.wait_done("vllm").await?;
    let before: ModelServing = stage.serving("vllm").await?;
    create(&stage, "vllm", groups_of_two(2)).await?;
    let status = wait(&stage, "vllm", "a refusal", |status| holds(status, "Available", "NameTaken")).await?;
    assert!(status.conditions[0].message.contains("rename one of them"), "{:?}", status.conditions);
    let after = stage.serving("vllm").await?;
    assert_eq!((after.spec, after.metadata.resource_version), (before.spec, before.metadata.resource_version));
    assert_eq!(stage.pod_names().await?, ["vllm-0-decode-0-0"]);
    Ok(())
}
