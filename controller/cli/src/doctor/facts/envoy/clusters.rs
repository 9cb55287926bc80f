//! Clusters: whom they believe, and how they are spoken to.

use serde_json::Value;

use super::{items, text, unwrapped};
use crate::doctor::DESTINATION;

/// A set of hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) steering: Steering,
    /// Whether the host that served is written down for the picker.
    pub(crate) tells_served: bool,
    /// Whether it is spoken to over TLS.
    pub(crate) tls: bool,
    /// Whether it is spoken to over HTTP/2.
    pub(crate) http2: bool,
    /// Whether hosts that are known to be down are left alone even if all of them are.
    pub(crate) no_panic: bool,
    /// Whether it comes to be known that a host is down: health checks, or an endpoint discovery.
    pub(crate) watched: bool,
    /// `address:port` of its hosts where the configuration names them.
    pub(crate) hosts: Vec<String>,
}

/// Whose pick a cluster obeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steering {
    /// The request header's.
    pub(crate) header: bool,
    /// That in `envoy.lb` metadata.
    pub(crate) metadata: bool,
}

impl Steering {
    /// Whether it obeys at all.
    pub(crate) fn any(self) -> bool {
        self.header || self.metadata
    }
}

impl Cluster {
    pub(super) fn read(cluster: &Value) -> Self {
        let mut read = Self {
            tls: cluster.get("transport_socket").is_some_and(is_tls),
            http2: speaks_http2(cluster),
            no_panic: cluster.pointer("/common_lb_config/healthy_panic_threshold").is_some_and(is_zero),
            watched: text(cluster, "/type") == "EDS" || items(cluster, "/health_checks").next().is_some(),
            hosts: hosts(cluster),
            ..Self::default()
        };
        let original = cluster.get("original_dst_lb_config");
        if original.and_then(|config| config.get("use_http_header")).and_then(Value::as_bool).unwrap_or(false) {
            let named = original.map(|config| text(config, "/http_header_name")).unwrap_or_default();
            read.steering.header = named.eq_ignore_ascii_case(DESTINATION);
        }
        for policy in items(cluster, "/load_balancing_policy/policies") {
            let Some(config) = policy.pointer("/typed_extension_config/typed_config").map(unwrapped) else { continue };
            if config.kind.ends_with(".OverrideHost") {
                for source in items(config.value, "/override_host_sources") {
                    read.steering.header |= text(source, "/header").eq_ignore_ascii_case(DESTINATION);
                    let key = items(source, "/metadata/path").next().map(|step| text(step, "/key"));
                    read.steering.metadata |= text(source, "/metadata/key") == "envoy.lb" && key == Some(DESTINATION);
                }
                read.tells_served = config.value.get("selected_host_key").is_some();
            }
        }
        read
    }
}

/// A plain socket is written down too.
fn is_tls(socket: &Value) -> bool {
    !text(socket, "/name").ends_with("raw_buffer")
}

/// A `Percent`, whose value is left out where it is 0.
fn is_zero(percent: &Value) -> bool {
    percent.get("value").and_then(Value::as_f64).is_none_or(|value| value <= 0.0)
}

fn speaks_http2(cluster: &Value) -> bool {
    let options = cluster.get("typed_extension_protocol_options").and_then(Value::as_object);
    let any = |pointer: &str| options.into_iter().flat_map(|all| all.values()).any(|it| it.pointer(pointer).is_some());
    cluster.get("http2_protocol_options").is_some()
        || any("/explicit_http_config/http2_protocol_options")
        || any("/auto_config/http2_protocol_options")
        || any("/use_downstream_protocol_config/http2_protocol_options")
}

fn hosts(cluster: &Value) -> Vec<String> {
    let endpoints = items(cluster, "/load_assignment/endpoints").flat_map(|group| items(group, "/lb_endpoints"));
    let sockets = endpoints.filter_map(|endpoint| endpoint.pointer("/endpoint/address/socket_address"));
    let host = |socket: &Value| {
        let port = socket.get("port_value").and_then(Value::as_u64).unwrap_or_default();
        format!("{}:{port}", text(socket, "/address"))
    };
    sockets.map(host).collect()
}
