//! The spans of an exchange: one for the ext_proc call, one below it for the decision.
//!
//! The exchange's span is a `tracing` span that the OpenTelemetry layer carries, so that whatever is
//! logged inside it belongs to the trace. The decision's span is made when the decision is known,
//! with its true start: one call instead of one for each filter and scorer.

mod prefill;

use std::time::SystemTime;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Event, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceId, Tracer as _,
};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use scheduling::{CandidateReport, Decision, Headers, KvMeasure, RefusalKind, Report, Row};
use tonic::metadata::MetadataMap;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use prefill::{PREFILL, PrefillParent, PrefillSpan};

/// The target of our spans: the OpenTelemetry layer takes these, the log takes none of them.
pub const TARGET: &str = "kthena_exchange";
/// The name of an exchange's span: its RPC's, as the semantic conventions ask.
pub const EXCHANGE: &str = "envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// The name of the decision's span.
pub const SCHEDULE: &str = "kthena.schedule";
/// So many candidates are listed, at most: a trace is not a dump of the fleet.
const TOP: usize = 5;

/// Makes the spans. Exists only when tracing is on.
#[derive(Clone, Debug)]
pub struct Tracing {
    tracer: SdkTracer,
    propagate: bool,
}

impl Tracing {
    /// Spans through `tracer`. Without `propagate` every exchange is the root of its own trace and
    /// requests get no trace context from us (`OTEL_PROPAGATORS=none`).
    #[must_use]
    pub fn new(tracer: SdkTracer, propagate: bool) -> Self {
        Self { tracer, propagate }
    }

    /// The data plane's own trace context, from the call's metadata.
    #[must_use]
    pub fn from_metadata(&self, metadata: &MetadataMap) -> Option<Context> {
        self.extract(&Metadata(metadata))
    }

    fn extract(&self, from: &dyn Extractor) -> Option<Context> {
        if !self.propagate || from.get("traceparent").is_none() {
            return None;
        }
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), from);
        context.span().span_context().is_valid().then_some(context)
    }

    /// Starts the span of an exchange. Its parent is the data plane's span, else the client's, else
    /// it is a root.
    #[must_use]
    pub fn start(&self, metadata: Option<Context>, headers: Option<&dyn Headers>) -> Option<ExchangeSpan> {
        let data_plane_traces = metadata.is_some();
        let parent = metadata.or_else(|| self.extract(&RequestHeaders(headers?)));
        let span = tracing::info_span!(
            target: TARGET, parent: None, "exchange", otel.name = EXCHANGE, otel.kind = "server"
        );
        if let Some(parent) = parent {
            // Fails only when no layer listens; then the context below is not valid either.
            let _ = span.set_parent(parent);
        }
        let context = span.context();
        if !context.span().span_context().is_valid() {
            return None;
        }
        let inject = self.propagate && !data_plane_traces;
        let (tracer, propagate) = (self.tracer.clone(), self.propagate);
        let span = ExchangeSpan { span, context, tracer, propagate, inject };
        span.set([KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", EXCHANGE)]);
        Some(span)
    }
}

/// The running span of one exchange; dropping it ends it.
#[derive(Debug)]
pub struct ExchangeSpan {
    span: tracing::Span,
    context: Context,
    tracer: SdkTracer,
    propagate: bool,
    inject: bool,
}

impl Drop for ExchangeSpan {
    fn drop(&mut self) {
        // The OpenTelemetry layer ends a span when it was last left, which for one that a prefill ran in is long ago.
        self.span.in_scope(|| {});
    }
}

impl ExchangeSpan {
    /// The `tracing` span, to run the exchange's work in.
    #[must_use]
    pub fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// Whether the trace is sampled: if not, nothing needs to be computed for it.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.context.span().is_recording()
    }

    /// The trace's id, when the trace is sampled.
    #[must_use]
    pub fn trace_id(&self) -> Option<TraceId> {
        let span = self.context.span();
        let context = span.span_context();
        context.is_sampled().then(|| context.trace_id())
    }

    /// The `traceparent` to give to the request, when the data plane does not trace itself.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.inject.then(|| traceparent(self.context.span().span_context()))
    }

    /// What prefill spans begin from; they may end after this one.
    #[must_use]
    pub fn prefill_parent(&self) -> PrefillParent {
        PrefillParent::new(self.tracer.clone(), self.context.clone(), self.propagate)
    }

    /// Adds attributes.
    pub fn set<const N: usize>(&self, attributes: [KeyValue; N]) {
        if self.is_recording() {
            self.context.span().set_attributes(attributes);
        }
    }

    /// Marks the exchange as failed: `code` is `error.type`.
    pub fn fail(&self, code: &'static str, description: String) {
        self.set([KeyValue::new("error.type", code)]);
        self.context.span().set_status(Status::error(description));
    }

    /// Tells the decision, which began at `started`, as a span below this one.
    pub fn decision(&self, decision: &Decision, started: SystemTime) {
        if !self.is_recording() {
            return;
        }
        let report = &decision.report;
        let mut attributes = describe(report);
        attributes.push(KeyValue::new("kthena.outcome", "picked"));
        attributes.push(KeyValue::new("kthena.fallback.count", count(decision.ranked.len().saturating_sub(1))));
        attributes.push(KeyValue::new("kthena.reason", decision.to_string()));
        let picked = decision.rows().next();
        if let Some(picked) = picked {
            let address = picked.endpoint.address;
            attributes.push(KeyValue::new("kthena.picked.endpoint", address.to_string()));
            if let Some(total) = picked.candidate.total {
                attributes.push(KeyValue::new("kthena.picked.score", f64::from(total)));
            }
            if let Some((ratio, source)) = held(report, picked.candidate) {
                attributes.push(KeyValue::new("kthena.prefix.matched_ratio", ratio));
                attributes.push(KeyValue::new("kthena.prefix.source", source));
            }
            self.set([
                KeyValue::new("kthena.outcome", "picked"),
                KeyValue::new("kthena.picked.endpoint", address.to_string()),
                KeyValue::new("server.address", address.ip().to_string()),
                KeyValue::new("server.port", i64::from(address.port())),
            ]);
        }
        self.child(attributes, events(report, picked), started, None);
    }

    /// Tells the refusal, whose decision began at `started`.
    pub fn refusal(&self, kind: &RefusalKind, report: Option<&Report>, started: SystemTime) {
        if !self.is_recording() {
            return;
        }
        let outcome = KeyValue::new("kthena.outcome", outcome(kind));
        self.set([outcome.clone()]);
        self.fail(kind.code(), kind.to_string());
        if let Some(report) = report {
            let mut attributes = describe(report);
            attributes.extend([outcome, KeyValue::new("error.type", kind.code())]);
            self.child(attributes, events(report, None), started, Some(kind.to_string()));
        }
    }

    fn child(&self, attributes: Vec<KeyValue>, events: Vec<Event>, started: SystemTime, error: Option<String>) {
        let builder = SpanBuilder::from_name(SCHEDULE)
            .with_kind(SpanKind::Internal)
            .with_start_time(started)
            .with_attributes(attributes)
            .with_events(events);
        let mut span = self.tracer.build_with_context(builder, &self.context);
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end();
    }
}

/// A span's context as the W3C header writes it.
fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), u8::from(context.is_sampled()))
}

/// A refusal in the few words of `kthena.outcome`; the exact cause is `error.type`.
fn outcome(kind: &RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Overloaded { .. } => "shed",
        RefusalKind::NoneReady(_)
        | RefusalKind::NoPrefill(_)
        | RefusalKind::SubsetEmpty
        | RefusalKind::FilteredOut { .. } => "no_endpoints",
        RefusalKind::Deadline { .. } => "deadline",
        _ => "refused",
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is told of every report, decided or not.
fn describe(report: &Report) -> Vec<KeyValue> {
    let mut top: Vec<(f32, Row<'_>)> = report.rows().filter_map(|row| Some((row.candidate.total?, row))).collect();
    top.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    let top = top.iter().take(TOP).map(|(total, row)| format!("{}={total:.3}", row.endpoint.address));
    let measure = report.kv.map(|measure| KeyValue::new("kthena.kv.measure", measure.to_string()));
    let found = [
        KeyValue::new("kthena.candidates.count", count(report.candidates.len())),
        KeyValue::new("kthena.candidates.top", strings(top)),
    ];
    found.into_iter().chain(measure).collect()
}

/// Which share of the prompt the candidate holds, and by whose account: the engines' own, or what was sent there
/// before. `None` where the prompt fills no block.
fn held(report: &Report, candidate: &CandidateReport) -> Option<(f64, &'static str)> {
    let (held, whole, source) = match (report.kv, candidate.held_tokens) {
        (Some(KvMeasure::Exact { tokens }), Some(held)) => (held, tokens, "exact"),
        _ => (candidate.matched_blocks, report.blocks, "approx"),
    };
    (whole > 0).then(|| (f64::from(held) / f64::from(whole), source))
}

/// A list attribute.
pub fn strings(values: impl Iterator<Item = String>) -> Value {
    Value::Array(Array::String(values.map(StringValue::from).collect()))
}

/// One event for each filter and for each scorer.
fn events(report: &Report, picked: Option<Row<'_>>) -> Vec<Event> {
    let now = SystemTime::now();
    let filters = report.filters.iter().map(|filter| {
        let attributes = vec![
            KeyValue::new("kthena.plugin.type", "filter"),
            KeyValue::new("kthena.plugin.name", filter.name),
            KeyValue::new("kthena.candidates.before", count(filter.before)),
            KeyValue::new("kthena.candidates.after", count(filter.after)),
        ];
        Event::new("kthena.filter", now, attributes, 0)
    });
    let scorers = report.scorers.iter().map(|scorer| {
        let mut attributes = vec![
            KeyValue::new("kthena.plugin.type", "score"),
            KeyValue::new("kthena.plugin.name", scorer.name),
            KeyValue::new("kthena.plugin.weight", f64::from(scorer.weight)),
        ];
        let (mut max, mut sum, mut scored) = (None, 0.0, 0.0);
        for row in report.rows() {
            if let Some(score) = scorer.score(row.index) {
                (sum, scored) = (sum + f64::from(score), scored + 1.0);
                if max.is_none_or(|(best, _)| score > best) {
                    max = Some((score, row.endpoint.address));
                }
            }
        }
        if let Some((max, winner)) = max {
            attributes.push(KeyValue::new("kthena.score.max", f64::from(max)));
            attributes.push(KeyValue::new("kthena.score.avg", sum / scored));
            attributes.push(KeyValue::new("kthena.score.winner", winner.to_string()));
        }
        if let Some(score) = picked.and_then(|row| scorer.score(row.index)) {
            attributes.push(KeyValue::new("kthena.score.picked", f64::from(score)));
        }
        Event::new("kthena.score", now, attributes, 0)
    });
    filters.chain(scorers).collect()
}

struct Metadata<'a>(&'a MetadataMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

struct RequestHeaders<'a>(&'a dyn Headers);

impl Extractor for RequestHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}
