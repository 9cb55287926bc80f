//! One Envoy with a listener for each picker and body mode, all in front of the same endpoints.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// How Envoy shows the request's body to the picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Buffered,
    FullDuplex,
}

impl Mode {
    /// As Envoy's configuration spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Buffered => "BUFFERED",
            Self::FullDuplex => "FULL_DUPLEX_STREAMED",
        }
    }
}

/// The name of the listener through which `picker` is asked in `mode`.
pub(crate) fn listener_name(picker: &str, mode: Mode) -> String {
    format!("{picker}-{}", mode.name())
}

/// Envoy's configuration; `pickers` by name.
pub(crate) fn config(pickers: &[(&str, SocketAddr)], modes: &[Mode], endpoints: &[SocketAddr]) -> Value {
    let listeners: Vec<Value> =
        pickers.iter().flat_map(|(picker, _)| modes.iter().map(|mode| listener(picker, *mode))).collect();
    let clusters: Vec<Value> = pickers
        .iter()
        .map(|(name, address)| picker_cluster(name, *address))
        .chain([engine_cluster(endpoints)])
        .collect();
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn listener(picker: &str, mode: Mode) -> Value {
    let ext_proc = json!({
        "name": "picker",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": picker},
                // Tells our picker of `response_trailer_mode` below.
                "initial_metadata": [{"key": "x-kthena-response-trailers", "value": "send"}],
            },
            "message_timeout": "10s",
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": mode.name(),
                // FULL_DUPLEX_STREAMED demands the first; by the second the stream lives as long as the request.
                "request_trailer_mode": "SEND",
                "response_trailer_mode": "SEND",
                "response_header_mode": "SKIP",
            },
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["envoy.lb"]},
                "receiving_namespaces": {"untyped": ["envoy.lb"]},
            },
        },
    });
    let router = json!({
        "name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    json!({
        "name": listener_name(picker, mode),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "http",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "bench",
                "codec_type": "HTTP1",
                "http_filters": [ext_proc, router],
                "route_config": {"virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engines"}}],
                }]},
            },
        }]}],
    })
}

fn picker_cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": assignment(name, &[address]),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    })
}

fn engine_cluster(endpoints: &[SocketAddr]) -> Value {
    json!({
        "name": "engines",
        "type": "STATIC",
        "load_assignment": assignment("engines", endpoints),
        "load_balancing_policy": {"policies": [{"typed_extension_config": {
            "name": "picked",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
                "override_host_sources": [{"header": "x-gateway-destination-endpoint"}],
                "fallback_policy": {"policies": [{"typed_extension_config": {
                    "name": "in-turn",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                    },
                }}]},
            },
        }}]},
    })
}

fn assignment(cluster: &str, addresses: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| {
            let address = json!({"address": address.ip(), "port_value": address.port()});
            json!({"endpoint": {"address": {"socket_address": address}}})
        })
        .collect();
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]})
}
