//! No gateway in particular: one filter in any request-body mode, and everything that a picker can
//! make use of: served endpoint, subset hint, trailers to the end of the response.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{GatewayConfig, Pool, ext_proc, from_header, from_metadata, http2, override_host, router, static_cluster};

/// `request_body_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Headers only.
    None,
    /// Whole, in one message.
    Buffered,
    /// In pieces, without waiting for the answer to the headers.
    Streamed,
    /// In pieces that the picker sends back.
    FullDuplex,
    /// Headers only, and the picker is asked to switch to full duplex: the fail-open shape.
    Override,
}

impl Body {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Buffered, Self::Streamed, Self::FullDuplex, Self::Override];

    /// Those in which the picker sees the body.
    pub const VISIBLE: [Self; 4] = [Self::Buffered, Self::Streamed, Self::FullDuplex, Self::Override];

    fn mode(self) -> &'static str {
        match self {
            Self::None | Self::Override => "NONE",
            Self::Buffered => "BUFFERED",
            Self::Streamed => "STREAMED",
            Self::FullDuplex => "FULL_DUPLEX_STREAMED",
        }
    }
}

/// The configuration for one pool, whose cluster has its name. Fails closed; retries another endpoint when one cannot be reached.
#[must_use]
pub fn config(pool: &Pool, body: Body) -> GatewayConfig {
    let mut grpc_service =
        json!({"envoy_grpc": {"cluster_name": "picker", "authority": pool.picker_host(".svc:9002")}});
    grpc_service["initial_metadata"] = json!([{"key": "x-kthena-response-trailers", "value": "send"}]);
    if body == Body::Override {
        let hint = json!({"key": "x-kthena-mode-override", "value": "full-duplex"});
        grpc_service["initial_metadata"].as_array_mut().expect("just made").push(hint);
    }
    let filter = ext_proc(
        "envoy.filters.http.ext_proc",
        json!({
            "grpc_service": grpc_service,
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": body.mode(),
                "request_trailer_mode": "SEND",
                "response_header_mode": "SEND",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SEND",
            },
            "allow_mode_override": body == Body::Override,
            "send_body_without_waiting_for_header_response": body == Body::Streamed,
            "message_timeout": "5s",
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
                "receiving_namespaces": {"untyped": ["envoy.lb"]},
            },
        }),
    );
    let manager = json!({
        "stat_prefix": "http",
        "route_config": {"name": "http", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "route": {"cluster": pool.name, "timeout": "0s", "retry_policy": {
                "retry_on": "connect-failure", "num_retries": 2, "retry_host_predicate": [{
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    },
                }],
            }},
        }]}]},
        "http_filters": [filter, router()],
    });
    let mut engines: Value = static_cluster(&pool.name, &pool.endpoints);
    engines["load_balancing_policy"] = override_host(&json!([from_metadata(), from_header()]), true, "round_robin");
    let mut config = GatewayConfig::new(&manager, vec![http2(static_cluster("picker", &[pool.picker])), engines]);
    // BUFFERED answers 413 by itself above this.
    config.listener()["per_connection_buffer_limit_bytes"] = (32 << 20).into();
    config
}

/// `config`, with the step at `step` before everything else: a filter that is asked before the route is chosen, shows
/// the body in this mode, and trusts nobody else with the headers that it sets.
#[must_use]
pub fn name_models_first(config: GatewayConfig, step: SocketAddr, body: Body) -> GatewayConfig {
    let filter = ext_proc(
        "envoy.filters.http.ext_proc/model-name",
        json!({
            "grpc_service": {"envoy_grpc": {"cluster_name": "model-name"}},
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": body.mode(),
                "request_trailer_mode": "SEND",
                "response_header_mode": "SKIP",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SKIP",
            },
            "send_body_without_waiting_for_header_response": body == Body::Streamed,
            "message_timeout": "5s",
        }),
    );
    let cluster = http2(static_cluster("model-name", &[step]));
    config.first_filter(filter).vary(|config| config.clusters().push(cluster))
}

/// `config`, with these routes by header instead of its own: header, its value, cluster. Other requests have no route.
#[must_use]
pub fn route_by_header(config: GatewayConfig, routes: &[(&str, &str, &str)]) -> GatewayConfig {
    let route = |(header, value, cluster): &(&str, &str, &str)| {
        json!({
            "match": {"prefix": "/", "headers": [{"name": header, "string_match": {"exact": value}}]},
            "route": {"cluster": cluster, "timeout": "0s"},
        })
    };
    let routes: Vec<Value> = routes.iter().map(route).collect();
    config.vary(|config| config.manager()["route_config"]["virtual_hosts"][0]["routes"] = routes.into())
}

/// The cluster of one more pool, for a filter that tells the picker the cluster's name.
#[must_use]
pub fn also_pool(config: GatewayConfig, pool: &Pool) -> GatewayConfig {
    let mut engines = static_cluster(&pool.name, &pool.endpoints);
    engines["load_balancing_policy"] = override_host(&json!([from_metadata(), from_header()]), true, "round_robin");
    config.vary(|config| {
        config.clusters().push(engines);
        config.ext_proc()["grpc_service"]["envoy_grpc"] = json!({"cluster_name": "picker"});
        config.ext_proc()["request_attributes"] = json!(["xds.cluster_name"]);
    })
}
