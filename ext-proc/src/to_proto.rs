//! Our messages, as Envoy understands them; and the one table from refusal to HTTP.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{BodySendMode, HeaderSendMode};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse, ProcessingResponse,
    StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use scheduling::RefusalKind;
use serde::Serialize;

use crate::exchange::{Answer, BodyChange, BodySend, Message, ProtocolError, Refused};
use crate::steering;

/// One message for Envoy, and the rest of it if it goes out in pieces.
#[must_use]
pub fn response(message: Message) -> (ProcessingResponse, Option<Message>) {
    let whole = match message {
        Message::ModeOverride { response } => mode_override(response),
        Message::MoreTime(time) => {
            ProcessingResponse { override_message_timeout: Some(duration(time)), ..ProcessingResponse::default() }
        }
        Message::RequestHeaders(answer) => {
            let (common, metadata) = decided(answer);
            with_metadata(Part::RequestHeaders(HeadersResponse { response: common }), metadata)
        }
        Message::RequestBody { answer, change } => {
            let (common, metadata) = decided(answer);
            let mutation = match change {
                BodyChange::Keep => None,
                BodyChange::Replace(body) => Some(Mutation::Body(body)),
                BodyChange::Clear => Some(Mutation::ClearBody(true)),
            };
            let common = match mutation {
                None => common,
                Some(mutation) => Some(CommonResponse {
                    body_mutation: Some(BodyMutation { mutation: Some(mutation) }),
                    ..common.unwrap_or_default()
                }),
            };
            with_metadata(Part::RequestBody(BodyResponse { response: common }), metadata)
        }
        Message::RequestChunks(mut chunks) => {
            let part = Part::RequestBody(streamed(chunks.next()));
            return (part.into_response(), (!chunks.is_done()).then_some(Message::RequestChunks(chunks)));
        }
        Message::RequestTrailers(answer) => {
            let metadata = answer.and_then(|answer| answer.destination).map(metadata);
            with_metadata(Part::RequestTrailers(TrailersResponse::default()), metadata)
        }
        Message::ResponseHeaders => Part::ResponseHeaders(HeadersResponse::default()).into_response(),
        Message::ResponseBody => Part::ResponseBody(BodyResponse::default()).into_response(),
        Message::ResponseChunks(mut chunks) => {
            let part = Part::ResponseBody(streamed(chunks.next()));
            return (part.into_response(), (!chunks.is_done()).then_some(Message::ResponseChunks(chunks)));
        }
        Message::ResponseTrailers => Part::ResponseTrailers(TrailersResponse::default()).into_response(),
        Message::Refusal(refused) => Part::ImmediateResponse(immediate(refused)).into_response(),
    };
    (whole, None)
}

trait IntoResponse {
    fn into_response(self) -> ProcessingResponse;
}

impl IntoResponse for Part {
    fn into_response(self) -> ProcessingResponse {
        with_metadata(self, None)
    }
}

fn with_metadata(part: Part, dynamic_metadata: Option<Struct>) -> ProcessingResponse {
    ProcessingResponse { dynamic_metadata, response: Some(part), ..ProcessingResponse::default() }
}

/// Envoy 1.40 accepts this before the headers' answer, and only from NONE or STREAMED to
/// FULL_DUPLEX_STREAMED with trailers. Response trailers keep the stream open as long as the request lives.
fn mode_override(response: BodySend) -> ProcessingResponse {
    let mode = ProcessingMode {
        request_header_mode: HeaderSendMode::Default.into(),
        response_header_mode: HeaderSendMode::Default.into(),
        request_body_mode: BodySendMode::FullDuplexStreamed.into(),
        response_body_mode: match response {
            BodySend::None => BodySendMode::None,
            BodySend::Streamed => BodySendMode::Streamed,
            BodySend::Buffered => BodySendMode::Buffered,
            BodySend::BufferedPartial => BodySendMode::BufferedPartial,
            BodySend::FullDuplex => BodySendMode::FullDuplexStreamed,
        }
        .into(),
        request_trailer_mode: HeaderSendMode::Send.into(),
        response_trailer_mode: HeaderSendMode::Send.into(),
    };
    ProcessingResponse { mode_override: Some(mode), ..ProcessingResponse::default() }
}

fn duration(time: Duration) -> pb::google::protobuf::Duration {
    pb::google::protobuf::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

fn decided(answer: Option<Box<Answer>>) -> (Option<CommonResponse>, Option<Struct>) {
    let Some(answer) = answer else { return (None, None) };
    let Answer { destination, set, remove, body: _, content_length, clear_route_cache } = *answer;
    let mut set_headers = Vec::with_capacity(1 + set.len() + usize::from(content_length.is_some()));
    set_headers.extend(destination.clone().map(|destination| set_header(steering::DESTINATION, destination)));
    set_headers.extend(set.into_iter().map(|(name, value)| set_header(name, value)));
    set_headers.extend(content_length.map(|length| set_header("content-length", length.to_string())));
    let mutation = HeaderMutation { set_headers, remove_headers: remove.into_iter().map(str::to_owned).collect() };
    let common = CommonResponse { header_mutation: Some(mutation), clear_route_cache, ..CommonResponse::default() };
    (Some(common), destination.map(metadata))
}

/// Only `raw_value`: Envoy refuses a header that has both.
fn set_header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: String::new(), raw_value: value.into_bytes() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn metadata(destination: String) -> Struct {
    let entry = |key: &str, kind| Struct { fields: HashMap::from([(key.to_owned(), Value { kind: Some(kind) })]) };
    entry("envoy.lb", Kind::StructValue(entry(steering::DESTINATION, Kind::StringValue(destination))))
}

fn streamed(chunk: Option<(Bytes, bool)>) -> BodyResponse {
    let (body, end_of_stream) = chunk.unwrap_or_default();
    let chunk = StreamedBodyResponse { body: body.into(), end_of_stream, ..StreamedBodyResponse::default() };
    let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(chunk)) };
    BodyResponse { response: Some(CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() }) }
}

fn immediate(refused: Refused) -> ImmediateResponse {
    let Refused { status, retry_after, body, details } = refused;
    let mut set_headers = vec![set_header("content-type", "application/json".to_owned())];
    set_headers.extend(retry_after.map(|seconds| set_header("retry-after", seconds.to_string())));
    ImmediateResponse {
        status: Some(HttpStatus { code: i32::from(status) }),
        headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
        body,
        grpc_status: None,
        details,
    }
}

impl From<ProtocolError> for tonic::Status {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::UnknownMode(_) | ProtocolError::Unreadable => Self::invalid_argument(error.to_string()),
            ProtocolError::BeforeHeaders(_) | ProtocolError::Twice(_) | ProtocolError::AfterEnd(_) => {
                Self::failed_precondition(error.to_string())
            }
        }
    }
}

/// The refusal table: HTTP status, OpenAI's error `type`, and the body field at fault.
fn row(kind: &RefusalKind) -> (u16, &'static str, Option<&'static str>) {
    match kind {
        RefusalKind::BadJson(_) => (400, "invalid_request_error", None),
        RefusalKind::ModelMissing | RefusalKind::ModelNotString | RefusalKind::ModelTwice => {
            (400, "invalid_request_error", Some("model"))
        }
        RefusalKind::UnknownModel(_) => (404, "invalid_request_error", Some("model")),
        RefusalKind::TooLarge { .. } => (413, "invalid_request_error", None),
        RefusalKind::Overloaded { .. } => (429, "rate_limit_error", None),
        RefusalKind::NoneReady(_)
        | RefusalKind::NoPrefill(_)
        | RefusalKind::SubsetEmpty
        | RefusalKind::FilteredOut { .. }
        | RefusalKind::UnknownPool(_) => (503, "service_unavailable_error", None),
        // 504 is what Envoy itself answers when its `message_timeout` for ext_proc passes.
        RefusalKind::Deadline { .. } => (504, "timeout_error", None),
    }
}

/// The HTTP status that a refusal is told with.
#[must_use]
pub fn status(kind: &RefusalKind) -> u16 {
    row(kind).0
}

/// What Envoy tells the client about a refusal.
#[must_use]
pub fn refused(kind: &RefusalKind) -> Refused {
    let (status, error_type, param) = row(kind);
    let retry_after = match kind {
        // Rounded up: a client that comes back too early is shed again.
        RefusalKind::Overloaded { retry_after } => {
            Some(retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0))
        }
        _ => None,
    };
    let error = Error { message: &kind.to_string(), r#type: error_type, param, code: kind.code() };
    Refused {
        status,
        retry_after,
        body: serde_json::to_vec(&Envelope { error }).unwrap_or_default(),
        details: format!("kthena_{}", kind.code()),
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Error<'a>,
}

/// OpenAI's error object; `param` is null when no field is at fault.
#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}
