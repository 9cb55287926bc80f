//! The floor: an ext_proc server of the same crates that does what the endpoint-picker protocol asks
//! of every picker and nothing else. It waits for the end of the body, sends a `FULL_DUPLEX_STREAMED`
//! body back without a copy, picks in turn, and says so by header and metadata. It parses nothing,
//! measures nothing, logs nothing.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Message;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ProcessingRequest,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use futures_util::{Stream, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Serves until the process ends; the first line on standard output is the address.
pub(crate) async fn serve(endpoints: &[SocketAddr]) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let addresses = endpoints.iter().map(ToString::to_string).collect();
    let picker = InTurn(Arc::new(Turns { addresses, next: AtomicUsize::default() }));
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(ExternalProcessorServer::new(picker).max_decoding_message_size(64 << 20))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

struct InTurn(Arc<Turns>);

struct Turns {
    addresses: Vec<String>,
    next: AtomicUsize,
}

#[tonic::async_trait]
impl ExternalProcessor for InTurn {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let exchange = Exchange {
            messages: request.into_inner(),
            turns: Arc::clone(&self.0),
            duplex: false,
            held: Vec::new(),
            answers: VecDeque::new(),
        };
        let answers = stream::try_unfold(exchange, async |mut exchange| {
            loop {
                if let Some((answer, dynamic_metadata)) = exchange.answers.pop_front() {
                    let response = Some(answer);
                    let answer = ProcessingResponse { response, dynamic_metadata, ..ProcessingResponse::default() };
                    return Ok(Some((answer, exchange)));
                }
                let Some(message) = exchange.messages.message().await? else { return Ok(None) };
                exchange.take(message);
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Exchange {
    messages: Streaming<ProcessingRequest>,
    turns: Arc<Turns>,
    /// The body is ours to send back.
    duplex: bool,
    held: Vec<Vec<u8>>,
    answers: VecDeque<(Answer, Option<Struct>)>,
}

impl Exchange {
    fn take(&mut self, message: ProcessingRequest) {
        if let Some(config) = message.protocol_config {
            self.duplex = config.request_body_mode == BodySendMode::FullDuplexStreamed as i32;
        }
        match message.request {
            Some(Message::RequestHeaders(headers)) if headers.end_of_stream => self.headers_picked(),
            Some(Message::RequestHeaders(_)) if self.duplex => {}
            Some(Message::RequestHeaders(_)) => self.say(Answer::RequestHeaders(HeadersResponse::default())),
            Some(Message::RequestBody(body)) => self.body(body),
            Some(Message::RequestTrailers(_)) => self.say(Answer::RequestTrailers(TrailersResponse::default())),
            Some(Message::ResponseHeaders(_)) => self.say(Answer::ResponseHeaders(HeadersResponse::default())),
            Some(Message::ResponseTrailers(_)) => self.say(Answer::ResponseTrailers(TrailersResponse::default())),
            Some(Message::ResponseBody(_)) | None => {}
        }
    }

    fn say(&mut self, answer: Answer) {
        self.answers.push_back((answer, None));
    }

    fn headers_picked(&mut self) {
        let (response, metadata) = self.turns.pick();
        self.answers.push_back((Answer::RequestHeaders(HeadersResponse { response: Some(response) }), Some(metadata)));
    }

    fn body(&mut self, body: HttpBody) {
        if !self.duplex {
            let (response, metadata) = self.turns.pick();
            self.answers.push_back((Answer::RequestBody(BodyResponse { response: Some(response) }), Some(metadata)));
            return;
        }
        self.held.push(body.body);
        if body.end_of_stream {
            self.headers_picked();
            let last = self.held.len() - 1;
            for (index, piece) in std::mem::take(&mut self.held).into_iter().enumerate() {
                self.say(send_back(piece, index == last));
            }
        }
    }
}

fn send_back(body: Vec<u8>, end_of_stream: bool) -> Answer {
    let piece = StreamedBodyResponse { body, end_of_stream, ..StreamedBodyResponse::default() };
    let body_mutation = Some(BodyMutation { mutation: Some(Mutation::StreamedResponse(piece)) });
    let response = Some(CommonResponse { body_mutation, ..CommonResponse::default() });
    Answer::RequestBody(BodyResponse { response })
}

impl Turns {
    fn pick(&self) -> (CommonResponse, Struct) {
        const HEADER: &str = "x-gateway-destination-endpoint";
        let address = &self.addresses[self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len()];
        let value =
            HeaderValue { key: HEADER.to_owned(), raw_value: address.clone().into_bytes(), ..HeaderValue::default() };
        let set_headers = vec![HeaderValueOption { header: Some(value), ..HeaderValueOption::default() }];
        let header_mutation = Some(HeaderMutation { set_headers, remove_headers: Vec::new() });
        let entry = |key: &str, kind| Struct { fields: HashMap::from([(key.to_owned(), Value { kind: Some(kind) })]) };
        let metadata = entry("envoy.lb", Kind::StructValue(entry(HEADER, Kind::StringValue(address.clone()))));
        (CommonResponse { header_mutation, ..CommonResponse::default() }, metadata)
    }
}
