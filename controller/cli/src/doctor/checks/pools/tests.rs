use serde_json::json;

use super::*;
use crate::doctor::checks::Severity;
use crate::doctor::checks::tests::{cluster, folder, found, one, pod, pool};

fn pairs() -> Value {
    json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
        "metadata": {"name": "llama", "namespace": "serve"},
        "spec": {
            "inferenceEngine": "vLLM", "workloadPort": {"port": 8000},
            "workloadSelector": {"matchLabels": {"app": "llama"}, "pdGroup": {
                "groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"},
            }},
        },
    })
}

fn deployment(app: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "engines", "namespace": "serve"},
        "spec": {"template": {"metadata": {"labels": {"app": app}}, "spec": {"containers": []}}},
    })
}

#[test]
fn a_selector_with_a_typing_error_is_told_what_pods_have() {
    let facts = cluster(vec![pool("llama", "lama"), pod("llama-0", &json!({"app": "llama"}), true)]);
    let error = one(&SELECTOR_MATCHES_NOTHING, &facts);
    assert_eq!((error.severity, error.object.as_str()), (Severity::Error, "InferencePool serve/llama"));
    assert_eq!(error.problem, "no pod in namespace serve has the labels app=lama");
    assert!(error.fix.ends_with("there are pods with app=llama"), "{}", error.fix);
    let right = cluster(vec![pool("llama", "llama"), pod("llama-0", &json!({"app": "llama"}), true)]);
    assert_eq!(found(&SELECTOR_MATCHES_NOTHING, &right), []);
}

#[test]
fn pods_of_another_namespace_are_not_selected() {
    let mut there = pod("llama-0", &json!({"app": "llama"}), true);
    there["metadata"]["namespace"] = "engines".into();
    let error = one(&SELECTOR_MATCHES_NOTHING, &cluster(vec![pool("llama", "llama"), there]));
    assert!(error.fix.contains("such pods are in namespace engines"), "{}", error.fix);
}

#[test]
fn a_workload_without_pods_is_a_warning_in_a_cluster_and_enough_in_a_folder() {
    let objects = vec![pool("llama", "llama"), deployment("llama")];
    let warning = one(&SELECTOR_MATCHES_NOTHING, &cluster(objects.clone()));
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.fix.contains("Deployment serve/engines"), "{}", warning.fix);
    assert_eq!(found(&SELECTOR_MATCHES_NOTHING, &folder(objects)), []);
    let part = one(&SELECTOR_MATCHES_NOTHING, &folder(vec![pool("llama", "llama"), deployment("qwen")]));
    assert_eq!(part.severity, Severity::Warning, "the engines may be in another folder");
}

#[test]
fn a_folder_with_a_picker_and_no_engine_is_not_checked_for_engines() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama-epp", "namespace": "serve"},
        "spec": {"selector": {"app": "picker"}, "ports": [{"port": 9002}]},
    });
    let facts = folder(vec![pool("llama", "llama"), service.clone(), deployment("picker")]);
    assert_eq!(facts.lacks(&[Source::Engines]).as_deref(), Some("no Pod or workload of an engine was given"));
    let facts = folder(vec![pool("llama", "llama"), service, deployment("picker"), deployment("llama")]);
    assert_eq!(facts.lacks(&[Source::Engines]), None);
}

#[test]
fn a_pool_that_selects_prefill_pods_gets_the_labels_of_decode_pods() {
    let pods = ["prefill", "decode"].map(|role| pod(role, &json!({"app": "llama", "role": role}), true));
    let mut objects = vec![pool("llama", "llama"), pairs()];
    objects.extend(pods);
    let error = one(&SELECTOR_MATCHES_PREFILL, &folder(objects.clone()));
    assert!(error.problem.ends_with("Pod serve/prefill"), "{}", error.problem);
    let right = error.manifest.expect("a manifest");
    assert_eq!(right["spec"]["selector"]["matchLabels"], json!({"app": "llama", "role": "decode"}));
    assert_eq!(right["spec"]["endpointPickerRef"]["name"], "llama-epp");
    objects[0] = right;
    assert_eq!(found(&SELECTOR_MATCHES_PREFILL, &folder(objects)), []);
}

#[test]
fn a_port_that_no_pod_declares_is_found_in_pools_and_in_model_servers() {
    let mut wrong = pool("llama", "llama");
    wrong["spec"]["targetPorts"] = json!([{"number": 80}]);
    let mut server = pairs();
    server["spec"]["workloadPort"]["port"] = 80.into();
    let labels = json!({"app": "llama", "role": "decode"});
    let facts = folder(vec![wrong, server, pod("llama-0", &labels, true)]);
    let errors = found(&PORT_NOT_SERVED, &facts);
    let objects: Vec<&str> = errors.iter().map(|error| error.object.as_str()).collect();
    assert_eq!(objects, ["InferencePool serve/llama", "ModelServer serve/llama"]);
    assert_eq!(errors[0].manifest.as_ref().expect("a manifest")["spec"]["targetPorts"], json!([{"number": 8000}]));
    // Of ranks only the first port may be declared.
    let mut ranks = pool("llama", "llama");
    ranks["spec"]["targetPorts"] = json!([{"number": 8000}, {"number": 8001}]);
    let mut undeclared = pod("llama-0", &labels, true);
    undeclared["spec"]["containers"] = json!([{"name": "engine"}]);
    assert_eq!(found(&PORT_NOT_SERVED, &folder(vec![ranks, pod("a", &json!({"app": "llama"}), true)])), []);
    assert_eq!(found(&PORT_NOT_SERVED, &folder(vec![pool("llama", "llama"), undeclared])), []);
}

#[test]
fn a_pool_of_which_no_pod_is_ready_is_found() {
    let pods = |ready| pod("llama-0", &json!({"app": "llama"}), ready);
    let error = one(&NO_ENDPOINT_READY, &cluster(vec![pool("llama", "llama"), pods(false)]));
    assert!(error.problem.contains("serve/llama-0"), "{}", error.problem);
    assert_eq!(found(&NO_ENDPOINT_READY, &cluster(vec![pool("llama", "llama"), pods(true)])), []);
}

#[test]
fn what_a_gateway_refuses_is_told_in_its_words_whatever_it_calls_itself() {
    let mut refused = pool("llama", "llama");
    // As Istio writes it: without a controller, and with its own group.
    refused["status"] = json!({"parents": [{
        "parentRef": {"group": "networking.istio.io", "kind": "Gateway", "name": "edge"},
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"},
            {"type": "ResolvedRefs", "status": "False", "reason": "InvalidExtensionRef", "message": "no Service llama-epp",
             "lastTransitionTime": "2026-01-02T03:04:05Z"},
        ],
    }]});
    let error = one(&POOL_NOT_ACCEPTED, &cluster(vec![refused]));
    assert_eq!(error.problem, "Gateway edge says ResolvedRefs is False, InvalidExtensionRef: no Service llama-epp");
    assert!(error.fix.contains("endpointPickerRef"), "{}", error.fix);
    assert_eq!(
        found(&POOL_NOT_ACCEPTED, &cluster(vec![pool("llama", "llama")])),
        [],
        "not every gateway speaks of pools"
    );
}
