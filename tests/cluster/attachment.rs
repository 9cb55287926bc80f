//! What ModelServers and ModelRoutes have in common: objects in few words, kinds that come late, the example.

use std::fmt::Debug;

use anyhow::{Context as _, Result};
use controller_api::http_route::HttpRoute;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::cluster::control_plane::ControlPlaneOptions;
use tests::cluster::crds::Foreign;
use tests::cluster::kubelet::Kubelet;
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::OperatorOptions;
use tests::poll;

use crate::stage::{SOON, Stage};

/// Creates an object of a kind of ours or of Kubernetes.
pub(crate) async fn create<K>(namespace: &Namespace, name: &str, rest: Value) -> Result<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    let mut object = rest;
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    object["metadata"]["name"] = json!(name);
    let object = serde_json::from_value(object)?;
    Ok(namespace.api::<K>().create(&PostParams::default(), &object).await?)
}

/// Of pods with the label `app`, on port 8000.
pub(crate) async fn create_server(namespace: &Namespace, name: &str, app: &str) -> Result<()> {
    let spec = json!({
        "inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": app}}, "workloadPort": {"port": 8000},
    });
    create::<ModelServer>(namespace, name, json!({"spec": spec})).await.map(drop)
}

/// At the Gateway `edge`, to one ModelServer.
pub(crate) async fn create_route(namespace: &Namespace, name: &str, model: &str, server: &str) -> Result<()> {
    let rules = json!([{"targetModels": [{"modelServerName": server}]}]);
    let spec = json!({"modelName": model, "parentRefs": [{"name": "edge"}], "rules": rules});
    create::<ModelRoute>(namespace, name, json!({"spec": spec})).await.map(drop)
}

/// Says, as the Gateway `edge`'s controller, that it takes an HTTPRoute as it is, or why not.
pub(crate) async fn answer_route(stage: &Stage, name: &str, refusal: Option<&str>) -> Result<()> {
    let route: HttpRoute = wait_for(stage, name).await?;
    let condition = |kind: &str, refusal: Option<&str>| {
        json!({
            "type": kind, "status": if refusal.is_none() { "True" } else { "False" },
            "reason": if refusal.is_none() { kind } else { "NotAllowedByListeners" },
            "message": refusal.unwrap_or_default(), "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": route.metadata.generation,
        })
    };
    let parents: Vec<Value> = route
        .spec
        .parent_refs
        .iter()
        .map(|parent| {
            json!({
                "parentRef": parent, "controllerName": "example.com/gateway",
                "conditions": [condition("Accepted", refusal), condition("ResolvedRefs", None)],
            })
        })
        .collect();
    let status = Patch::Merge(json!({"status": {"parents": parents}}));
    stage.namespace.api::<HttpRoute>().patch_status(name, &PatchParams::default(), &status).await?;
    Ok(())
}

pub(crate) async fn create_pod(namespace: &Namespace, name: &str, labels: Value) -> Result<()> {
    let spec = json!({"containers": [{"name": "engine", "image": "engine:1"}]});
    create::<Pod>(namespace, name, json!({"metadata": {"labels": labels}, "spec": spec})).await.map(drop)
}

pub(crate) async fn create_picker(namespace: &Namespace) -> Result<()> {
    let spec = json!({"selector": {"app": "picker"}, "ports": [{"port": 9002}]});
    create::<Service>(namespace, "kthena-ext-proc", json!({"spec": spec})).await.map(drop)
}

/// `Accepted=True/Accepted`, and what is said.
pub(crate) fn find(conditions: &[Condition], kind: &str) -> Option<(String, String)> {
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((format!("{}/{}", found.status, found.reason), found.message.clone()))
}

/// Waits until a condition of an object is so, and returns its message. `conditions` are those of its status.
async fn wait_condition<K>(
    stage: &Stage,
    name: &str,
    kind: &str,
    wanted: &str,
    conditions: impl Fn(K) -> Option<Vec<Condition>>,
) -> Result<String>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api = stage.namespace.api::<K>();
    let mut last = None;
    let seen = poll::until(&format!("{} {name}: {kind}={wanted}", K::kind(&())), SOON, async || {
        let conditions = conditions(api.get(name).await.ok()?)?;
        last = Some(conditions.clone());
        find(&conditions, kind).filter(|(found, _)| found == wanted).map(|(_, message)| message)
    })
    .await;
    seen.with_context(|| format!("the conditions are {last:?}; the operator said:\n{}", stage.log()))
}

/// Waits until a condition of a ModelServer is so, and returns its message.
pub(crate) async fn wait_server(stage: &Stage, name: &str, kind: &str, wanted: &str) -> Result<String> {
    wait_condition(stage, name, kind, wanted, |server: ModelServer| Some(server.status?.conditions)).await
}

/// As [`wait_server`], of a ModelRoute.
pub(crate) async fn wait_route(stage: &Stage, name: &str, kind: &str, wanted: &str) -> Result<String> {
    wait_condition(stage, name, kind, wanted, |route: ModelRoute| Some(route.status?.conditions)).await
}

/// Waits until an object is there.
pub(crate) async fn wait_for<K>(stage: &Stage, name: &str) -> Result<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api = stage.namespace.api::<K>();
    let what = format!("{} {name}", K::kind(&()));
    let seen = poll::until(&what, SOON, async || api.get_opt(name).await.ok()?).await;
    seen.with_context(|| format!("the operator said:\n{}", stage.log()))
}

/// Waits until an object is gone.
pub(crate) async fn wait_gone<K>(stage: &Stage, name: &str) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api = stage.namespace.api::<K>();
    let what = format!("the end of {} {name}", K::kind(&()));
    let seen = poll::until(&what, SOON, async || api.get_opt(name).await.ok()?.is_none().then_some(())).await;
    seen.with_context(|| format!("the operator said:\n{}", stage.log()))
}

#[tokio::test]
async fn kinds_that_come_late_are_noticed() -> Result<()> {
    let plane = ControlPlaneOptions::default().start().await?;
    let kinds: Api<CustomResourceDefinition> = Api::all(plane.client().await?);
    for kind in ["inferencepools.inference.networking.k8s.io", "httproutes.gateway.networking.k8s.io"] {
        kinds.delete(kind, &DeleteParams::default()).await?;
        poll::until("the end of the kind", SOON, async || kinds.get_opt(kind).await.ok()?.is_none().then_some(()))
            .await?;
    }
    let operator = OperatorOptions::new(plane.kubeconfig()).start().await?;
    let namespace = plane.namespace("late").await?;
    create_server(&namespace, "llm", "llm").await?;
    create_route(&namespace, "llm", "llm", "llm").await?;
    let story = async {
        poll::until("conditions that name what is missing", SOON, async || {
            let server = namespace.api::<ModelServer>().get("llm").await.ok()?.status?;
            let route = namespace.api::<ModelRoute>().get("llm").await.ok()?.status?;
            let (server, route) = (find(&server.conditions, "Accepted")?, find(&route.conditions, "Accepted")?);
            (server.0 == "False/KindMissing" && route.0 == "False/KindMissing").then_some(())
        })
        .await?;
        for kind in [Foreign::InferencePool, Foreign::HttpRoute] {
            let kind: CustomResourceDefinition = serde_saphyr::from_str(&kind.manifest().await?)?;
            kinds.create(&PostParams::default(), &kind).await?;
        }
        poll::until("what was waited for", SOON, async || {
            namespace.api::<InferencePool>().get_opt("llm").await.ok()??;
            namespace.api::<HttpRoute>().get_opt("llm").await.ok()?
        })
        .await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| format!("the operator said:\n{}", operator.log()))
}

#[tokio::test]
async fn the_example_of_a_kthena_user_becomes_what_its_folder_says() -> Result<()> {
    const GIVEN: &str = include_str!("../../gateway-api-examples/modelroute-from-kthena/given.yaml");
    const MADE: &str = include_str!("../../gateway-api-examples/modelroute-from-kthena/made.yaml");
    let stage = Stage::new("example").await?;
    create_picker(&stage.namespace).await?;
    for document in GIVEN.split("\n---\n") {
        let mut object: DynamicObject = serde_saphyr::from_str(document)?;
        let types = object.types.clone().context("an object has a kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        object.metadata.namespace = None;
        let name = object.metadata.name.clone().context("an object has a name")?;
        let api: Api<DynamicObject> = Api::namespaced_with(stage.namespace.client(), stage.namespace.name(), &resource);
        let params = PatchParams::apply("a-test").validation_strict();
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("the API server refuses {} {name}", types.kind))?;
    }
    for document in MADE.split("\n---\n") {
        let expected: Value = serde_saphyr::from_str(document)?;
        let name = expected["metadata"]["name"].as_str().context("an object has a name")?;
        let found = match expected["kind"].as_str() {
            Some("InferencePool") => serde_json::to_value(wait_for::<InferencePool>(&stage, name).await?)?,
            _ => serde_json::to_value(wait_for::<HttpRoute>(&stage, name).await?)?,
        };
        assert_eq!(found["spec"], expected["spec"], "{name}");
    }
    for pool in ["assistant-7b", "assistant-72b"] {
        wait_for::<Service>(&stage, &format!("{pool}-epp")).await?;
    }
    answer_route(&stage, "assistant", None).await?;
    wait_route(&stage, "assistant", "Ready", "True/AsSpecified").await?;
    wait_server(&stage, "assistant-7b", "Accepted", "True/Accepted").await?;
    Ok(())
}

/// Two servers and a route, as they settle.
async fn settle(stage: &Stage) -> Result<()> {
    create_picker(&stage.namespace).await?;
    create_pod(&stage.namespace, "blue-0", json!({"app": "blue"})).await?;
    create_server(&stage.namespace, "blue", "blue").await?;
    create_route(&stage.namespace, "llm", "llm", "blue").await?;
    wait_server(stage, "blue", "Ready", "True/AsSpecified").await?;
    answer_route(stage, "llm", None).await?;
    wait_route(stage, "llm", "Ready", "True/AsSpecified").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_settled_is_not_written_again_not_even_by_a_successor() -> Result<()> {
    let stage = Stage::new("attached").await?;
    settle(&stage).await?;
    // Counts settle once more.
    poll::until("the last count", SOON, async || {
        let status = stage.namespace.api::<ModelServer>().get("blue").await.ok()?.status?;
        (status.ready_endpoints == Some(1)).then_some(())
    })
    .await?;
    stage.writes_nothing().await?;
    stage.kill_operator();
    let from = stage.proxy.len();
    stage.start_operator().await?;
    stage.writes_nothing().await?;
    let writes = stage.proxy.writes(from);
    assert!(writes.is_empty(), "{writes:?}");
    // A pod of somebody else concerns nobody.
    create_pod(&stage.namespace, "other-0", json!({"app": "other"})).await?;
    stage.writes_nothing().await
}

#[tokio::test]
async fn an_operator_without_the_controller_leaves_them_alone() -> Result<()> {
    let stage = Stage::without_operator("switched-off").await?;
    let _kubelet = Kubelet::start(&stage.namespace);
    let _operator = stage.operator_options().flag("--controllers", "*,-networking").start().await?;
    create_server(&stage.namespace, "blue", "blue").await?;
    stage.writes_nothing().await?;
    assert!(stage.namespace.api::<InferencePool>().get_opt("blue").await?.is_none());
    Ok(())
}
