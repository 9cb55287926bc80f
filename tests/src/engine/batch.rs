//! The timing model: a queue, prefills one after the other, decodes whose interval grows with the
//! batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::config::Timing;

#[derive(Debug)]
pub(super) struct Batch {
    timing: Timing,
    slots: Semaphore,
    compute: Semaphore,
    waiting: AtomicUsize,
    running: AtomicUsize,
}

impl Batch {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            slots: Semaphore::new(timing.max_running),
            compute: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            timing,
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a place in the batch.
    pub(super) async fn enter(&self) -> Running<'_> {
        let waiting = Counted::new(&self.waiting);
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        drop(waiting);
        Running { batch: self, _slot: slot, _running: Counted::new(&self.running) }
    }

    async fn pass(&self, time: Duration) {
        let time = time.mul_f64(self.timing.scale);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }
}

/// A request in the batch, until it is dropped.
#[derive(Debug)]
pub(super) struct Running<'a> {
    batch: &'a Batch,
    _slot: SemaphorePermit<'a>,
    _running: Counted<'a>,
}

impl Running<'_> {
    /// Computes so many prompt tokens, after the prefills before it.
    pub(super) async fn prefill(&self, tokens: usize) {
        let _turn = self.batch.compute.acquire().await.expect("the semaphore is never closed");
        #[expect(clippy::cast_precision_loss, reason = "token counts are small")]
        let seconds = tokens as f64 / self.batch.timing.prefill_tokens_per_second;
        self.batch.pass(Duration::from_secs_f64(seconds)).await;
    }

    /// Computes one more token of the answer.
    pub(super) async fn decode(&self) {
        let timing = &self.batch.timing;
        let others = u32::try_from(self.batch.running().saturating_sub(1)).unwrap_or(u32::MAX);
        self.batch.pass(timing.token_interval + timing.interval_per_request * others).await;
    }
}

#[derive(Debug)]
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
