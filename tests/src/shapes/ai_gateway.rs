//! Envoy AI Gateway 1.0 on Envoy Gateway: an InferencePool is an ORIGINAL_DST cluster that believes
//! the header, and the picker is asked over TLS that is not verified and names no server.

use serde_json::{Value, json};

use super::envoy_gateway::manager;
use super::{GatewayConfig, Pool, ext_proc, http2, router, static_cluster};

/// The annotation `aigateway.envoyproxy.io/processing-body-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// `duplex`, the default.
    Duplex,
    /// `buffered`.
    Buffered,
}

/// The configuration for `pools`. The gateway has the filter on every route, so a listener serves one
/// pool; the tests give each further pool a filter of its own that the other routes disable.
#[must_use]
pub fn config(pools: &[Pool], body: Body) -> GatewayConfig {
    let filter_name =
        |pool: &Pool| format!("envoy.filters.http.ext_proc/endpointpicker/{}_default_ext_proc", pool.name);
    let picker_cluster = |pool: &Pool| format!("envoy.clusters.endpointpicker_{}_default_ext_proc", pool.name);
    let backend_cluster = |pool: &Pool| format!("httproute/default/{}/rule/0", pool.name);

    let mode = match body {
        Body::Duplex => json!({
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "response_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
            "response_trailer_mode": "SEND",
        }),
        Body::Buffered => json!({
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "response_body_mode": "BUFFERED",
        }),
    };
    let filters = pools.iter().map(|pool| {
        ext_proc(
            &filter_name(pool),
            json!({
                "grpc_service": {"envoy_grpc": {
                    "cluster_name": picker_cluster(pool), "authority": pool.picker_host(".svc:9002"),
                }},
                "processing_mode": mode,
                "message_timeout": "300s",
            }),
        )
    });
    let filters: Vec<Value> = filters.chain([router()]).collect();

    let route = |pool: &Pool| {
        let mut per_filter = json!({});
        for other in pools.iter().filter(|other| other.name != pool.name) {
            per_filter[filter_name(other)] = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                "disabled": true,
            });
        }
        let action = json!({
            "cluster": backend_cluster(pool), "auto_host_rewrite": false, "timeout": "669s", "idle_timeout": "3600s",
        });
        (action, per_filter)
    };
    let manager = manager(pools, &filters, route);

    let clusters = pools.iter().flat_map(|pool| {
        let mut picker = http2(static_cluster(&picker_cluster(pool), &[pool.picker]));
        picker["lb_policy"] = "LEAST_REQUEST".into();
        picker["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"validation_context": {}},
        }});
        let backend = json!({
            "name": backend_cluster(pool),
            "type": "ORIGINAL_DST",
            "connect_timeout": "10s",
            "per_connection_buffer_limit_bytes": 32768,
            "lb_policy": "CLUSTER_PROVIDED",
            "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
            "ignore_health_on_host_removal": true,
            "original_dst_lb_config": {"use_http_header": true, "http_header_name": "x-gateway-destination-endpoint"},
        });
        [picker, backend]
    });
    GatewayConfig::new(&manager, clusters.collect())
}
