//! Istio 1.31 with InferencePool: one ext_proc filter that skips everything and names no picker, and
//! each route to a pool overrides it; `override_host` by metadata alone.

use serde_json::{Value, json};

use super::{GatewayConfig, Pool, ext_proc, from_metadata, http2, override_host, router, static_cluster};

/// The configuration for `pools`. `fail_open` is the pools' `failureMode`.
#[must_use]
pub fn config(pools: &[Pool], fail_open: bool) -> GatewayConfig {
    let picker_cluster = |pool: &Pool| format!("outbound|9002||{}", pool.picker_host(".svc.cluster.local"));
    let backend_cluster = |pool: &Pool| format!("outbound|54321||{}-ip-fc5a1047.default.svc.cluster.local", pool.name);

    let filter = ext_proc(
        "envoy.filters.http.ext_proc",
        json!({
            "grpc_service": {"envoy_grpc": {"cluster_name": "dummy"}, "timeout": "10s"},
            "failure_mode_allow": true,
            "processing_mode": {"request_header_mode": "SKIP", "response_header_mode": "SKIP"},
            "message_timeout": "1000s",
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["envoy.lb"]},
                "receiving_namespaces": {"untyped": ["envoy.lb"]},
            },
        }),
    );
    let hosts: Vec<Value> = pools
        .iter()
        .enumerate()
        .map(|(index, pool)| {
            json!({"name": format!("{}:8888", pool.name), "domains": pool.domains(index), "include_request_attempt_count": true,
                "routes": [{
                "name": format!("default.{}.0", pool.name),
                "match": {"case_sensitive": true, "path_separated_prefix": "/v1"},
                "route": {
                    "cluster": backend_cluster(pool),
                    "timeout": "0s",
                    "retry_policy": {
                        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                        "num_retries": 2,
                        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                        }}],
                        "host_selection_retry_max_attempts": "5",
                    },
                    "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
                    "max_grpc_timeout": "0s",
                },
                "decorator": {"operation": format!("{}-ip-fc5a1047.default.svc.cluster.local:54321/*", pool.name)},
                "typed_per_filter_config": {"envoy.filters.http.ext_proc": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                    "overrides": {
                        "processing_mode": {
                            "request_header_mode": "SEND",
                            "response_header_mode": "SEND",
                            "request_body_mode": "FULL_DUPLEX_STREAMED",
                            "response_body_mode": "FULL_DUPLEX_STREAMED",
                            "request_trailer_mode": "SEND",
                            "response_trailer_mode": "SEND",
                        },
                        "grpc_service": {"envoy_grpc": {"cluster_name": picker_cluster(pool)}},
                        "failure_mode_allow": fail_open,
                    },
                }},
            }]})
        })
        .collect();
    let manager = json!({
        "stat_prefix": "outbound_0.0.0.0_8888;",
        "route_config": {
            "name": "http.8888", "virtual_hosts": hosts, "validate_clusters": false, "ignore_port_in_host_matching": true,
        },
        "http_filters": [filter, router()],
        "server_name": "istio-envoy",
        "use_remote_address": true,
        "forward_client_cert_details": "SANITIZE_SET",
        "proxy_100_continue": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    });
    let clusters = pools.iter().flat_map(|pool| {
        let common = |mut cluster: Value| {
            cluster["common_lb_config"] = json!({"healthy_panic_threshold": {}});
            cluster["circuit_breakers"] = json!({"thresholds": [{
                "max_connections": u32::MAX, "max_pending_requests": u32::MAX, "max_requests": u32::MAX, "max_retries": u32::MAX,
            }]});
            cluster
        };
        let picker = common(http2(static_cluster(&picker_cluster(pool), &[pool.picker])));
        let mut backend = common(static_cluster(&backend_cluster(pool), &pool.endpoints));
        backend["load_balancing_policy"] = override_host(&json!([from_metadata()]), true, "round_robin");
        [picker, backend]
    });
    GatewayConfig::new(&manager, clusters.collect())
}
