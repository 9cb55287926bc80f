//! What is told about an exchange. The protocol calls these methods; span, metrics, access log and
//! the memory of recent decisions hang behind them and can neither slow nor fail a request.

mod exchange;
mod prefill;

use std::net::SocketAddr;
use std::sync::Arc;

use scheduling::{Body, Decision, Headers, PoolName, Refusal};

use crate::access_log::AccessLog;
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::trace::Tracing;
use exchange::Exchange;
pub use prefill::{Attempt, PrefillObserver};

/// How the data plane shows us request bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyMode {
    /// Not at all.
    None,
    /// Whole, in one message.
    Buffered,
    /// In pieces, each answered; the header answer waits for the last.
    Streamed,
    /// In pieces, which we send back.
    FullDuplex,
}

impl BodyMode {
    /// The name in traces and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Buffered => "buffered",
            Self::Streamed => "streamed",
            Self::FullDuplex => "full_duplex_streamed",
        }
    }
}

/// Makes an [`ExchangeObserver`] for each stream. The default one is silent.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    tells: Option<Arc<Tells>>,
}

/// Whom is told.
#[derive(Debug)]
struct Tells {
    metrics: Arc<Metrics>,
    recent: Arc<Recent>,
    access_log: Option<AccessLog>,
    tracing: Option<Tracing>,
}

impl Observer {
    /// Tells `metrics` and `recent`, and where they are switched on the access log and the tracer.
    #[must_use]
    pub fn new(
        metrics: Arc<Metrics>,
        recent: Arc<Recent>,
        access_log: Option<AccessLog>,
        tracing: Option<Tracing>,
    ) -> Self {
        Self { tells: Some(Arc::new(Tells { metrics, recent, access_log, tracing })) }
    }

    /// A stream was opened. `metadata` carries Envoy's trace context.
    #[must_use]
    pub fn stream_opened(&self, metadata: &tonic::metadata::MetadataMap) -> ExchangeObserver {
        ExchangeObserver { exchange: self.tells.as_ref().map(|tells| Box::new(Exchange::new(tells, metadata))) }
    }
}

/// Follows one exchange to its end; dropping it ends the span and writes the access log.
#[derive(Debug)]
pub struct ExchangeObserver {
    exchange: Option<Box<Exchange>>,
}

impl ExchangeObserver {
    fn tell(&mut self, what: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.exchange.as_deref_mut() {
            what(exchange);
        }
    }

    /// The request's headers are known, and which pool the stream is about.
    pub fn request(&mut self, pool: &PoolName, id: &str, headers: &dyn Headers, mode: BodyMode) {
        self.tell(|exchange| exchange.request(pool, id, headers, mode));
    }

    /// The body cannot be read: the data plane hides it, or it is not JSON. We route by load alone.
    pub fn body_hidden(&mut self) {
        self.tell(Exchange::body_hidden);
    }

    /// The body is whole, `bytes` long.
    pub fn body_read(&mut self, bytes: usize) {
        self.tell(|exchange| exchange.body_read(bytes));
    }

    /// The step before the route has read the body: it is not read again.
    pub fn body_read_before(&mut self) {
        self.tell(|exchange| exchange.body_read_before());
    }

    /// The body was parsed.
    pub fn body_parsed(&mut self, body: &Body<'_>) {
        self.tell(|exchange| exchange.body_parsed(body));
    }

    /// The brain has spoken. `duplicate` when another stream of the same request was answered
    /// before and this is its answer again.
    pub fn decided(&mut self, outcome: Result<&Arc<Decision>, &Refusal>, duplicate: bool) {
        self.tell(|exchange| exchange.decided(outcome, duplicate));
    }

    /// The refusal was sent with this HTTP status. Also for exchanges that no pool was found for.
    pub fn refused(&mut self, status: u16) {
        self.tell(|exchange| exchange.refused(status));
    }

    /// The answer left for Envoy.
    pub fn answered(&mut self) {
        self.tell(Exchange::answered);
    }

    /// The response's headers came by: its status, and who served it where the data plane tells.
    pub fn response(&mut self, status: Option<u16>, served: Option<SocketAddr>) {
        self.tell(|exchange| exchange.response(status, served));
    }

    /// Prefill runs apart: follows its calls. To be asked for after the decision was told.
    #[must_use]
    pub fn prefill(&mut self) -> PrefillObserver {
        self.exchange.as_deref_mut().map(Exchange::prefill).unwrap_or_default()
    }

    /// Prefill was to run apart, and decode does all; why is a constant word.
    pub fn prefill_fell_back(&mut self, reason: &'static str) {
        self.tell(|exchange| exchange.prefill_fell_back(reason));
    }

    /// A prefill was made and its decode never answered.
    pub fn prefill_orphaned(&mut self) {
        self.tell(|exchange| exchange.prefill_orphaned());
    }

    /// The stream may have ended before the request did (see DESIGN section 8): its load is held for an estimate.
    pub fn held(&mut self) {
        self.tell(Exchange::held);
    }

    /// The stream ended in a protocol error.
    pub fn failed(&mut self, error: &tonic::Status) {
        self.tell(|exchange| exchange.failed(error));
    }

    /// The trace context to give to the request when Envoy does not trace (`traceparent` value);
    /// `None` when Envoy's tracer is on or ours is off.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.exchange.as_ref()?.traceparent()
    }

    /// The exchange's span, so that what is logged about it belongs to its trace; disabled when it
    /// is not traced.
    #[must_use]
    pub fn span(&self) -> tracing::Span {
        self.exchange.as_ref().map_or_else(tracing::Span::none, |exchange| exchange.span())
    }
}
