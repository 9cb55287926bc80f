//! The floor: an ext_proc server of the same crates that does what every body-aware picker must and
//! nothing else. It waits for the end of the body, sends a `FULL_DUPLEX_STREAMED` body back without
//! a copy, and picks in turn. It parses nothing, measures nothing, logs nothing.

use std::collections::VecDeque;
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
                if let Some(answer) = exchange.answers.pop_front() {
                    let answer = ProcessingResponse { response: Some(answer), ..ProcessingResponse::default() };
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
    answers: VecDeque<Answer>,
}

impl Exchange {
    fn take(&mut self, message: ProcessingRequest) {
        if let Some(config) = message.protocol_config {
            self.duplex = config.request_body_mode == BodySendMode::FullDuplexStreamed as i32;
        }
        match message.request {
            Some(Message::RequestHeaders(headers)) if headers.end_of_stream => {
                let response = self.turns.pick();
                self.answers.push_back(Answer::RequestHeaders(response));
            }
            Some(Message::RequestHeaders(_)) if self.duplex => {}
            Some(Message::RequestHeaders(_)) => {
                self.answers.push_back(Answer::RequestHeaders(HeadersResponse::default()));
            }
            Some(Message::RequestBody(body)) => self.body(body),
            Some(Message::RequestTrailers(_)) => {
                self.answers.push_back(Answer::RequestTrailers(TrailersResponse::default()));
            }
            Some(Message::ResponseHeaders(_)) => {
                self.answers.push_back(Answer::ResponseHeaders(HeadersResponse::default()));
            }
            Some(Message::ResponseTrailers(_)) => {
                self.answers.push_back(Answer::ResponseTrailers(TrailersResponse::default()));
            }
            Some(Message::ResponseBody(_)) | None => {}
        }
    }

    fn body(&mut self, body: HttpBody) {
        if !self.duplex {
            let response = self.turns.pick().response;
            self.answers.push_back(Answer::RequestBody(BodyResponse { response }));
            return;
        }
        self.held.push(body.body);
        if body.end_of_stream {
            let response = self.turns.pick();
            self.answers.push_back(Answer::RequestHeaders(response));
            let last = self.held.len() - 1;
            let pieces = std::mem::take(&mut self.held).into_iter().enumerate();
            self.answers.extend(pieces.map(|(index, body)| send_back(body, index == last)));
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
    fn pick(&self) -> HeadersResponse {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len();
        let value = HeaderValue {
            key: "x-gateway-destination-endpoint".to_owned(),
            raw_value: self.addresses[turn].clone().into_bytes(),
            ..HeaderValue::default()
        };
        let set_headers = vec![HeaderValueOption { header: Some(value), ..HeaderValueOption::default() }];
        let header_mutation = Some(HeaderMutation { set_headers, remove_headers: Vec::new() });
        HeadersResponse { response: Some(CommonResponse { header_mutation, ..CommonResponse::default() }) }
    }
}
