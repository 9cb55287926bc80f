//! Prefills that run beside their decode and must not end with the stream.
//!
//! With a connector whose prefill and decode meet, decode waits for a prefill that its exchange
//! makes. Where Envoy ends the stream as soon as it was answered, that prefill is finished here.

use std::fmt;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Outcome;

/// The most prefills that wait to be taken over, and the most that run here; more are cancelled.
const QUEUE: usize = 1024;

/// A prefill that runs.
pub type Running = BoxFuture<'static, Outcome>;

/// Finishes prefills whose stream has ended. Each has a deadline of its own.
pub struct Alongside {
    sender: mpsc::Sender<Running>,
    receiver: Mutex<Option<mpsc::Receiver<Running>>>,
}

impl fmt::Debug for Alongside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Alongside").finish_non_exhaustive()
    }
}

impl Default for Alongside {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Alongside {
    /// Takes a prefill over; cancels it when too many wait.
    pub fn finish(&self, prefill: Running) {
        if self.sender.try_send(prefill).is_err() {
            tracing::warn!("Too many prefills have lost their stream: one was cancelled.");
        }
    }

    /// Works until it is dropped. Run once, beside the service; a second call only waits.
    pub async fn run(&self) {
        let Some(mut receiver) = self.receiver.lock().take() else { return std::future::pending().await };
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(prefill) = receiver.recv(), if running.len() < QUEUE => running.push(prefill),
                Some(_) = running.next() => {}
            }
        }
    }
}
