use serde_json::{Value, json};

use super::*;
use crate::doctor::checks::tests::{cluster, folder, found, one, pool};

fn route() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "llama", "namespace": "serve", "generation": 2},
        "spec": {
            "parentRefs": [{"name": "edge"}],
            "rules": [{"backendRefs": [
                {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"},
            ]}],
        },
    })
}

fn gateway(namespace: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": namespace}, "spec": {"gatewayClassName": "istio"},
    })
}

fn model_route(server: &str) -> Value {
    json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
        "metadata": {"name": "llama", "namespace": "serve"},
        "spec": {"modelName": "llama", "parentRefs": [{"name": "edge"}], "rules": [
            {"targetModels": [{"modelServerName": server}]},
        ]},
    })
}

fn server() -> Value {
    json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
        "metadata": {"name": "llama", "namespace": "serve"},
        "spec": {"inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": "llama"}}},
    })
}

/// The route with what a gateway says.
fn said(parent: &Value, conditions: &Value) -> Value {
    let mut route = route();
    route["status"] = json!({"parents": [{"parentRef": parent, "controllerName": "", "conditions": conditions}]});
    route
}

#[test]
fn a_gateway_that_is_not_there_is_found_and_one_elsewhere_is_told() {
    let objects = vec![route(), model_route("llama"), gateway("infra")];
    let errors = found(&GATEWAY_MISSING, &cluster(objects));
    let objects: Vec<&str> = errors.iter().map(|error| error.object.as_str()).collect();
    assert_eq!(objects, ["HTTPRoute serve/llama", "ModelRoute serve/llama"]);
    assert!(errors[0].fix.ends_with("infra/edge"), "{}", errors[0].fix);
    assert_eq!(found(&GATEWAY_MISSING, &cluster(vec![route(), gateway("serve")])), []);
}

#[test]
fn nothing_is_said_of_a_namespace_that_was_not_read() {
    let mut elsewhere = route();
    elsewhere["spec"]["parentRefs"] = json!([{"name": "edge", "namespace": "infra"}]);
    let mut facts = cluster(vec![elsewhere]);
    facts.namespace = Some("serve".to_owned());
    assert_eq!(found(&GATEWAY_MISSING, &facts), []);
    facts.all_gateways = true;
    one(&GATEWAY_MISSING, &facts);
}

#[test]
fn a_pool_that_is_not_there_is_found_unless_the_operator_will_make_it() {
    let error = one(&BACKEND_MISSING, &cluster(vec![route(), pool("qwen", "qwen")]));
    assert!(error.problem.contains("serve/llama") && error.fix.ends_with("serve/qwen"), "{error:?}");
    assert_eq!(found(&BACKEND_MISSING, &cluster(vec![route(), pool("llama", "llama")])), []);
    assert_eq!(found(&BACKEND_MISSING, &folder(vec![route(), server()])), []);
    one(&BACKEND_MISSING, &cluster(vec![route(), server()]));
}

#[test]
fn a_model_server_that_is_not_there_is_found() {
    let error = one(&MODEL_SERVER_MISSING, &folder(vec![model_route("lama"), server()]));
    assert!(error.problem.contains("serve/lama") && error.fix.ends_with("serve/llama"), "{error:?}");
    assert_eq!(found(&MODEL_SERVER_MISSING, &folder(vec![model_route("llama"), server()])), []);
}

#[test]
fn a_refusal_is_told_in_the_gateways_words_whatever_group_it_writes() {
    let refusal = json!([
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 2},
        {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no pool", "observedGeneration": 2},
    ]);
    let istio = json!({"group": "networking.istio.io", "kind": "Gateway", "name": "edge", "namespace": "serve"});
    let error = one(&ROUTE_NOT_ACCEPTED, &cluster(vec![said(&istio, &refusal)]));
    assert_eq!(error.problem, "Gateway edge refuses it: ResolvedRefs is False, BackendNotFound: no pool");
}

#[test]
fn what_was_said_of_an_older_route_or_of_another_gateway_does_not_count() {
    let yes = |generation: i64| json!([{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": generation}]);
    let edge = json!({"name": "edge"});
    assert_eq!(found(&ROUTE_NOT_ACCEPTED, &cluster(vec![said(&edge, &yes(2))])), []);
    for silent in [said(&edge, &yes(1)), said(&json!({"name": "inner"}), &yes(2)), route()] {
        let error = one(&ROUTE_NOT_ACCEPTED, &cluster(vec![silent.clone()]));
        assert_eq!(error.problem, "Gateway edge has said nothing of it as it is");
        assert_eq!(found(&ROUTE_NOT_ACCEPTED, &folder(vec![silent])), [], "nobody has read a file");
    }
}

#[test]
fn what_the_operator_cannot_attach_is_told_in_its_words() {
    let mut route = model_route("llama");
    route["status"] = json!({"conditions": [
        {"type": "Stalled", "status": "True", "reason": "NameClash", "message": "somebody's", "lastTransitionTime": "2026-01-02T03:04:05Z"},
    ]});
    let error = one(&ROUTE_NOT_ACCEPTED, &cluster(vec![route]));
    assert_eq!(error.problem, "the operator cannot attach it, NameClash: somebody's");
    assert_eq!(found(&ROUTE_NOT_ACCEPTED, &cluster(vec![model_route("llama")])), []);
}
