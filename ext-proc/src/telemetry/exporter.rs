//! What stands around the OTLP exporter: a deadline, a count of what was lost, one log line for a
//! collector that is down; and the exporter for `console`.

use std::fmt::Debug;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Handle;

use crate::metrics::SelfCounters;

/// Runs an exporter's work within the runtime, although the SDK's batch thread drives it.
#[derive(Debug)]
pub(super) struct Bounded<E> {
    pub(super) inner: E,
    pub(super) runtime: Handle,
    pub(super) timeout: Duration,
    pub(super) counters: SelfCounters,
    pub(super) failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Bounded<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let work = async {
            match tokio::time::timeout(self.timeout, self.inner.export(batch)).await {
                Ok(result) => result,
                Err(_) => Err(OTelSdkError::Timeout(self.timeout)),
            }
        };
        let result = Within { runtime: &self.runtime, work: Box::pin(work) }.await;
        match &result {
            Ok(()) => {
                self.counters.spans_exported.inc_by(spans);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("Spans are exported again.");
                }
            }
            Err(error) => {
                self.counters.spans_failed.inc_by(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "Spans cannot be exported and are lost until the collector answers.");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let _runtime = self.runtime.enter();
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A future that is polled within a runtime's context, so that timers and sockets find it.
struct Within<'a, F> {
    runtime: &'a Handle,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Within<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _runtime = self.runtime.enter();
        self.work.as_mut().poll(context)
    }
}

/// Counts spans before the bounded queue, so that what the queue drops can be seen: ended minus
/// exported minus failed.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) inner: BatchSpanProcessor,
    pub(super) counters: SelfCounters,
}

impl SpanProcessor for Counted {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.counters.spans_ended.inc();
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Writes each span as one line to standard output.
#[derive(Debug)]
pub(super) struct Console;

impl SpanExporter for Console {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut out = std::io::stdout().lock();
        for span in batch {
            let took = span.end_time.duration_since(span.start_time).unwrap_or_default();
            let attributes: Vec<String> =
                span.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
            let written = writeln!(
                out,
                "span name={} trace_id={} span_id={} parent_id={} kind={:?} status={:?} duration_us={} events={} {}",
                span.name,
                span.span_context.trace_id(),
                span.span_context.span_id(),
                span.parent_span_id,
                span.span_kind,
                span.status,
                took.as_micros(),
                span.events.len(),
                attributes.join(" "),
            );
            written.map_err(|error| OTelSdkError::InternalFailure(error.to_string()))?;
        }
        Ok(())
    }
}
