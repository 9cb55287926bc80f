//! What is counted of prefills that run apart from their decode.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::{DurationLabels, ModelName, OutcomeLabels, ReasonLabels, Status, Trace};
use super::{HistogramFamily, REQUEST_SECONDS, begin};
use crate::prefill::{CallError, Unsplittable};

/// The outcome of a call that did what it should.
pub const OK: &str = "ok";
/// The outcome of a call that nobody waited for any more.
pub const CANCELLED: &str = "cancelled";

/// The counters of prefills.
#[derive(Debug)]
pub struct PrefillMetrics {
    calls: Family<OutcomeLabels, Counter>,
    duration: HistogramFamily<DurationLabels>,
    decode_duration: HistogramFamily<DurationLabels>,
    fallbacks: Family<ReasonLabels, Counter>,
    orphaned: Counter,
}

impl Default for PrefillMetrics {
    fn default() -> Self {
        let seconds = || HistogramWithExemplars::new(REQUEST_SECONDS.into_iter());
        let (calls, fallbacks) = (Family::default(), Family::default());
        let outcomes = CallError::CODES.into_iter().chain([OK, CANCELLED]);
        begin(&calls, outcomes.map(|outcome| OutcomeLabels { outcome }));
        let reasons = CallError::CODES.into_iter().chain(Unsplittable::ALL.map(Unsplittable::code));
        begin(&fallbacks, reasons.map(|reason| ReasonLabels { reason }));
        Self {
            calls,
            duration: Family::new_with_constructor(seconds),
            decode_duration: Family::new_with_constructor(seconds),
            fallbacks,
            orphaned: Counter::default(),
        }
    }
}

impl PrefillMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("prefill_requests", "Prefill calls by outcome", self.calls.clone());
        registry.register(
            "request_prefill_duration_seconds",
            "Time of a prefill call, one for each try",
            self.duration.clone(),
        );
        registry.register(
            "request_decode_duration_seconds",
            "Time from the answer that sent a request to decode to the end of its stream, where prefill ran apart",
            self.decode_duration.clone(),
        );
        registry.register(
            "prefill_fallbacks",
            "Requests that decode did alone although prefill was to run apart, by reason",
            self.fallbacks.clone(),
        );
        registry.register(
            "prefill_orphaned",
            "Prefills that were made and whose decode never answered; needs response_header_mode SEND",
            self.orphaned.clone(),
        );
    }

    /// A prefill call ended.
    pub fn called(
        &self,
        model: &ModelName,
        path: &'static str,
        outcome: &'static str,
        status: Option<u16>,
        took: Duration,
        trace: Option<Trace>,
    ) {
        self.calls.get_or_create(&OutcomeLabels { outcome }).inc();
        let labels = DurationLabels { model: model.clone(), path, status_code: Status::new(status) };
        self.duration.get_or_create(&labels).observe(took.as_secs_f64(), trace, None);
    }

    /// A request whose prefill ran apart has ended.
    pub fn decoded(
        &self,
        model: &ModelName,
        path: &'static str,
        status: Option<u16>,
        took: Duration,
        trace: Option<Trace>,
    ) {
        let labels = DurationLabels { model: model.clone(), path, status_code: Status::new(status) };
        self.decode_duration.get_or_create(&labels).observe(took.as_secs_f64(), trace, None);
    }

    /// Decode does a request alone although prefill was to run apart.
    pub fn fell_back(&self, reason: &'static str) {
        self.fallbacks.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A prefill was made for nothing.
    pub fn orphaned(&self) {
        self.orphaned.inc();
    }
}
