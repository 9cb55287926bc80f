//! The `ext_proc` filter of a pool, and what removes the headers of clients that steer.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::common::mutation_rules::v3 as mutation;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{GrpcService, HeaderValue, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::metadata_options::MetadataNamespaces;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{BodySendMode, HeaderSendMode};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{
    ExternalProcessor, MetadataOptions, ProcessingMode,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;

use crate::clusters::duration;
use crate::pool::{Body, Pool};

/// The endpoint chosen: a request header, and a key of `envoy.lb` metadata (endpoint-picker protocol 1.0).
pub(crate) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The endpoint that served: a key of `envoy.lb` metadata.
pub(crate) const SERVED: &str = "x-gateway-destination-endpoint-served";

/// What only pickers may write.
const STEERING: [&str; 8] = [
    DESTINATION,
    "x-gateway-destination-endpoint-subset",
    SERVED,
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-data-parallel-rank",
    "x-kv-cache-source-host-port",
];

/// Until a picker that was shown the whole body, or whose metadata asks for it, has to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Until one that is shown the headers alone has to ask for the body.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// What either may ask for instead, where a prefill is part of its answer.
const LONGEST: Duration = Duration::from_secs(31);

/// The filter; off, but where a route switches it on. `None` is a pool without a picker.
pub(crate) fn of_pool(pool: &Pool) -> Option<HttpFilter> {
    let (cluster, picker) = (pool.picker_subject()?.to_string(), pool.picker.as_ref()?);
    let metadata =
        |key: &str, value: &str| HeaderValue { key: key.to_owned(), value: value.to_owned(), ..HeaderValue::default() };
    let mut initial_metadata = vec![
        metadata("x-kthena-pool", &format!("{}/{}", pool.namespace, pool.name)),
        // The picker cannot see `response_trailer_mode`.
        metadata("x-kthena-response-trailers", "send"),
    ];
    let (body, timeout) = match pool.body {
        Body::FullDuplex => (BodySendMode::FullDuplexStreamed, ANSWER),
        Body::Buffered => (BodySendMode::Buffered, ANSWER),
        Body::OnDemand => {
            initial_metadata.push(metadata("x-kthena-mode-override", "full-duplex"));
            (BodySendMode::None, SIGN_OF_LIFE)
        }
    };
    let service = EnvoyGrpc {
        cluster_name: cluster,
        authority: format!("{}.{}.svc:{}", picker.service, pool.namespace, picker.port),
        ..EnvoyGrpc::default()
    };
    let namespaces = |names: &[&str]| MetadataNamespaces {
        untyped: names.iter().map(|name| (*name).to_owned()).collect(),
        ..MetadataNamespaces::default()
    };
    let filter = ExternalProcessor {
        grpc_service: Some(GrpcService {
            initial_metadata,
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(service)),
            ..GrpcService::default()
        }),
        failure_mode_allow: pool.fail_open,
        allow_mode_override: pool.body == Body::OnDemand,
        processing_mode: Some(ProcessingMode {
            request_header_mode: HeaderSendMode::Send.into(),
            request_body_mode: body.into(),
            // FULL_DUPLEX_STREAMED demands it.
            request_trailer_mode: HeaderSendMode::Send.into(),
            // Tells the picker who served.
            response_header_mode: HeaderSendMode::Send.into(),
            response_body_mode: BodySendMode::None.into(),
            // Keeps the stream open to the end of the response: exact counts of what is in flight.
            response_trailer_mode: HeaderSendMode::Send.into(),
        }),
        request_attributes: vec!["xds.route_name".to_owned(), "request.id".to_owned()],
        message_timeout: Some(duration(timeout)),
        max_message_timeout: Some(duration(LONGEST)),
        metadata_options: Some(MetadataOptions {
            forwarding_namespaces: Some(namespaces(&["envoy.lb", "envoy.lb.subset_hint"])),
            receiving_namespaces: Some(namespaces(&["envoy.lb"])),
            ..MetadataOptions::default()
        }),
        status_on_error: Some(HttpStatus { code: StatusCode::ServiceUnavailable.into() }),
        ..ExternalProcessor::default()
    };
    Some(HttpFilter {
        name: pool.filter(),
        disabled: true,
        config_type: Some(ConfigType::TypedConfig(pack_any(filter))),
        ..HttpFilter::default()
    })
}

/// What switches the pool's filter on, for a route or for one of its weighted clusters.
pub(crate) fn switch(pool: &Pool) -> HashMap<String, Any> {
    let on = FilterConfig { config: Some(Any::default()), ..FilterConfig::default() };
    pool.picker.as_ref().map(|_| (pool.filter(), pack_any(on))).into_iter().collect()
}

/// Removes the headers of clients that steer, before routes are chosen.
pub(crate) fn early_removal() -> TypedExtensionConfig {
    let remove = |name: &str| mutation::HeaderMutation {
        action: Some(mutation::header_mutation::Action::Remove(name.to_owned())),
    };
    let mutation = HeaderMutation { mutations: STEERING.map(remove).into() };
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.kthena".to_owned(),
        typed_config: Some(pack_any(mutation)),
    }
}
