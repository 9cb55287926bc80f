//! An OpenTelemetry collector that keeps what it gets: for assertions and for the demo's waterfall.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::http::StatusCode;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::poll;

/// Spans that are kept.
const KEPT: usize = 50_000;

/// One span that was exported to the sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Hexadecimal.
    pub trace_id: String,
    /// Hexadecimal.
    pub span_id: String,
    /// Hexadecimal; empty for a root.
    pub parent_id: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Its attributes, values as text.
    pub attributes: Vec<(String, String)>,
    /// Its events' names and attributes.
    pub events: Vec<(String, Vec<(String, String)>)>,
}

impl Span {
    /// An attribute's value.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// How long it took.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.end.saturating_sub(self.start))
    }
}

/// A running sink; dropping it stops it.
#[derive(Debug)]
pub struct OtlpSink {
    address: SocketAddr,
    scheme: &'static str,
    spans: Arc<Mutex<VecDeque<Span>>>,
    server: JoinHandle<()>,
}

impl Drop for OtlpSink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl OtlpSink {
    /// Starts one that speaks OTLP over gRPC and over HTTP (`/v1/traces`) on one loopback port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        Self::listen(Server::builder(), "http").await
    }

    /// As [`OtlpSink::start`], over TLS with this certificate and key, and only for clients whose
    /// certificate `clients` signed. All in PEM.
    ///
    /// # Errors
    /// When no port can be had, or the certificate cannot be used.
    pub async fn start_tls(certificate: &str, key: &str, clients: &str) -> Result<Self> {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(clients));
        Self::listen(Server::builder().tls_config(tls)?, "https").await
    }

    async fn listen(server: Server, scheme: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans = Arc::new(Mutex::new(VecDeque::new()));
        let receiver = Receiver { spans: Arc::clone(&spans) };
        let http = receiver.clone();
        let service = TraceServiceServer::new(receiver).accept_compressed(CompressionEncoding::Gzip);
        let traces = move |body: Bytes| {
            let http = http.clone();
            async move {
                match ExportTraceServiceRequest::decode(body) {
                    Ok(request) => {
                        http.keep(request);
                        StatusCode::OK
                    }
                    Err(_) => StatusCode::BAD_REQUEST,
                }
            }
        };
        let router = Routes::new(service).into_axum_router().route("/v1/traces", axum::routing::post(traces));
        let server = tokio::spawn(async move {
            let connections = TcpListenerStream::new(listener);
            let mut server = server.accept_http1(true);
            if let Err(error) = server.add_routes(Routes::from(router)).serve_with_incoming(connections).await {
                tracing::error!(%error, "the trace sink stopped");
            }
        });
        Ok(Self { address, scheme, spans, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as `OTEL_EXPORTER_OTLP_ENDPOINT` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// All spans so far, in the order they came.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().iter().cloned().collect()
    }

    /// Looks at all spans again and again until `look` makes something of them.
    ///
    /// # Errors
    /// When the deadline passes first; the message lists the spans there are.
    pub async fn wait_for<T>(&self, deadline: Duration, mut look: impl FnMut(&[Span]) -> Option<T>) -> Result<T> {
        poll::until("the spans", deadline, async || look(&self.spans())).await.map_err(|error| {
            let names: Vec<String> =
                self.spans().iter().map(|span| format!("{} {}", span.service, span.name)).collect();
            error.context(format!("spans that came: {names:#?}"))
        })
    }

    /// One trace as a tree.
    #[must_use]
    pub fn tree(&self, trace_id: &str) -> TraceTree {
        TraceTree::new(self.spans().into_iter().filter(|span| span.trace_id == trace_id).collect())
    }
}

/// The spans of one trace, parents before children, siblings by start.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceTree {
    rows: Vec<(usize, Span)>,
    roots: usize,
}

impl TraceTree {
    fn new(mut spans: Vec<Span>) -> Self {
        spans.sort_by_key(|span| span.start);
        let has_parent = |span: &Span| spans.iter().any(|other| other.span_id == span.parent_id);
        let (mut rest, roots): (Vec<Span>, Vec<Span>) = spans.iter().cloned().partition(has_parent);
        let mut tree = Self { roots: roots.len(), rows: Vec::new() };
        for root in roots {
            tree.descend(0, root, &mut rest);
        }
        tree
    }

    fn descend(&mut self, depth: usize, span: Span, rest: &mut Vec<Span>) {
        let children: Vec<Span> = rest.extract_if(.., |other| other.parent_id == span.span_id).collect();
        self.rows.push((depth, span));
        for child in children {
            self.descend(depth + 1, child, rest);
        }
    }

    /// How many spans have no parent among the others. One connected trace has one: its parent is the
    /// client's, or none.
    #[must_use]
    pub fn roots(&self) -> usize {
        self.roots
    }

    /// Depth and span, in the order of the tree.
    #[must_use]
    pub fn rows(&self) -> &[(usize, Span)] {
        &self.rows
    }

    /// The span above `span`, if it is in the trace.
    #[must_use]
    pub fn parent(&self, span: &Span) -> Option<&Span> {
        self.rows.iter().map(|(_, other)| other).find(|other| other.span_id == span.parent_id)
    }

    /// The trace as lines with bars, `width` characters for its whole time.
    #[must_use]
    pub fn waterfall(&self, width: usize) -> String {
        let start = self.rows.iter().map(|(_, span)| span.start).min().unwrap_or_default();
        let end = self.rows.iter().map(|(_, span)| span.end).max().unwrap_or_default();
        let label = |(depth, span): &(usize, Span)| format!("{}[{}] {}", "  ".repeat(*depth), span.service, span.name);
        let longest = self.rows.iter().map(|row| label(row).chars().count()).max().unwrap_or_default();
        let column = |time: u64| {
            let share = u128::from(time.saturating_sub(start)) * width as u128 / u128::from((end - start).max(1));
            usize::try_from(share).unwrap_or(width).min(width)
        };
        let mut text = String::new();
        for row in &self.rows {
            let (from, to) = (column(row.1.start), column(row.1.end));
            let bar = "█".repeat((to - from).max(1));
            let (offset, took) = (row.1.start - start, row.1.duration().as_secs_f64() * 1e3);
            #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
            let offset = offset as f64 / 1e6;
            let before = " ".repeat(from.min(width.saturating_sub(1)));
            let _ = writeln!(text, "{:longest$} {:<width$} +{offset:.2} ms, {took:.2} ms", label(row), before + &bar);
        }
        text
    }
}

#[derive(Clone, Debug)]
struct Receiver {
    spans: Arc<Mutex<VecDeque<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    fn keep(&self, request: ExportTraceServiceRequest) {
        let mut kept = self.spans.lock();
        for resource in request.resource_spans {
            let described = resource.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
            let service = described.into_iter().find(|(key, _)| key == "service.name").map(|(_, name)| name);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back(Span {
                    service: service.clone().unwrap_or_default(),
                    name: span.name,
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent_id: hex(&span.parent_span_id),
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    attributes: texts(&span.attributes),
                    events: span.events.iter().map(|event| (event.name.clone(), texts(&event.attributes))).collect(),
                });
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::ArrayValue(array)) => {
            format!("[{}]", array.values.iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(", "))
        }
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
