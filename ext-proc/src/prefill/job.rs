//! The prefill of one request: endpoint after endpoint, until one has done it or the time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use scheduling::{Endpoint, KvConnector};
use tokio::time::timeout;

use super::client::{CallError, CallHeaders, Client};
use super::connectors::NoTransfer;
use crate::duplicates;
use crate::fleet::Fleet;
use crate::observer::PrefillObserver;
use crate::splice::Change;

/// A prefill to be made.
#[derive(Debug)]
pub struct Job {
    /// Over whose connections.
    pub client: Client,
    /// How the blocks travel.
    pub connector: KvConnector,
    /// The path at the engine.
    pub path: &'static str,
    /// The call's headers, but for the trace context.
    pub headers: CallHeaders,
    /// The trace context where we make no span: the client's own.
    pub traceparent: Option<String>,
    /// The prefill's body.
    pub body: Bytes,
    /// Whom to ask, best first; each at most once.
    pub prefills: Vec<Arc<Endpoint>>,
    /// The accounts of the endpoint asked, and of the one that serves.
    pub picked: duplicates::Shared,
    /// Who learns where the blocks are, and who fails.
    pub fleet: Arc<Fleet>,
    /// What decode gets of the answer.
    pub decode: fn(&[u8]) -> Result<Vec<Change>, NoTransfer>,
    /// For all tries together.
    pub timeout: Duration,
    /// Whom to tell.
    pub observer: PrefillObserver,
}

/// What came of a [`Job`].
#[derive(Debug)]
pub enum Outcome {
    /// An endpoint has computed the prompt.
    Done {
        /// Which.
        endpoint: Arc<Endpoint>,
        /// For decode's body.
        transfer: Vec<Change>,
    },
    /// None has.
    Failed {
        /// The last one asked; `None` when there was none to ask.
        endpoint: Option<Arc<Endpoint>>,
        /// Why it did not.
        error: CallError,
    },
}

impl Job {
    /// Makes the prefill. Dropping the future cancels the call that is running.
    pub async fn run(self) -> Outcome {
        let outcome = self.tries().await;
        let decision = {
            let mut picked = self.picked.lock();
            picked.prefill_done();
            Arc::clone(&picked.decision)
        };
        if let Outcome::Done { endpoint, .. } = &outcome {
            self.fleet.learn(&decision, endpoint.address);
        }
        outcome
    }

    async fn tries(&self) -> Outcome {
        let started = Instant::now();
        let mut outcome = Outcome::Failed { endpoint: None, error: CallError::Deadline(self.timeout) };
        for (index, endpoint) in self.prefills.iter().enumerate() {
            let left = self.timeout.saturating_sub(started.elapsed());
            // One that hangs must leave time for another.
            let time = if index + 1 < self.prefills.len() { left / 2 } else { left };
            if time.is_zero() {
                break;
            }
            match self.attempt(endpoint, index + 1, time).await {
                Ok(transfer) => return Outcome::Done { endpoint: Arc::clone(endpoint), transfer },
                Err(error) => {
                    let last = error.is_elsewhere_no_better();
                    outcome = Outcome::Failed { endpoint: Some(Arc::clone(endpoint)), error };
                    if last {
                        break;
                    }
                }
            }
        }
        outcome
    }

    async fn attempt(&self, endpoint: &Arc<Endpoint>, number: usize, time: Duration) -> Result<Vec<Change>, CallError> {
        let pool = {
            let mut picked = self.picked.lock();
            picked.prefill_at(endpoint);
            picked.decision.report.pool.clone()
        };
        let attempt = self.observer.attempt(endpoint.address, self.connector, number);
        let headers = self.headers.traced(attempt.traceparent().or(self.traceparent.as_deref()));
        let call = self.client.call(endpoint.address, self.path, headers, self.body.clone());
        let answer = timeout(time, call).await.unwrap_or(Err(CallError::Deadline(time)));
        let transfer = answer.and_then(|answer| Ok((self.decode)(&answer)?));
        let error = transfer.as_ref().err();
        self.fleet.outcome(&pool, endpoint.address, !error.is_some_and(CallError::is_the_endpoints_fault));
        attempt.ended(error);
        transfer
    }
}

#[cfg(test)]
mod tests;
