//! The end: readiness first, then new exchanges, and running ones get their time.

use std::time::{Duration, Instant};

use anyhow::Result;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::plain;
use crate::running::{DEADLINE, Running};

/// An exchange whose headers were sent and whose body is still to come.
struct Half {
    requests: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

async fn half(running: &Running) -> Result<Half> {
    let (requests, queue) = mpsc::channel(4);
    let pair = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = HeaderMap { headers: vec![pair(":method", "POST"), pair(":path", "/v1/completions")] };
    requests
        .send(ProcessingRequest {
            request: Some(Request::RequestHeaders(HttpHeaders { headers: Some(headers), ..HttpHeaders::default() })),
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: BodySendMode::Buffered.into(),
                ..ProtocolConfiguration::default()
            }),
            ..ProcessingRequest::default()
        })
        .await?;
    let mut client = ExternalProcessorClient::new(plain(running.addresses.grpc).await?);
    let answers = client.process(ReceiverStream::new(queue)).await?.into_inner();
    Ok(Half { requests, answers })
}

impl Half {
    /// Sends the body and returns all answers as text.
    async fn finish(mut self) -> Result<String> {
        let body = br#"{"model":"tiny","prompt":"hi"}"#.to_vec();
        let body = HttpBody { body, end_of_stream: true, ..HttpBody::default() };
        let body = ProcessingRequest { request: Some(Request::RequestBody(body)), ..ProcessingRequest::default() };
        self.requests.send(body).await?;
        drop(self.requests);
        let mut said = String::new();
        while let Some(answer) = tokio::time::timeout(DEADLINE, self.answers.message()).await?? {
            said.push_str(&format!("{answer:?}"));
        }
        Ok(said)
    }
}

#[tokio::test]
async fn a_running_exchange_is_finished_after_readiness_was_given_up() -> Result<()> {
    let mut running = Running::ready(&["--pool-name=llama"]).await?;
    let half = half(&running).await?;
    running.stop();
    running.until_ready(503).await?;
    let said = half.finish().await?;
    assert!(said.contains("x-gateway-destination-endpoint"), "{said}");
    running.ended().await
}

#[tokio::test]
async fn an_exchange_that_does_not_end_holds_the_end_up_for_the_timeout_only() -> Result<()> {
    let mut running = Running::ready(&["--pool-name=llama", "--drain-timeout=500ms"]).await?;
    let half = half(&running).await?;
    let began = Instant::now();
    running.stop();
    running.ended().await?;
    // The grace is as long as the timeout here, and new exchanges are still taken during it.
    assert!(began.elapsed() >= Duration::from_secs(1), "the exchange did not get its time");
    drop(half);
    Ok(())
}

#[tokio::test]
async fn after_the_end_the_ports_are_free() -> Result<()> {
    let mut running = Running::ready(&[]).await?;
    running.stop();
    running.ended().await?;
    for address in [running.addresses.grpc, running.addresses.metrics, running.addresses.debug] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address}");
    }
    Ok(())
}
