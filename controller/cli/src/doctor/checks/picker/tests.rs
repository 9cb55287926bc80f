use serde_json::json;

use super::*;
use crate::doctor::checks::tests::{cluster, folder, found, one, pod, pool, with_envoy, with_picker};

fn service(protocol: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "llama-epp", "namespace": "serve"},
        "spec": {
            "selector": {"app": "picker"},
            "ports": [{"name": "grpc", "port": 9002, "targetPort": 9002, "appProtocol": protocol}],
        },
    })
}

fn h2c() -> Value {
    service("kubernetes.io/h2c")
}

fn slice(ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "llama-epp-x", "namespace": "serve", "labels": {SERVICE_NAME: "llama-epp"}},
        "endpoints": [{"addresses": ["10.0.0.9"], "conditions": {"ready": ready}}],
    })
}

fn picker_pod(arguments: &Value) -> Value {
    let mut pod = pod("picker-0", &json!({"app": "picker"}), true);
    pod["spec"]["containers"] = json!([{"name": "picker", "args": arguments}]);
    pod
}

fn fleet(known: bool, pools: &[&str]) -> Value {
    let pools: Vec<Value> = pools.iter().map(|name| json!({"name": name, "endpoints": 1, "ready": 1})).collect();
    json!({"endpoints": [], "pools": pools, "generation": 1, "known": known})
}

#[test]
fn a_pool_without_a_picker_is_a_warning() {
    let mut plain = pool("llama", "llama");
    plain["spec"].as_object_mut().expect("a spec").remove("endpointPickerRef");
    one(&PICKER_NOT_NAMED, &folder(vec![plain]));
    assert_eq!(found(&PICKER_NOT_NAMED, &folder(vec![pool("llama", "llama")])), []);
}

#[test]
fn a_missing_service_is_made_like_another_pools() {
    let error = one(&PICKER_SERVICE_MISSING, &folder(vec![pool("llama", "llama"), pool("qwen", "qwen"), h2c()]));
    assert_eq!(error.object, "InferencePool serve/qwen");
    let made = error.manifest.expect("a manifest");
    assert_eq!(made["metadata"], json!({"name": "qwen-epp", "namespace": "serve"}));
    assert_eq!(made["spec"]["selector"], json!({"app": "picker"}));
    let mended = folder(vec![pool("llama", "llama"), pool("qwen", "qwen"), h2c(), made]);
    assert_eq!(found(&PICKER_SERVICE_MISSING, &mended), []);
}

#[test]
fn a_port_that_the_service_does_not_have_is_found() {
    let mut other = pool("llama", "llama");
    other["spec"]["endpointPickerRef"]["port"]["number"] = 9003.into();
    let error = one(&PICKER_SERVICE_MISSING, &folder(vec![other, h2c()]));
    assert!(error.problem.contains("port 9003") && error.fix.ends_with("9002"), "{error:?}");
}

#[test]
fn a_service_behind_which_nobody_is_ready_is_found() {
    let objects = |ready| vec![pool("llama", "llama"), h2c(), slice(ready)];
    assert!(one(&PICKER_NOT_READY, &cluster(objects(false))).problem.contains("no ready endpoint"));
    assert_eq!(found(&PICKER_NOT_READY, &cluster(objects(true))), []);
    one(&PICKER_NOT_READY, &cluster(vec![pool("llama", "llama"), h2c()]));
    // A folder has no slices; its pods may say it.
    let waiting = folder(vec![pool("llama", "llama"), h2c(), pod("picker-0", &json!({"app": "picker"}), false)]);
    assert!(one(&PICKER_NOT_READY, &waiting).problem.contains("serve/picker-0"));
}

#[test]
fn a_picker_that_has_seen_nothing_is_not_ready() {
    let error = one(&PICKER_NOT_READY, &with_picker(folder(vec![]), fleet(false, &[]), json!({}), &json!({})));
    assert_eq!(error.object, "picker at 127.0.0.1:15000");
    assert_eq!(found(&PICKER_NOT_READY, &with_picker(folder(vec![]), fleet(true, &[]), json!({}), &json!({}))), []);
}

#[test]
fn what_a_picker_refuses_is_told_in_its_words() {
    let status = json!({"lastError": "pools.yaml: line 3: spec.targetPorts: unknown field"});
    let facts = with_picker(folder(vec![]), fleet(true, &[]), status, &json!({"modelservers": null}));
    assert!(one(&CONFIGURATION_REFUSED, &facts).problem.starts_with("pools.yaml: line 3"));
    let facts = with_picker(folder(vec![]), fleet(true, &[]), json!({"lastError": null}), &json!({}));
    assert_eq!(found(&CONFIGURATION_REFUSED, &facts), []);
}

#[test]
fn a_pool_that_a_picker_of_many_does_not_know_is_found() {
    let with =
        |pools: &[&str]| with_picker(cluster(vec![pool("llama", "llama")]), fleet(true, pools), json!({}), &json!({}));
    one(&POOL_NOT_SERVED, &with(&["serve/qwen", "serve/phi"]));
    assert_eq!(found(&POOL_NOT_SERVED, &with(&["serve/qwen", "serve/llama"])), []);
    // It was told to serve one.
    assert_eq!(found(&POOL_NOT_SERVED, &with(&["serve/qwen"])), []);
}

#[test]
fn plain_text_to_a_picker_that_demands_tls_is_found_and_the_other_way_round() {
    let objects = |protocol, mode| {
        folder(vec![pool("llama", "llama"), service(protocol), picker_pod(&json!(["--pool-name=llama", mode]))])
    };
    let error = one(&TLS_MISMATCH, &objects("kubernetes.io/h2c", "--tls=required"));
    assert!(error.problem.contains("plain text") && error.problem.contains("Pod serve/picker-0"), "{}", error.problem);
    assert!(one(&TLS_MISMATCH, &objects("https", "--tls=off")).problem.contains("speaks TLS"));
    for (protocol, mode) in
        [("kubernetes.io/h2c", "--tls=auto"), ("https", "--tls=required"), ("kubernetes.io/h2c", "--tls=off")]
    {
        assert_eq!(found(&TLS_MISMATCH, &objects(protocol, mode)), [], "{protocol} {mode}");
    }
}

#[test]
fn an_envoy_that_speaks_tls_to_a_picker_that_does_not_is_found() {
    let cluster = json!({
        "name": "picker", "type": "STRICT_DNS",
        "transport_socket": {"name": "envoy.transport_sockets.tls"},
        "load_assignment": {"endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "llama-epp.serve.svc", "port_value": 9002}}}},
        ]}]},
    });
    let objects = vec![pool("llama", "llama"), h2c(), picker_pod(&json!(["--tls", "off"]))];
    let facts = with_envoy(folder(objects), json!({"static_resources": {"clusters": [cluster]}}));
    assert!(one(&TLS_MISMATCH, &facts).problem.starts_with("Envoy's cluster picker speaks TLS"));
}
