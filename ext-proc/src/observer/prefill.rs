//! What is told about the prefill calls of one exchange. It may outlive the exchange.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use scheduling::KvConnector;

use crate::metrics::Metrics;
use crate::metrics::labels::{ModelName, Trace};
use crate::metrics::prefill::{CANCELLED, OK};
use crate::prefill::CallError;
use crate::trace::{PrefillParent, PrefillSpan};

/// Follows the prefill calls of one exchange. The default one is silent.
#[derive(Clone, Debug, Default)]
pub struct PrefillObserver(Option<Tells>);

#[derive(Clone, Debug)]
pub(super) struct Tells {
    pub(super) metrics: Arc<Metrics>,
    pub(super) model: ModelName,
    pub(super) path: &'static str,
    pub(super) exemplar: Option<Trace>,
    pub(super) parent: Option<PrefillParent>,
}

impl From<Tells> for PrefillObserver {
    fn from(tells: Tells) -> Self {
        Self(Some(tells))
    }
}

impl PrefillObserver {
    /// The call number `number` of a request, from 1, begins.
    #[must_use]
    pub fn attempt(&self, endpoint: SocketAddr, connector: KvConnector, number: usize) -> Attempt {
        let span = self.0.as_ref().and_then(|tells| tells.parent.as_ref());
        Attempt {
            span: span.map(|parent| parent.start(endpoint, connector.name(), number)),
            tells: self.0.clone(),
            started: Instant::now(),
        }
    }
}

/// Follows one call; dropping it before its end tells that it was cancelled.
#[derive(Debug)]
pub struct Attempt {
    tells: Option<Tells>,
    span: Option<PrefillSpan>,
    started: Instant,
}

impl Attempt {
    /// The trace context to give to the engine.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.span.as_ref()?.traceparent()
    }

    /// The call is over.
    pub fn ended(mut self, error: Option<&CallError>) {
        match error {
            None => self.tell(OK, Some(200)),
            Some(error) => {
                if let Some(span) = &mut self.span {
                    span.fail(error.code(), error.to_string());
                }
                // An answer that cannot be used has come with 200.
                let unusable = matches!(error, CallError::TooLarge | CallError::NoTransfer(_)).then_some(200);
                self.tell(error.code(), error.status().map(|status| status.as_u16()).or(unusable));
            }
        }
    }

    fn tell(&mut self, outcome: &'static str, status: Option<u16>) {
        if let (Some(span), Some(status)) = (&mut self.span, status) {
            span.status(status);
        }
        if let Some(Tells { metrics, model, path, exemplar, parent: _ }) = self.tells.take() {
            metrics.prefill().called(&model, path, outcome, status, self.started.elapsed(), exemplar);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.tells.is_some() {
            if let Some(span) = &mut self.span {
                span.fail(CANCELLED, "nobody waits for the prefill any more".to_owned());
            }
            self.tell(CANCELLED, None);
        }
    }
}
