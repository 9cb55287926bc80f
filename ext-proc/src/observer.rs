//! What is told about an exchange. The protocol calls these methods; span, metrics, access log and
//! the memory of recent decisions hang behind them and can neither slow nor fail a request.

use std::net::SocketAddr;
use std::sync::Arc;

use scheduling::{Decision, Headers, PoolName, Refusal};

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

/// Makes an [`ExchangeObserver`] for each stream.
#[derive(Clone, Debug, Default)]
pub struct Observer {}

impl Observer {
    /// A stream was opened. `metadata` carries Envoy's trace context.
    #[must_use]
    pub fn stream_opened(&self, metadata: &tonic::metadata::MetadataMap) -> ExchangeObserver {
        let _ = metadata;
        ExchangeObserver {}
    }
}

/// Follows one exchange to its end; dropping it ends the span and writes the access log.
#[derive(Debug)]
pub struct ExchangeObserver {}

impl ExchangeObserver {
    /// The request's headers are known, and which pool the stream is about.
    pub fn request(&mut self, pool: &PoolName, id: &str, headers: &dyn Headers, mode: BodyMode) {
        let _ = (pool, id, headers, mode);
    }

    /// The data plane hides the body: we route by load alone.
    pub fn body_hidden(&mut self) {}

    /// The body is whole, `bytes` long.
    pub fn body_read(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// The brain has spoken. `duplicate` when another stream of the same request was answered
    /// before and this is its answer again.
    pub fn decided(&mut self, outcome: Result<&Arc<Decision>, &Refusal>, duplicate: bool) {
        let _ = (outcome, duplicate);
    }

    /// The refusal was sent with this HTTP status. Also for exchanges that no pool was found for.
    pub fn refused(&mut self, status: u16) {
        let _ = status;
    }

    /// The answer left for Envoy.
    pub fn answered(&mut self) {}

    /// The response's headers came by: its status, and who served it where the data plane tells.
    pub fn response(&mut self, status: Option<u16>, served: Option<SocketAddr>) {
        let _ = (status, served);
    }

    /// The stream may have ended before the request did (see DESIGN section 8): its load is held for an estimate.
    pub fn held(&mut self) {}

    /// The stream ended in a protocol error.
    pub fn failed(&mut self, error: &tonic::Status) {
        let _ = error;
    }

    /// The trace context to give to the request when Envoy does not trace (`traceparent` value);
    /// `None` when Envoy's tracer is on or ours is off.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        None
    }
}
