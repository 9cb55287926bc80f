//! The engine's own span, as vLLM makes it: `llm_request`, below whatever the request names.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use super::metrics::Finished;

/// Spans that wait for export; more are dropped.
const QUEUE: usize = 1024;

/// Whom the engine's span hangs below.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    trace: Vec<u8>,
    span: Vec<u8>,
}

impl Parent {
    /// From `traceparent`; `None` when it is malformed or says not to sample.
    pub(super) fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (_version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (sampled && trace.len() == 32 && span.len() == 16).then_some(Self { trace: unhex(trace)?, span: unhex(span)? })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len() / 2).map(|index| u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()).collect()
}

/// Exports in the background; never in the way of an answer.
#[derive(Debug)]
pub(super) struct Spans {
    queue: mpsc::Sender<Span>,
    exporter: JoinHandle<()>,
}

impl Drop for Spans {
    fn drop(&mut self) {
        self.exporter.abort();
    }
}

impl Spans {
    pub(super) fn new(sink: SocketAddr, engine: SocketAddr) -> Self {
        let (queue, spans) = mpsc::channel(QUEUE);
        Self { queue, exporter: tokio::spawn(export(sink, engine, spans)) }
    }

    pub(super) fn export(&self, parent: &Parent, request: &str, max_tokens: u32, finished: &Finished) {
        let ended = finished.ended.unwrap_or_else(Instant::now);
        let end = SystemTime::now();
        let seconds = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => double((to - from).as_secs_f64()),
            _ => double(0.0),
        };
        let attributes = [
            ("gen_ai.request.id", string(request)),
            ("gen_ai.request.model", string(&finished.model)),
            ("gen_ai.request.max_tokens", int(max_tokens.into())),
            ("gen_ai.usage.prompt_tokens", int(finished.prompt_tokens as i64)),
            ("gen_ai.usage.completion_tokens", int(finished.tokens as i64)),
            ("gen_ai.usage.cache_read.input_tokens", int(finished.cached_tokens as i64)),
            ("gen_ai.latency.time_in_queue", seconds(Some(finished.arrived), finished.scheduled)),
            ("gen_ai.latency.time_in_model_prefill", seconds(finished.scheduled, finished.first_token)),
            ("gen_ai.latency.time_in_model_decode", seconds(finished.first_token, Some(ended))),
            ("gen_ai.latency.time_to_first_token", seconds(Some(finished.arrived), finished.first_token)),
            ("gen_ai.latency.e2e", seconds(Some(finished.arrived), Some(ended))),
        ];
        let span = Span {
            trace_id: parent.trace.clone(),
            span_id: rand::random::<[u8; 8]>().to_vec(),
            parent_span_id: parent.span.clone(),
            name: "llm_request".to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: nanos(end - (ended - finished.arrived)),
            end_time_unix_nano: nanos(end),
            attributes: attributes.map(|(key, value)| attribute(key, value)).to_vec(),
            ..Span::default()
        };
        let _ = self.queue.try_send(span);
    }
}

async fn export(sink: SocketAddr, engine: SocketAddr, mut spans: mpsc::Receiver<Span>) {
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{sink}")) else { return };
    let mut client = TraceServiceClient::new(endpoint.timeout(Duration::from_secs(5)).connect_lazy());
    let name = attribute("service.name", string(&format!("simulated-engine {engine}")));
    let mut batch = Vec::new();
    while spans.recv_many(&mut batch, QUEUE).await > 0 {
        let scope_spans = vec![ScopeSpans {
            scope: Some(InstrumentationScope { name: "vllm.llm_engine".to_owned(), ..InstrumentationScope::default() }),
            spans: std::mem::take(&mut batch),
            ..ScopeSpans::default()
        }];
        let resource = Some(Resource { attributes: vec![name.clone()], ..Resource::default() });
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        // A sink that is not there loses spans, nothing else.
        let _ = client.export(ExportTraceServiceRequest { resource_spans }).await;
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn string(value: &str) -> any_value::Value {
    any_value::Value::StringValue(value.to_owned())
}

fn int(value: i64) -> any_value::Value {
    any_value::Value::IntValue(value)
}

fn double(value: f64) -> any_value::Value {
    any_value::Value::DoubleValue(value)
}
