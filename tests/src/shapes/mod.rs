//! Envoy as the gateways program it: the same ext_proc, cluster, route and metadata settings, taken
//! from running gateways; only what came over xDS is static here.
//!
//! | shape | file |
//! |---|---|
//! | Envoy Gateway: ext_proc per route, `override_host` by header | [`mod@envoy_gateway`] |
//! | Envoy AI Gateway: ORIGINAL_DST by header, picker over TLS | [`mod@ai_gateway`] |
//! | Istio: filter that skips, overridden per route, `override_host` by metadata | [`mod@istio`] |
//! | ours, `deploy/envoy/standalone.yaml` | [`mod@standalone`] |
//! | any request-body mode, with all that a picker can use | [`mod@plain`] |

pub mod ai_gateway;
pub mod envoy_gateway;
pub mod istio;
pub mod plain;
pub mod standalone;

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::config_dir::NAMESPACE;
use crate::envoy::Envoy;

/// An InferencePool as a gateway sees it.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name; the picker Service is `NAME-epp`, and the virtual host `NAME.example.com`.
    pub name: String,
    /// Its endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// Where the picker listens.
    pub picker: SocketAddr,
}

impl Pool {
    /// The pool `name`.
    #[must_use]
    pub fn new(name: &str, endpoints: &[SocketAddr], picker: SocketAddr) -> Self {
        Self { name: name.to_owned(), endpoints: endpoints.to_vec(), picker }
    }

    /// The picker Service's host name with this suffix, as `llama-epp.default.svc`.
    fn picker_host(&self, suffix: &str) -> String {
        format!("{}-epp.{NAMESPACE}{suffix}", self.name)
    }

    /// The first pool also serves every other host name.
    fn domains(&self, index: usize) -> Vec<String> {
        let own = format!("{}.example.com", self.name);
        if index == 0 { vec![own, "*".to_owned()] } else { vec![own] }
    }
}

/// A configuration for Envoy, still to be varied.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    config: Value,
}

impl GatewayConfig {
    /// One listener `http` with `manager` (an HttpConnectionManager), and clusters.
    fn new(manager: &Value, clusters: Vec<Value>) -> Self {
        let mut manager = manager.clone();
        manager["@type"] =
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
                .into();
        let config = json!({"static_resources": {
            "listeners": [{
                "name": "http",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "per_connection_buffer_limit_bytes": 32768,
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager,
                }]}],
            }],
            "clusters": clusters,
        }});
        Self { config }
    }

    /// The HttpConnectionManager, to be varied.
    pub fn manager(&mut self) -> &mut Value {
        &mut self.config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    }

    /// The listener, to be varied.
    pub fn listener(&mut self) -> &mut Value {
        &mut self.config["static_resources"]["listeners"][0]
    }

    /// All listeners, to be varied.
    ///
    /// # Panics
    /// Never: there are listeners.
    pub fn listeners(&mut self) -> &mut Vec<Value> {
        self.config["static_resources"]["listeners"].as_array_mut().expect("listeners")
    }

    /// The first ext_proc filter's configuration, to be varied.
    ///
    /// # Panics
    /// When there is none.
    pub fn ext_proc(&mut self) -> &mut Value {
        let filters = self.manager()["http_filters"].as_array_mut().expect("filters");
        let ext_proc = filters.iter_mut().map(|filter| &mut filter["typed_config"]);
        let is_ext_proc =
            |config: &&mut Value| config["@type"].as_str().is_some_and(|kind| kind.ends_with(".ExternalProcessor"));
        ext_proc.into_iter().find(is_ext_proc).expect("an ext_proc filter")
    }

    /// The clusters, to be varied.
    ///
    /// # Panics
    /// Never: there are clusters.
    pub fn clusters(&mut self) -> &mut Vec<Value> {
        self.config["static_resources"]["clusters"].as_array_mut().expect("clusters")
    }

    /// Puts an HTTP filter before all others.
    #[must_use]
    pub fn first_filter(mut self, filter: Value) -> Self {
        self.manager()["http_filters"].as_array_mut().expect("filters").insert(0, filter);
        self
    }

    /// Changes anything.
    #[must_use]
    pub fn vary(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Traces every request to the OTLP sink at `sink`, as service `envoy`.
    #[must_use]
    pub fn traces(mut self, sink: SocketAddr) -> Self {
        self.clusters().push(http2(static_cluster("otel", &[sink])));
        self.manager()["tracing"] = json!({
            "random_sampling": {"value": 100},
            "spawn_upstream_span": true,
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "envoy",
                "grpc_service": {"envoy_grpc": {"cluster_name": "otel"}, "timeout": "1s"},
            }},
        });
        self
    }

    /// Writes a JSON access log for [`Envoy::access_log`] with `status`, `details`, `flags`, `host`
    /// and `requestId`.
    #[must_use]
    pub fn access_log(mut self) -> Self {
        self.manager()["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "access.log",
                "log_format": {"json_format": {
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "host": "%UPSTREAM_HOST%",
                    "requestId": "%REQ(X-REQUEST-ID)%",
                }},
            },
        }]);
        self
    }

    /// The configuration as it is.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.config
    }

    /// Starts an Envoy with it.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn start(self) -> Result<Envoy> {
        Envoy::start(self.config).await
    }
}

pub(crate) fn load_assignment(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoint = |endpoint: &SocketAddr| json!({"endpoint": {"address": {"socket_address": {"address": endpoint.ip(), "port_value": endpoint.port()}}}});
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]})
}

fn static_cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": load_assignment(name, endpoints),
    })
}

fn http2(mut cluster: Value) -> Value {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    });
    cluster
}

/// `override_host` with these sources, and the served endpoint under `envoy.lb` where `tell_served`.
fn override_host(sources: &Value, tell_served: bool, fallback: &str) -> Value {
    let message = match fallback {
        "round_robin" => "RoundRobin",
        _ => "LeastRequest",
    };
    let mut policy = json!({
        "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": sources,
        "fallback_policy": {"policies": [{"typed_extension_config": {
            "name": format!("envoy.load_balancing_policies.{fallback}"),
            "typed_config": {
                "@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{fallback}.v3.{message}"),
            },
        }}]},
    });
    if tell_served {
        policy["selected_host_key"] =
            json!({"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint-served"}]});
    }
    json!({"policies": [{"typed_extension_config": {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": policy,
    }}]})
}

fn from_header() -> Value {
    json!({"header": "x-gateway-destination-endpoint"})
}

fn from_metadata() -> Value {
    json!({"metadata": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}})
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    }})
}

fn ext_proc(name: &str, mut config: Value) -> Value {
    config["@type"] = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor".into();
    json!({"name": name, "typed_config": config})
}
