//! `envoy.service.ext_proc.v3.ExternalProcessor` on the wire.
//!
//! The generated server hands every body over as a copy. Here the message around it is declared once
//! more, with a body that is a piece of what was received.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::SERVICE_NAME;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, HttpTrailers, ProcessingResponse, ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::Struct;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{ProcessStream, Service};
use crate::model_name::{ModelNames, NameStream};

/// The only method.
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Envoy's message; what nobody here reads is left out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessingRequest {
    /// Dynamic metadata that the filter forwards.
    #[prost(message, optional, tag = "8")]
    pub metadata_context: Option<Metadata>,
    /// Attributes that the filter is configured to send.
    #[prost(map = "string, message", tag = "9")]
    pub attributes: HashMap<String, Struct>,
    /// No answer is expected.
    #[prost(bool, tag = "10")]
    pub observability_mode: bool,
    /// How bodies are sent; on the first message only.
    #[prost(message, optional, tag = "11")]
    pub protocol_config: Option<ProtocolConfiguration>,
    /// The part of the HTTP exchange that this message is about.
    #[prost(oneof = "Part", tags = "2, 3, 4, 5, 6, 7")]
    pub request: Option<Part>,
}

/// The parts of an HTTP exchange.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Part {
    /// The request's headers.
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    /// The response's headers.
    #[prost(message, tag = "3")]
    ResponseHeaders(HttpHeaders),
    /// A piece of the request's body.
    #[prost(message, tag = "4")]
    RequestBody(Body),
    /// A piece of the response's body.
    #[prost(message, tag = "5")]
    ResponseBody(Body),
    /// The request's trailers.
    #[prost(message, tag = "6")]
    RequestTrailers(HttpTrailers),
    /// The response's trailers.
    #[prost(message, tag = "7")]
    ResponseTrailers(HttpTrailers),
}

/// A piece of a body.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Body {
    /// The bytes, where they were received.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// Nothing follows.
    #[prost(bool, tag = "2")]
    pub end_of_stream: bool,
}

/// A [`Service`], or [`ModelNames`], for a tonic server.
#[derive(Clone, Debug)]
pub struct Server<S = Service> {
    service: S,
    /// The most bytes of one message.
    limit: usize,
}

/// Bytes of a gRPC message besides the body in it: headers, attributes and metadata.
const SLACK: usize = 1 << 20;

impl<S> Server<S> {
    /// With room for a body of `max_body_size` bytes in one message: Envoy was seen to send 2.5 MB so.
    pub(crate) fn new(service: S, max_body_size: usize) -> Self {
        Self { service, limit: max_body_size.saturating_add(SLACK) }
    }
}

impl<S> NamedService for Server<S> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<S> tower::Service<http::Request<tonic::body::Body>> for Server<S>
where
    S: StreamingService<ProcessingRequest, Response = ProcessingResponse> + Clone + Send + 'static,
    S::Future: Send,
    S::ResponseStream: Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path() != PROCESS {
            let unknown = Status::unimplemented("the only method is Process").into_http();
            return Box::pin(ready(Ok(unknown)));
        }
        let Self { service, limit } = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(limit);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<ProcessingRequest> for Service {
    type Response = ProcessingResponse;
    // Boxed: tonic and hyper move it from future to future, and it is large.
    type ResponseStream = Pin<Box<ProcessStream>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        ready(Ok(Response::new(Box::pin(self.process(request)))))
    }
}

impl StreamingService<ProcessingRequest> for ModelNames {
    type Response = ProcessingResponse;
    type ResponseStream = Pin<Box<NameStream>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        ready(Ok(Response::new(Box::pin(self.process(request)))))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    use envoy_types::pb::envoy::service::ext_proc::v3 as envoy;
    use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as EnvoyPart;
    use prost::Message as _;

    use super::*;

    /// As Envoy would send it, and as it is read here.
    fn received(part: EnvoyPart) -> ProcessingRequest {
        let namespace = |name: &str| (name.to_owned(), Struct::default());
        let sent = envoy::ProcessingRequest {
            metadata_context: Some(Metadata { filter_metadata: [namespace("envoy.lb")].into(), ..Metadata::default() }),
            attributes: [namespace("envoy.filters.http.ext_proc")].into(),
            observability_mode: true,
            protocol_config: Some(ProtocolConfiguration { request_body_mode: 4, ..ProtocolConfiguration::default() }),
            request: Some(part),
            ..envoy::ProcessingRequest::default()
        };
        let read = ProcessingRequest::decode(Bytes::from(sent.encode_to_vec())).unwrap();
        assert_eq!(read.metadata_context, sent.metadata_context);
        assert_eq!(read.attributes, sent.attributes);
        assert!(read.observability_mode);
        assert_eq!(read.protocol_config, sent.protocol_config);
        read
    }

    #[test]
    fn every_part_is_read_as_envoy_sends_it() {
        let header = HeaderValue { key: "a".into(), raw_value: b"b".to_vec(), ..HeaderValue::default() };
        let map = Some(HeaderMap { headers: vec![header] });
        let headers = HttpHeaders { headers: map.clone(), end_of_stream: true, ..HttpHeaders::default() };
        let body = envoy::HttpBody { body: b"text".to_vec(), end_of_stream: true, ..envoy::HttpBody::default() };
        let here = Body { body: Bytes::from_static(b"text"), end_of_stream: true };
        let trailers = HttpTrailers { trailers: map };
        let parts = [
            (EnvoyPart::RequestHeaders(headers.clone()), Part::RequestHeaders(headers.clone())),
            (EnvoyPart::ResponseHeaders(headers.clone()), Part::ResponseHeaders(headers)),
            (EnvoyPart::RequestBody(body.clone()), Part::RequestBody(here.clone())),
            (EnvoyPart::ResponseBody(body), Part::ResponseBody(here)),
            (EnvoyPart::RequestTrailers(trailers.clone()), Part::RequestTrailers(trailers.clone())),
            (EnvoyPart::ResponseTrailers(trailers.clone()), Part::ResponseTrailers(trailers)),
        ];
        for (sent, expected) in parts {
            assert_eq!(received(sent).request, Some(expected));
        }
    }

    #[test]
    fn a_body_is_not_copied() {
        let body = Body { body: Bytes::from(vec![7; 100_000]), end_of_stream: true };
        let message = ProcessingRequest { request: Some(Part::RequestBody(body)), ..ProcessingRequest::default() };
        let sent = Bytes::from(message.encode_to_vec());
        let range = sent.as_ptr_range();
        let Some(Part::RequestBody(read)) = ProcessingRequest::decode(sent).unwrap().request else { panic!() };
        assert!(range.contains(&read.body.as_ptr()));
    }
}
