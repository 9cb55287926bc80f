use serde_json::{Value, json};

use super::*;
use crate::doctor::checks::envoy::{BODY_HIDDEN, MESSAGE_TIMEOUT_SHORT, PICK_IGNORED, STEERING_HEADER_KEPT};
use crate::doctor::checks::tests::{folder, found, one, pool};

fn route() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "llama", "namespace": "serve"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "llama-pods", "port": 8000}]}]},
    })
}

fn asks(change: impl FnOnce(&mut Value)) -> Value {
    let mut policy = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyExtensionPolicy",
        "metadata": {"name": "llama-epp", "namespace": "serve"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llama"}],
            "extProc": [{
                "backendRefs": [{"name": "llama-epp", "port": 9002}],
                "messageTimeout": "30s",
                "processingMode": {"request": {"body": "Buffered"}},
            }],
        },
    });
    change(&mut policy["spec"]["extProc"][0]);
    policy
}

fn facts(change: impl FnOnce(&mut Value), others: Vec<Value>) -> Facts {
    let mut objects = vec![pool("llama", "llama"), route(), asks(change)];
    objects.extend(others);
    folder(objects)
}

fn obeys() -> Value {
    let facts = facts(|_| {}, vec![]);
    one(&PICK_IGNORED, &facts).manifest.expect("a manifest")
}

#[test]
fn a_policy_that_hides_the_body_or_does_not_wait_is_found() {
    let hidden = facts(|ask| ask["processingMode"] = json!({"request": {}}), vec![]);
    assert_eq!(one(&BODY_HIDDEN, &hidden).object, "EnvoyExtensionPolicy serve/llama-epp");
    let unset = facts(|ask| drop(ask.as_object_mut().expect("an extProc").remove("messageTimeout")), vec![]);
    assert!(one(&MESSAGE_TIMEOUT_SHORT, &unset).problem.contains("200ms"));
    one(&MESSAGE_TIMEOUT_SHORT, &facts(|ask| ask["messageTimeout"] = "500ms".into(), vec![]));
    let right = facts(|_| {}, vec![]);
    assert_eq!(found(&BODY_HIDDEN, &right), []);
    assert_eq!(found(&MESSAGE_TIMEOUT_SHORT, &right), []);
}

#[test]
fn a_route_that_asks_and_does_not_obey_is_mended_by_the_policy_that_is_printed() {
    let policy = obeys();
    assert_eq!(policy["kind"], "BackendTrafficPolicy");
    assert_eq!(found(&PICK_IGNORED, &facts(|_| {}, vec![policy.clone()])), []);
    let mut whole = policy;
    whole["spec"]["targetRefs"] = json!([{"kind": "Gateway", "name": "edge"}]);
    assert_eq!(found(&PICK_IGNORED, &facts(|_| {}, vec![whole])), []);
}

#[test]
fn a_route_that_fails_open_is_protected_by_the_policy_that_is_printed() {
    let open = |ask: &mut Value| ask["failOpen"] = true.into();
    let policy = one(&STEERING_HEADER_KEPT, &facts(open, vec![obeys()])).manifest.expect("a manifest");
    assert_eq!(policy["spec"]["targetRefs"][0]["kind"], "Gateway");
    assert_eq!(found(&STEERING_HEADER_KEPT, &facts(open, vec![obeys(), policy])), []);
    assert_eq!(found(&STEERING_HEADER_KEPT, &facts(|_| {}, vec![obeys()])), []);
}

#[test]
fn another_processor_is_of_no_concern() {
    let step = |ask: &mut Value| *ask = json!({"backendRefs": [{"name": "llama-epp", "port": 9004}]});
    for check in [&BODY_HIDDEN, &MESSAGE_TIMEOUT_SHORT, &PICK_IGNORED, &STEERING_HEADER_KEPT] {
        assert_eq!(found(check, &facts(step, vec![])), [], "{}", check.id);
    }
}
