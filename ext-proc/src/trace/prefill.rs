//! The span of one prefill call: a child of the exchange's, and the parent of the engine's.

use std::net::SocketAddr;

use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::{count, traceparent};

/// The name of a prefill call's span.
pub const PREFILL: &str = "prefill";

/// What prefill spans of one exchange begin from.
#[derive(Clone, Debug)]
pub struct PrefillParent {
    tracer: SdkTracer,
    context: Context,
    propagate: bool,
}

impl PrefillParent {
    pub(super) fn new(tracer: SdkTracer, context: Context, propagate: bool) -> Self {
        Self { tracer, context, propagate }
    }

    /// Starts the span of the call number `number` of a request (from 1), to `endpoint`.
    #[must_use]
    pub fn start(&self, endpoint: SocketAddr, connector: &'static str, number: usize) -> PrefillSpan {
        let builder = SpanBuilder::from_name(PREFILL).with_kind(SpanKind::Client).with_attributes([
            KeyValue::new("server.address", endpoint.ip().to_string()),
            KeyValue::new("server.port", i64::from(endpoint.port())),
            KeyValue::new("kthena.prefill.endpoint", endpoint.to_string()),
            KeyValue::new("kthena.prefill.connector", connector),
            KeyValue::new("kthena.prefill.try", count(number)),
        ]);
        let span = self.tracer.build_with_context(builder, &self.context);
        let traceparent = self.propagate.then(|| traceparent(span.span_context()));
        PrefillSpan { span, traceparent }
    }
}

/// The running span of one prefill call; dropping it ends it.
#[derive(Debug)]
pub struct PrefillSpan {
    span: Span,
    traceparent: Option<String>,
}

impl PrefillSpan {
    /// The trace context to give to the engine; `None` with `OTEL_PROPAGATORS=none`.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// The engine's status is known.
    pub fn status(&mut self, status: u16) {
        self.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    }

    /// The call failed: `code` is `error.type`.
    pub fn fail(&mut self, code: &'static str, description: String) {
        self.span.set_attribute(KeyValue::new("error.type", code));
        self.span.set_status(Status::error(description));
    }
}
