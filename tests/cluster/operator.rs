//! The operator as a process: what it waits for, what it cannot read, whom it serves, how it ends.

use std::time::Duration;

use anyhow::{Context as _, Result};
use controller_api::leader_worker_set::LeaderWorkerSet;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use tests::cluster::namespace::Namespace;
use tests::cluster::proxy::Fault;
use tests::process::Signal;
use tests::{client, poll};

use crate::stage::{SOON, Stage, role, spec, template};
use crate::world::World;

const SERVINGS: &str = "modelservings.workload.serving.volcano.sh";
const SETS: &str = "leaderworkersets.leaderworkerset.x-k8s.io";

#[tokio::test]
async fn nothing_is_written_before_everything_is_known_and_readiness_says_what_is_missing() -> Result<()> {
    let stage = Stage::without_operator("unready").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 0)])).await?;
    stage.proxy.spoil(|call| match (call.verb, call.resource.as_str()) {
        ("list", "pods") => Fault::Answer(500),
        _ => Fault::None,
    });
    let operator = stage.operator_options().start_unready().await?;
    poll::until("the reason in /readyz", SOON, async || {
        let reply = client::get(operator.metrics_address(), "/readyz").await.ok()?;
        let reason = reply.text();
        (reply.status == 503 && reason.contains("Pod: refused by a test") && !reason.contains("Service")).then_some(())
    })
    .await?;
    assert_eq!(client::get(operator.metrics_address(), "/healthz").await?.status, 200);
    assert_eq!(stage.proxy.writes(0), []);
    stage.proxy.heal();
    operator.wait_until_ready().await?;
    stage.wait_done("llm").await
}

#[tokio::test]
async fn metrics_tell_writes_passes_and_groups() -> Result<()> {
    let stage = Stage::without_operator("metrics").await?;
    let operator = stage.operator_options().start().await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await?;
    // The status is written before its pass ends and is counted.
    let samples = poll::until("two groups that are ready", SOON, async || {
        let samples = operator.metrics().await.ok()?;
        (samples.sum("kthena_controller_groups", &["state=\"ready\""]) == Some(2.0)).then_some(samples)
    })
    .await?;
    let sum = |name: &str, labels: &[&str]| samples.sum(name, labels);
    let writes = |kind: &str| sum("kthena_controller_writes_total", &[&format!("kind=\"{kind}\""), "outcome=\"ok\""]);
    assert_eq!([writes("Pod"), writes("Service"), writes("ControllerRevision")], [Some(4.0), Some(2.0), Some(1.0)]);
    assert!(writes("ModelServing/status").is_some_and(|statuses| statuses <= 3.0), "{:?}", samples.all());
    assert_eq!(sum("kthena_controller_writes_total", &[]), sum("kthena_controller_writes_total", &["outcome=\"ok\""]));
    assert_eq!(sum("kthena_controller_objects", &["kind=\"Pod\""]), Some(4.0));
    assert_eq!(sum("kthena_controller_leader", &[]), Some(1.0));
    assert!(sum("kthena_controller_reconcile_duration_seconds_count", &[]).is_some_and(|passes| passes >= 2.0));
    Ok(())
}

#[tokio::test]
async fn an_operator_that_is_told_to_end_gives_its_lease_up() -> Result<()> {
    let stage = Stage::without_operator("stop").await?;
    let operator = stage.operator_options().flag("--leader-elect", true).start().await?;
    let leases = stage.namespace.api::<Lease>();
    let holder = async || {
        let lease = leases.list(&ListParams::default()).await.ok()?.items.pop()?;
        lease.spec?.holder_identity
    };
    poll::until("a leader", SOON, async || holder().await.filter(|holder| !holder.is_empty())).await?;
    operator.process().signal(Signal::Term)?;
    assert_eq!(operator.process().exit_code(Duration::from_secs(30)).await?, 0, "{}", operator.log());
    assert_eq!(holder().await.as_deref(), Some(""));
    Ok(())
}

#[tokio::test]
async fn leader_worker_sets_are_served_as_soon_as_their_kind_exists() -> Result<()> {
    let world = World::new("late-kind").await?;
    let kinds: Api<CustomResourceDefinition> = Api::all(world.plane.client().await?);
    let mut kind = kinds.get(SETS).await?;
    kinds.delete(SETS, &Default::default()).await?;
    poll::until("the end of the kind", SOON, async || kinds.get_opt(SETS).await.ok()?.is_none().then_some(())).await?;
    let operator = world.operator().await?;
    kind.metadata = kube::core::ObjectMeta {
        name: kind.metadata.name,
        annotations: kind.metadata.annotations,
        ..Default::default()
    };
    kind.status = None;
    kinds.create(&PostParams::default(), &kind).await?;
    poll::until("a set to be accepted", SOON, async || create_set(&world.namespace, "llm").await.ok()).await?;
    wait_served(&world.namespace, "llm").await.with_context(|| operator.log())
}

#[tokio::test]
async fn a_serving_that_cannot_be_read_is_told_so_and_stops_no_other() -> Result<()> {
    let world = World::new("unreadable").await?;
    // Another version of the definition may have accepted what ours does not.
    let kinds: Api<CustomResourceDefinition> = Api::all(world.plane.client().await?);
    let mut loose = serde_json::to_value(kinds.get(SERVINGS).await?)?;
    let version = &mut loose["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}});
    version["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    kinds.replace(SERVINGS, &PostParams::default(), &serde_json::from_value(loose)?).await?;
    let mut bad = spec(1, &[role("prefill", 1, 0)]);
    bad["replicas"] = json!("one");
    poll::until("the bad one to be accepted", SOON, async || create(&world.namespace, "bad", &bad).await.ok()).await?;

    let operator = world.operator().await?;
    create(&world.namespace, "good", &spec(1, &[role("prefill", 1, 0)])).await?;
    let servings = world.namespace.api::<ModelServing>();
    let served = poll::until("the good one to be served", SOON, async || {
        (servings.get_status("good").await.ok()?.status?.available_replicas == 1).then_some(())
    });
    served.await.with_context(|| operator.log())?;
    let events = world.namespace.api::<Event>();
    poll::until("an event on the bad one", SOON, async || {
        let events = events.list(&ListParams::default()).await.ok()?;
        let about_bad = |event: &Event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some("bad");
        let note = events.iter().find(|event| about_bad(event))?.note.clone()?;
        note.contains("invalid type: string \"one\"").then_some(())
    })
    .await
    .with_context(|| operator.log())
}

/// Creates a ModelServing from JSON that need not be one.
async fn create(namespace: &Namespace, name: &str, spec: &Value) -> Result<()> {
    let serving = json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing",
        "metadata": {"name": name}, "spec": spec,
    });
    post(namespace, namespace.api::<ModelServing>().resource_url(), &serving).await
}

/// Creates a LeaderWorkerSet of one group, a leader and a worker.
async fn create_set(namespace: &Namespace, name: &str) -> Result<()> {
    let set = json!({
        "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name},
        "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template("engine:1")}},
    });
    post(namespace, namespace.api::<LeaderWorkerSet>().resource_url(), &set).await
}

async fn post(namespace: &Namespace, path: &str, object: &Value) -> Result<()> {
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    namespace.client().request::<Value>(request.body(object.to_string().into_bytes())?).await?;
    Ok(())
}

/// Waits until the LeaderWorkerSet says that its group is ready.
async fn wait_served(namespace: &Namespace, name: &str) -> Result<()> {
    let sets = namespace.api::<LeaderWorkerSet>();
    poll::until("a ready group", SOON, async || {
        let status = sets.get(name).await.ok()?.status?;
        (status.replicas == 1 && status.ready_replicas == 1).then_some(())
    })
    .await
}
