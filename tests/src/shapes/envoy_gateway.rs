//! Envoy Gateway 1.9: EnvoyExtensionPolicy (a disabled filter, enabled on its routes),
//! BackendTrafficPolicy with `endpointOverride`, ClientTrafficPolicy that removes the header early.

use serde_json::{Value, json};

use super::{GatewayConfig, Pool, ext_proc, from_header, http2, override_host, router, static_cluster};

/// How the EnvoyExtensionPolicy has the body sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// `body: Buffered`, `failOpen: true`.
    Buffered,
    /// `body: FullDuplexStreamed`; the CRD allows it only with `failOpen: false`.
    FullDuplex,
}

/// The configuration for `pools`.
#[must_use]
pub fn config(pools: &[Pool], body: Body) -> GatewayConfig {
    let filter_name =
        |pool: &Pool| format!("envoy.filters.http.ext_proc/envoyextensionpolicy/default/{}-epp/extproc/0", pool.name);
    let picker_cluster = |pool: &Pool| format!("envoyextensionpolicy/default/{}-epp/extproc/0", pool.name);
    let backend_cluster = |pool: &Pool| format!("httproute/default/{}/rule/0", pool.name);

    let filters = pools.iter().map(|pool| {
        let mut filter = ext_proc(
            &filter_name(pool),
            json!({
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": picker_cluster(pool), "authority": pool.picker_host(":9002")},
                    "timeout": "10s",
                },
                "failure_mode_allow": body == Body::Buffered,
                "processing_mode": {
                    "request_header_mode": "SEND",
                    "response_header_mode": "SEND",
                    "request_body_mode": match body { Body::Buffered => "BUFFERED", Body::FullDuplex => "FULL_DUPLEX_STREAMED" },
                    "request_trailer_mode": match body { Body::Buffered => "SKIP", Body::FullDuplex => "SEND" },
                    "response_trailer_mode": "SKIP",
                },
                "request_attributes": ["xds.route_name", "request.id"],
                "message_timeout": "5s",
                "metadata_options": {
                    "forwarding_namespaces": {"untyped": ["envoy.lb"]},
                    "receiving_namespaces": {"untyped": ["envoy.lb"]},
                },
                "status_on_error": {"code": "ServiceUnavailable"},
            }),
        );
        filter["disabled"] = true.into();
        filter
    });
    let filters: Vec<Value> = filters.chain([router()]).collect();

    let route = |pool: &Pool| {
        let mut per_filter = json!({});
        per_filter[filter_name(pool)] =
            json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
        (json!({"cluster": backend_cluster(pool), "timeout": "0s", "idle_timeout": "0s"}), per_filter)
    };
    let mut manager = manager(pools, &filters, route);
    manager["early_header_mutation_extensions"] = json!([{
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove": "x-gateway-destination-endpoint"}],
        },
    }]);

    let clusters = pools.iter().flat_map(|pool| {
        let mut picker = http2(static_cluster(&picker_cluster(pool), &[pool.picker]));
        picker["per_connection_buffer_limit_bytes"] = 32768.into();
        let mut backend = static_cluster(&backend_cluster(pool), &pool.endpoints);
        backend["per_connection_buffer_limit_bytes"] = 32768.into();
        backend["ignore_health_on_host_removal"] = true.into();
        backend["circuit_breakers"] = json!({"thresholds": [{"max_retries": 1024}]});
        backend["load_balancing_policy"] = override_host(&json!([from_header()]), false, "least_request");
        [picker, backend]
    });
    GatewayConfig::new(&manager, clusters.collect())
}

/// The HttpConnectionManager as Envoy Gateway always writes it, also below AI Gateway. `route` gives a
/// pool's route action and its settings of filters.
pub(super) fn manager(pools: &[Pool], filters: &[Value], route: impl Fn(&Pool) -> (Value, Value)) -> Value {
    let host = |(index, pool): (usize, &Pool)| {
        let (mut action, per_filter) = route(pool);
        action["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
        json!({"name": format!("default/eg/http/{}", pool.name), "domains": pool.domains(index), "routes": [{
            "name": format!("httproute/default/{}/rule/0/match/0/*", pool.name),
            "match": {"path_separated_prefix": "/v1"},
            "route": action,
            "typed_per_filter_config": per_filter,
        }]})
    };
    let hosts: Vec<Value> = pools.iter().enumerate().map(host).collect();
    json!({
        "stat_prefix": "http",
        "route_config": {"name": "default/eg/http", "virtual_hosts": hosts, "ignore_port_in_host_matching": true},
        "http_filters": filters,
        "http2_protocol_options": {
            "max_concurrent_streams": 100, "initial_stream_window_size": 65536, "initial_connection_window_size": 1_048_576,
        },
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
    })
}
