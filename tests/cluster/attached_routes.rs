//! ModelRoutes as HTTPRoutes.

use anyhow::Result;
use controller_api::http_route::HttpRoute;
use controller_api::v1alpha1::model_route::ModelRoute;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tests::poll;

use crate::attachment::{
    answer_route, create, create_route, create_server, wait_for, wait_gone, wait_route, wait_server,
};
use crate::stage::{SOON, Stage};

async fn change(stage: &Stage, name: &str, patch: Value) -> Result<()> {
    let api = stage.namespace.api::<ModelRoute>();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[tokio::test]
async fn every_condition_that_is_translated_is_accepted_by_the_api_server() -> Result<()> {
    let stage = Stage::new("conditions").await?;
    let target = json!([{"modelServerName": "blue", "weight": 0}, {"modelServerName": "green", "weight": 100}]);
    let rule = |conditions: Value| json!({"modelMatch": conditions, "targetModels": target});
    let header = |condition: Value| rule(json!({"headers": {"X-Who_1": condition, "x-b": {"exact": "a b"}}}));
    let uri = |condition: Value| rule(json!({"uri": condition}));
    let rules = [
        header(json!({"exact": "ü{}"})),
        header(json!({"prefix": "a.b*c"})),
        header(json!({"regex": "^(?i)a|b$"})),
        uri(json!({"exact": "/v1/completions"})),
        uri(json!({"exact": "/v1//a b?ü"})),
        uri(json!({"prefix": "/v1/chat/"})),
        uri(json!({"prefix": "/v1/emb"})),
        uri(json!({"regex": "[a-z]+$"})),
        json!({"targetModels": target}),
    ];
    let adapters: Vec<String> = (0..10).map(|number| format!("org/adapter {number} é")).collect();
    let spec = json!({
        "modelName": "org/llm:1", "loraAdapters": adapters, "rules": rules,
        "parentRefs": [{"name": "edge", "sectionName": "https"}, {"name": "inner", "namespace": "infra", "port": 80}],
    });
    create::<ModelRoute>(&stage.namespace, "llm", json!({"spec": spec})).await?;
    wait_route(&stage, "llm", "Accepted", "True/PartiallyAccepted").await?;
    let made: HttpRoute = wait_for(&stage, "llm").await?;
    assert_eq!(made.spec.parent_refs.len(), 2);
    assert_eq!(made.spec.rules.len(), 9);
    // 11 names: one HTTPRoute takes 127 matches.
    let second: HttpRoute = wait_for(&stage, "llm-2").await?;
    assert_eq!(second.spec.parent_refs, made.spec.parent_refs);
    stage.writes_nothing().await?;

    let fewer = json!({"spec": {"loraAdapters": [], "rules": [rules[8]]}});
    change(&stage, "llm", fewer).await?;
    wait_gone::<HttpRoute>(&stage, "llm-2").await?;
    wait_route(&stage, "llm", "Accepted", "True/Accepted").await?;
    Ok(())
}

#[tokio::test]
async fn a_route_loses_its_http_route_with_its_parents_and_gets_it_back() -> Result<()> {
    let stage = Stage::new("parents").await?;
    create_route(&stage.namespace, "llm", "llm", "blue").await?;
    wait_for::<HttpRoute>(&stage, "llm").await?;
    let said = wait_route(&stage, "llm", "ResolvedRefs", "False/ModelServerNotFound").await?;
    assert!(said.ends_with(": blue"), "{said}");
    create_server(&stage.namespace, "blue", "blue").await?;
    wait_route(&stage, "llm", "Ready", "False/GatewayPending").await?;
    answer_route(&stage, "llm", None).await?;
    wait_route(&stage, "llm", "Ready", "True/AsSpecified").await?;
    change(&stage, "llm", json!({"spec": {"parentRefs": []}})).await?;
    wait_gone::<HttpRoute>(&stage, "llm").await?;
    wait_route(&stage, "llm", "Accepted", "True/ResolvedByPicker").await?;
    change(&stage, "llm", json!({"spec": {"parentRefs": [{"name": "inner"}]}})).await?;
    let made: HttpRoute = wait_for(&stage, "llm").await?;
    assert_eq!(made.spec.parent_refs[0].name, "inner");
    stage.namespace.api::<ModelRoute>().delete("llm", &DeleteParams::default()).await?;
    wait_gone::<HttpRoute>(&stage, "llm").await
}

#[tokio::test]
async fn of_two_routes_with_one_name_the_older_has_it_as_long_as_it_lives() -> Result<()> {
    let stage = Stage::new("rivals").await?;
    create_route(&stage.namespace, "a-old", "llm", "blue").await?;
    wait_route(&stage, "a-old", "Accepted", "True/Accepted").await?;
    create_route(&stage.namespace, "b-young", "llm", "green").await?;
    let said = wait_route(&stage, "b-young", "Accepted", "False/Conflicted").await?;
    assert!(said.contains("/a-old's"), "{said}");
    assert!(stage.namespace.api::<HttpRoute>().get_opt("b-young").await?.is_none());
    stage.namespace.api::<ModelRoute>().delete("a-old", &DeleteParams::default()).await?;
    wait_route(&stage, "b-young", "Accepted", "True/Accepted").await?;
    wait_for::<HttpRoute>(&stage, "b-young").await?;
    wait_gone::<HttpRoute>(&stage, "a-old").await
}

#[tokio::test]
async fn somebody_elses_http_route_is_a_condition_until_it_goes() -> Result<()> {
    let stage = Stage::new("route-clash").await?;
    let theirs: HttpRoute =
        create(&stage.namespace, "llm", json!({"spec": {"parentRefs": [{"name": "edge"}]}})).await?;
    create_route(&stage.namespace, "llm", "llm", "blue").await?;
    wait_route(&stage, "llm", "Accepted", "False/NameClash").await?;
    stage.writes_nothing().await?;
    let found: HttpRoute = wait_for(&stage, "llm").await?;
    assert_eq!(found.metadata.resource_version, theirs.metadata.resource_version);
    stage.namespace.api::<HttpRoute>().delete("llm", &DeleteParams::default()).await?;
    wait_route(&stage, "llm", "Accepted", "True/Accepted").await?;
    poll::until("an HTTPRoute of the ModelRoute", SOON, async || {
        let found = stage.namespace.api::<HttpRoute>().get_opt("llm").await.ok()??;
        (found.metadata.uid != theirs.metadata.uid).then_some(())
    })
    .await
}

#[tokio::test]
async fn what_the_gateway_says_of_the_http_route_is_the_routes_condition() -> Result<()> {
    let stage = Stage::new("gateways-words").await?;
    create_server(&stage.namespace, "blue", "blue").await?;
    wait_server(&stage, "blue", "EndpointsReady", "False/NoEndpoints").await?;
    create_route(&stage.namespace, "llm", "llm", "blue").await?;
    let said = wait_route(&stage, "llm", "AcceptedByGateways", "False/GatewayPending").await?;
    assert!(said.starts_with("not yet said: edge;"), "{said}");
    stage.writes_nothing().await?;
    answer_route(&stage, "llm", Some("no listener takes it")).await?;
    let said = wait_route(&stage, "llm", "AcceptedByGateways", "False/RefusedByGateway").await?;
    let words = "example.com/gateway says Accepted is False, NotAllowedByListeners: no listener takes it";
    assert!(said.ends_with(words), "{said}");
    wait_route(&stage, "llm", "Stalled", "True/RefusedByGateway").await?;
    // The gateway says the same once more, with another time.
    answer_route(&stage, "llm", Some("no listener takes it")).await?;
    stage.writes_nothing().await?;
    answer_route(&stage, "llm", None).await?;
    wait_route(&stage, "llm", "Ready", "True/AsSpecified").await?;
    // What was said of the route as it was does not count for what it became.
    change(&stage, "llm", json!({"spec": {"loraAdapters": ["sql"]}})).await?;
    wait_route(&stage, "llm", "AcceptedByGateways", "False/GatewayPending").await?;
    answer_route(&stage, "llm", None).await?;
    wait_route(&stage, "llm", "Ready", "True/AsSpecified").await?;
    let warning = poll::until("the event", SOON, async || {
        let events = stage.namespace.api::<Event>().list(&ListParams::default()).await.ok()?.items;
        events.into_iter().find(|event| event.reason.as_deref() == Some("RefusedByGateway"))
    })
    .await?;
    assert_eq!(warning.reporting_controller.as_deref(), Some("networking-controller"));
    stage.writes_nothing().await
}
