//! A cluster for a pool, and one for a picker.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy};
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::google_grpc::ChannelArgs;
use envoy_types::pb::envoy::config::core::v3::grpc_service::google_grpc::channel_args;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{GoogleGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, GrpcService, Http2ProtocolOptions, KeepaliveSettings, TransportSocket,
    TypedExtensionConfig,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::override_host::v3::OverrideHost;
use envoy_types::pb::envoy::extensions::load_balancing_policies::override_host::v3::override_host::OverrideHostSource;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, UpstreamTlsContext};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment::Segment};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf;
use envoy_types::util::pack_any;
use prost::{Message as _, Name};

use crate::Malformed;
use crate::endpoints::{self, Subject};
use crate::fields::Fields;
use crate::filters::{DESTINATION, SERVED};
use crate::pool::Pool;

/// `Cluster.name`.
pub(crate) const NAME: u32 = 1;
/// `Cluster.load_balancing_policy`.
const POLICY: u32 = 41;
/// `Cluster.typed_extension_protocol_options`.
const PROTOCOL_OPTIONS: u32 = 36;
/// Of `Cluster`: `type`, `cluster_type`, `eds_cluster_config`, `load_assignment`, `lb_policy`.
const DISCOVERY: [u32; 5] = [2, 38, 3, 33, 6];
/// The key of these options.
const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// How long Envoy waits for a picker to take a connection, and for its endpoints at the start.
const CONNECT: Duration = Duration::from_secs(1);
const FIRST_FETCH: Duration = Duration::from_secs(5);

/// The cluster of a pool: what Envoy Gateway made of the rule and its policies, with the pool's endpoints.
pub(crate) fn of_pool(base: &Fields, name: &str, pool: &Pool, server: &str) -> Result<Fields, Malformed> {
    let mut cluster = base.clone();
    cluster.change(NAME, |_| Ok(Some(name.to_owned().into())))?;
    let fallback = base.last(POLICY).map(|policy| LoadBalancingPolicy::decode(policy.clone())).transpose()?;
    let is_plain = |policy: &LoadBalancingPolicy| {
        let names = policy.policies.iter().filter_map(|policy| policy.typed_extension_config.as_ref());
        names.clone().next().is_some() && names.into_iter().all(|policy| !policy.name.ends_with("override_host"))
    };
    let fallback = fallback.filter(is_plain).unwrap_or_else(least_request);
    let policy = if pool.picker.is_some() { override_host(fallback) } else { fallback };
    cluster.remove(&DISCOVERY);
    cluster.remove(&[POLICY]);
    let mut ours = eds(&pool.subject(), server);
    ours.load_balancing_policy = Some(policy);
    if pool.h2c && base.last(PROTOCOL_OPTIONS).is_none() {
        ours.typed_extension_protocol_options = http2(Http2ProtocolOptions::default());
    }
    cluster.merge(&ours)?;
    Ok(cluster)
}

/// The cluster of a picker. Its endpoints say whether they speak TLS.
pub(crate) fn of_picker(picker: &Subject, server: &str) -> Cluster {
    let keepalive = KeepaliveSettings {
        // Finds out about a picker that hangs, or a host that went without a word.
        interval: Some(duration(Duration::from_secs(5))),
        timeout: Some(duration(Duration::from_secs(2))),
        ..KeepaliveSettings::default()
    };
    let tls = UpstreamTlsContext {
        // Nothing is verified: pickers have certificates of their own making.
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["h2".to_owned()],
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    Cluster {
        name: picker.to_string(),
        connect_timeout: Some(duration(CONNECT)),
        // With the default, Envoy asks pickers that it knows are down.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..CommonLbConfig::default()
        }),
        typed_extension_protocol_options: http2(Http2ProtocolOptions {
            connection_keepalive: Some(keepalive),
            ..Http2ProtocolOptions::default()
        }),
        transport_socket_matches: vec![TransportSocketMatch {
            name: "tls".to_owned(),
            r#match: Some(endpoints::tls_match()),
            transport_socket: Some(TransportSocket {
                name: "envoy.transport_sockets.tls".to_owned(),
                config_type: Some(ConfigType::TypedConfig(pack_any(tls))),
            }),
        }],
        ignore_health_on_host_removal: true,
        load_balancing_policy: Some(least_request()),
        ..eds(picker, server)
    }
}

/// Endpoints by EDS, from `server`.
fn eds(subject: &Subject, server: &str) -> Cluster {
    // Its own client, since the cluster of another would have to be in Envoy's bootstrap.
    let client = GoogleGrpc {
        target_uri: server.to_owned(),
        stat_prefix: "kthena_endpoints".to_owned(),
        channel_args: Some(ChannelArgs {
            args: [
                ("grpc.initial_reconnect_backoff_ms", 500),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5000),
            ]
            .map(|(name, value)| {
                let value = Some(channel_args::value::ValueSpecifier::IntValue(value));
                (name.to_owned(), channel_args::Value { value_specifier: value })
            })
            .into(),
        }),
        ..GoogleGrpc::default()
    };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::GoogleGrpc(client)),
            ..GrpcService::default()
        }],
        ..ApiConfigSource::default()
    };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ConfigSource {
                resource_api_version: ApiVersion::V3.into(),
                initial_fetch_timeout: Some(duration(FIRST_FETCH)),
                config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
                ..ConfigSource::default()
            }),
            service_name: subject.to_string(),
        }),
        ..Cluster::default()
    }
}

/// Obeys the picker: the first of its endpoints that is there, the next at a retry, and where there is none of them,
/// `fallback`.
fn override_host(fallback: LoadBalancingPolicy) -> LoadBalancingPolicy {
    let key = |name: &str| MetadataKey {
        key: "envoy.lb".to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(name.to_owned())) }],
    };
    policy(
        "envoy.load_balancing_policies.override_host",
        OverrideHost {
            // Metadata first: no client can set it.
            override_host_sources: vec![
                OverrideHostSource { metadata: Some(key(DESTINATION)), ..OverrideHostSource::default() },
                OverrideHostSource { header: DESTINATION.to_owned(), ..OverrideHostSource::default() },
            ],
            selected_host_key: Some(key(SERVED)),
            fallback_policy: Some(fallback),
        },
    )
}

fn least_request() -> LoadBalancingPolicy {
    policy("envoy.load_balancing_policies.least_request", LeastRequest::default())
}

fn policy(name: &str, config: impl Name) -> LoadBalancingPolicy {
    let config = TypedExtensionConfig { name: name.to_owned(), typed_config: Some(pack_any(config)) };
    LoadBalancingPolicy { policies: vec![Policy { typed_extension_config: Some(config) }] }
}

fn http2(options: Http2ProtocolOptions) -> HashMap<String, protobuf::Any> {
    let explicit = ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(options)) };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HTTP.to_owned(), pack_any(options))])
}

pub(crate) fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
