//! The data plane's messages, in few words.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

/// Envoy's numbers of body modes.
pub(crate) const NONE: i32 = 0;
pub(crate) const STREAMED: i32 = 1;
pub(crate) const BUFFERED: i32 = 2;
pub(crate) const FULL_DUPLEX: i32 = 4;

/// A body that names a model.
pub(crate) const BODY: &[u8] = br#"{"model":"m","prompt":"hello"}"#;

pub(crate) fn part(part: Part) -> ProcessingRequest {
    ProcessingRequest { request: Some(part), ..ProcessingRequest::default() }
}

/// As Envoy sends them: values in `raw_value`.
pub(crate) fn map(headers: &[(&str, &str)]) -> Option<HeaderMap> {
    let headers = headers.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    });
    Some(HeaderMap { headers: headers.collect() })
}

pub(crate) fn request_headers(headers: &[(&str, &str)], end_of_stream: bool) -> ProcessingRequest {
    let all = [&[(":method", "POST"), (":path", "/v1/completions")], headers].concat();
    part(Part::RequestHeaders(HttpHeaders { headers: map(&all), end_of_stream, ..HttpHeaders::default() }))
}

/// The same with `protocol_config`.
pub(crate) fn first(request: i32, response: i32, headers: &[(&str, &str)], end: bool) -> ProcessingRequest {
    let config = ProtocolConfiguration {
        request_body_mode: request,
        response_body_mode: response,
        send_body_without_waiting_for_header_response: request == STREAMED,
    };
    ProcessingRequest { protocol_config: Some(config), ..request_headers(headers, end) }
}

pub(crate) fn body(bytes: &[u8], end_of_stream: bool) -> ProcessingRequest {
    part(Part::RequestBody(HttpBody { body: bytes.to_vec(), end_of_stream, ..HttpBody::default() }))
}

pub(crate) fn trailers() -> ProcessingRequest {
    part(Part::RequestTrailers(HttpTrailers::default()))
}

pub(crate) fn response_headers(status: &str) -> ProcessingRequest {
    part(Part::ResponseHeaders(HttpHeaders { headers: map(&[(":status", status)]), ..HttpHeaders::default() }))
}

pub(crate) fn response_body(bytes: &[u8], end_of_stream: bool) -> ProcessingRequest {
    part(Part::ResponseBody(HttpBody { body: bytes.to_vec(), end_of_stream, ..HttpBody::default() }))
}

pub(crate) fn response_trailers() -> ProcessingRequest {
    part(Part::ResponseTrailers(HttpTrailers::default()))
}

/// Adds dynamic metadata, as Envoy forwards it.
pub(crate) fn with_metadata(message: ProcessingRequest, namespace: &str, key: &str, text: &str) -> ProcessingRequest {
    let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = Struct { fields: HashMap::from([(key.to_owned(), value)]) };
    let filter_metadata = HashMap::from([(namespace.to_owned(), fields)]);
    ProcessingRequest { metadata_context: Some(Metadata { filter_metadata, ..Metadata::default() }), ..message }
}
