use serde_json::{Value, json};

use super::*;
use crate::doctor::checks::tests::{folder, found, one, with_envoy};
use crate::doctor::checks::{CHECKS, Severity};

const EXT_PROC: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const OVERRIDE: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost";

fn filter(name: &str) -> Value {
    json!({"name": name, "typed_config": {
        "@type": EXT_PROC,
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker", "authority": format!("{name}.serve.svc:9002")}},
        "processing_mode": {
            "request_body_mode": "BUFFERED", "response_header_mode": "SEND", "response_trailer_mode": "SEND",
        },
        "message_timeout": "5s",
        "metadata_options": {
            "forwarding_namespaces": {"untyped": ["envoy.lb"]}, "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
    }})
}

/// An Envoy with nothing to find, then changed.
fn facts(change: impl FnOnce(&mut Value)) -> Facts {
    let sources = json!([{"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}}]);
    let mut bootstrap = json!({"static_resources": {
        "listeners": [{"name": "http", "filter_chains": [{"filters": [{"name": "manager", "typed_config": {
            "@type": MANAGER,
            "http_filters": [filter("llama-epp")],
            "route_config": {"name": "all", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"name": "llama", "match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}},
            ]}]},
        }}]}]}],
        "clusters": [
            {"name": "picker", "type": "STRICT_DNS", "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            }},
            {"name": "engines", "type": "EDS", "load_balancing_policy": {"policies": [{"typed_extension_config": {
                "typed_config": {
                    "@type": OVERRIDE, "override_host_sources": sources,
                    "selected_host_key": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint-served"}]},
                },
            }}]}},
        ],
    }});
    change(&mut bootstrap);
    with_envoy(folder(vec![]), bootstrap)
}

fn manager(bootstrap: &mut Value) -> &mut Value {
    &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
}

fn ext_proc(bootstrap: &mut Value) -> &mut Value {
    &mut manager(bootstrap)["http_filters"][0]["typed_config"]
}

fn the_route(bootstrap: &mut Value) -> &mut Value {
    &mut manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"][0]
}

fn by_header(bootstrap: &mut Value) {
    bootstrap["static_resources"]["clusters"][1]["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
        ["override_host_sources"] = json!([{"header": DESTINATION}]);
}

#[test]
fn an_envoy_that_is_right_is_met_with_silence() {
    for change in [(|_| {}) as fn(&mut Value), by_header] {
        let facts = facts(change);
        for check in CHECKS.iter().filter(|check| check.needs.iter().any(|any_of| any_of.contains(&Source::Envoy))) {
            assert_eq!(found(check, &facts), [], "{}", check.id);
        }
    }
}

#[test]
fn a_body_that_is_not_shown_is_found_unless_the_picker_may_ask_for_it() {
    let hidden = |bootstrap: &mut Value| {
        ext_proc(bootstrap)["processing_mode"]["request_body_mode"] = "NONE".into();
    };
    let error = one(&BODY_HIDDEN, &facts(hidden));
    assert_eq!((error.severity, error.object.as_str()), (Severity::Error, "Envoy listener http, filter llama-epp"));
    let on_demand = |allowed: bool| {
        facts(|bootstrap| {
            hidden(bootstrap);
            ext_proc(bootstrap)["allow_mode_override"] = allowed.into();
            ext_proc(bootstrap)["grpc_service"]["initial_metadata"] =
                json!([{"key": "x-kthena-mode-override", "value": "full-duplex"}]);
        })
    };
    assert_eq!(found(&BODY_HIDDEN, &on_demand(true)), []);
    assert_eq!(one(&BODY_HIDDEN, &on_demand(false)).manifest, Some(json!({"allow_mode_override": true})));
}

#[test]
fn envoys_own_message_timeout_is_too_short_where_there_is_a_timer() {
    let unset = |bootstrap: &mut Value| {
        ext_proc(bootstrap).as_object_mut().expect("a filter").remove("message_timeout");
    };
    assert!(one(&MESSAGE_TIMEOUT_SHORT, &facts(unset)).problem.contains("0.2 s"));
    let duplex = facts(|bootstrap| {
        unset(bootstrap);
        ext_proc(bootstrap)["processing_mode"]["request_body_mode"] = "FULL_DUPLEX_STREAMED".into();
    });
    assert_eq!(found(&MESSAGE_TIMEOUT_SHORT, &duplex), []);
}

#[test]
fn a_picker_that_calls_prefill_engines_needs_more_time() {
    let mut pairs = facts(|_| {});
    pairs.add(json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer", "metadata": {"name": "llama"},
        "spec": {"inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": "llama"}, "pdGroup": {
            "groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"},
        }}},
    }));
    assert_eq!(one(&MESSAGE_TIMEOUT_SHORT, &pairs).severity, Severity::Warning);
    let longer = facts(|bootstrap| ext_proc(bootstrap)["max_message_timeout"] = "21s".into());
    pairs.envoy = longer.envoy;
    assert_eq!(found(&MESSAGE_TIMEOUT_SHORT, &pairs), []);
}

#[test]
fn metadata_that_is_dropped_is_found_where_nothing_else_is_obeyed() {
    let dropped = |bootstrap: &mut Value| {
        ext_proc(bootstrap)["metadata_options"].as_object_mut().expect("options").remove("receiving_namespaces");
    };
    one(&METADATA_NOT_RECEIVED, &facts(dropped));
    let header = facts(|bootstrap| {
        dropped(bootstrap);
        by_header(bootstrap);
    });
    assert_eq!(found(&METADATA_NOT_RECEIVED, &header), []);
}

#[test]
fn a_picker_that_is_not_told_who_served_is_found() {
    let deaf = facts(|bootstrap| ext_proc(bootstrap)["processing_mode"]["response_header_mode"] = "SKIP".into());
    assert_eq!(one(&SERVED_ENDPOINT_LOST, &deaf).severity, Severity::Warning);
}

#[test]
fn a_header_that_clients_may_send_is_found_where_the_picker_may_be_missing() {
    let open = |bootstrap: &mut Value| {
        by_header(bootstrap);
        ext_proc(bootstrap)["failure_mode_allow"] = true.into();
    };
    let error = one(&STEERING_HEADER_KEPT, &facts(open));
    let removed = error.manifest.expect("a part of the configuration");
    let mended = facts(|bootstrap| {
        open(bootstrap);
        manager(bootstrap)["early_header_mutation_extensions"] = removed["early_header_mutation_extensions"].clone();
    });
    assert_eq!(found(&STEERING_HEADER_KEPT, &mended), []);
    // Metadata no client can send.
    let metadata = facts(|bootstrap| ext_proc(bootstrap)["failure_mode_allow"] = true.into());
    assert_eq!(found(&STEERING_HEADER_KEPT, &metadata), []);
}

#[test]
fn a_route_on_which_the_filter_is_off_is_found() {
    let off = facts(|bootstrap| {
        let per_route = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
        the_route(bootstrap)["typed_per_filter_config"] = json!({"llama-epp": {"@type": per_route, "disabled": true}});
    });
    assert_eq!(one(&PICKER_NOT_ASKED, &off).object, "Envoy listener http, route llama");
}

#[test]
fn a_cluster_that_does_not_obey_is_found_and_mended_by_what_is_printed() {
    let deaf = |bootstrap: &mut Value| {
        bootstrap["static_resources"]["clusters"][1]
            .as_object_mut()
            .expect("a cluster")
            .remove("load_balancing_policy");
    };
    let error = one(&PICK_IGNORED, &facts(deaf));
    assert_eq!(error.object, "Envoy cluster engines");
    let policy = error.manifest.expect("a policy");
    let mended = facts(|bootstrap| {
        bootstrap["static_resources"]["clusters"][1]["load_balancing_policy"] = policy["load_balancing_policy"].clone();
    });
    assert_eq!(found(&PICK_IGNORED, &mended), []);
}

#[test]
fn a_picker_that_is_called_over_http1_is_found() {
    let plain = facts(|bootstrap| {
        bootstrap["static_resources"]["clusters"][0] = json!({"name": "picker", "type": "STRICT_DNS"});
    });
    assert_eq!(one(&PICKER_NOT_HTTP2, &plain).object, "Envoy cluster picker");
}

#[test]
fn two_filters_that_ask_one_picker_are_found_and_a_step_before_the_route_is_none() {
    let both = |second: Value| {
        facts(|bootstrap| {
            let filters = manager(bootstrap)["http_filters"].as_array_mut().expect("filters");
            filters.insert(0, second);
        })
    };
    assert!(one(&TWO_FILTERS_ONE_POOL, &both(filter("qwen-epp"))).problem.contains("by qwen-epp and by llama-epp"));
    let mut step = filter("model-name");
    step["typed_config"]["grpc_service"]["envoy_grpc"] = json!({"cluster_name": "model-name"});
    step["typed_config"].as_object_mut().expect("a filter").remove("metadata_options");
    assert_eq!(found(&TWO_FILTERS_ONE_POOL, &both(step)), []);
}

#[test]
fn failing_open_is_in_vain_in_full_duplex_unless_envoy_knows_that_the_picker_is_down() {
    let open = |bootstrap: &mut Value| {
        ext_proc(bootstrap)["failure_mode_allow"] = true.into();
        ext_proc(bootstrap)["processing_mode"]["request_body_mode"] = "FULL_DUPLEX_STREAMED".into();
    };
    let warning = one(&FAIL_OPEN_IN_VAIN, &facts(open));
    assert_eq!(warning.severity, Severity::Warning);
    let known = facts(|bootstrap| {
        open(bootstrap);
        let picker = &mut bootstrap["static_resources"]["clusters"][0];
        for (field, value) in warning.manifest.as_ref().and_then(Value::as_object).expect("parts of a cluster") {
            picker[field] = value.clone();
        }
    });
    assert_eq!(found(&FAIL_OPEN_IN_VAIN, &known), []);
}

#[test]
fn a_time_limit_that_cuts_answers_is_found() {
    let unset = facts(|bootstrap| {
        the_route(bootstrap)["route"].as_object_mut().expect("a route").remove("timeout");
    });
    assert!(one(&ANSWER_CUT, &unset).problem.contains("15 s"));
    assert_eq!(found(&ANSWER_CUT, &facts(|bootstrap| the_route(bootstrap)["route"]["timeout"] = "900s".into())), []);
}
