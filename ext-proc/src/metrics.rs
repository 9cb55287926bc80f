//! What is counted, for Prometheus. Kthena's names (`kthena_router_*`) for what they describe, ours
//! with the same prefix.
//!
//! Every label is bounded: a model nobody declares is `unknown`, a path outside [`labels::path`]'s list is
//! `other`, endpoints are those of the fleet. Gauges of the fleet are read when scraped, so they
//! cannot drift from what decides.

pub mod exposition;
pub mod fleet;
pub mod labels;
pub mod prefill;

use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use scheduling::{PoolName, RefusalKind};

use crate::fleet::Fleet;
use crate::kv_events::KvMetrics;
use crate::model_name::ModelNameMetrics;
use crate::tokens::TokenMetrics;
use crate::xds::XdsMetrics;
use fleet::{EndpointCounters, FleetCollector};
use labels::{DurationLabels, KnownModels, ModelLabels, ModelName, ReasonLabels, RequestLabels, SourceLabels, Trace};
use prefill::PrefillMetrics;

/// Kthena's buckets for the duration of a request, in seconds.
const REQUEST_SECONDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets for a phase of an exchange, in seconds: a decision takes microseconds, a body milliseconds.
const PHASE_SECONDS: [f64; 14] =
    [10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 250e-3, 1.0, 10.0];
/// Kthena's buckets for a ratio.
const RATIO: [f64; 9] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

/// A part of an exchange, of which the time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the request's headers to the end of its body.
    ReadBody,
    /// From the whole body to the decision: parse, wait for the pool's lock, schedule.
    Decide,
    /// From the decision to the answer to Envoy.
    Answer,
}

/// What failed to reload; the last good state stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadSource {
    /// The manifests in `--config-dir`.
    ConfigDir,
    /// The file of `--scheduler-config`.
    SchedulerConfig,
    /// The certificate of `--cert-path`.
    Certificate,
    /// An object of the cluster.
    Cluster,
    /// The files of `--tokenizer-dir`.
    Tokenizers,
}

impl ReloadSource {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ConfigDir, Self::SchedulerConfig, Self::Certificate, Self::Cluster, Self::Tokenizers];

    /// The metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigDir => "config-dir",
            Self::SchedulerConfig => "scheduler-config",
            Self::Certificate => "certificate",
            Self::Cluster => "cluster",
            Self::Tokenizers => "tokenizers",
        }
    }
}

/// What telemetry itself counts. Made before all else, shared by clones.
#[derive(Clone, Debug, Default)]
pub struct SelfCounters {
    /// Sampled spans that ended.
    pub spans_ended: Counter,
    /// Spans that the collector took.
    pub spans_exported: Counter,
    /// Spans that an export lost.
    pub spans_failed: Counter,
    /// Access log lines that found the queue full.
    pub access_log_dropped: Counter,
}

type HistogramFamily<L> = Family<L, HistogramWithExemplars<Trace>, fn() -> HistogramWithExemplars<Trace>>;

/// Makes the series of a closed set of labels: `increase()` sees the first event of one that exists from the start.
pub(crate) fn begin<L, M, C>(family: &Family<L, M, C>, labels: impl IntoIterator<Item = L>)
where
    L: Clone + Eq + Hash,
    C: MetricConstructor<M>,
{
    for labels in labels {
        drop(family.get_or_create(&labels));
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    fleet: Arc<Fleet>,
    models: KnownModels,
    requests: Family<RequestLabels, Counter>,
    request_duration: HistogramFamily<DurationLabels>,
    active: Family<ModelLabels, Gauge>,
    prefix_match: Family<ModelLabels, Histogram, fn() -> Histogram>,
    refusals: Family<ReasonLabels, Counter>,
    phases: HistogramFamily<labels::PhaseLabels>,
    read_body: HistogramWithExemplars<Trace>,
    decide: HistogramWithExemplars<Trace>,
    answer: HistogramWithExemplars<Trace>,
    endpoints: Arc<EndpointCounters>,
    reload_failures: Family<SourceLabels, Counter>,
    bodies_hidden: Counter,
    bodies_read_before: Counter,
    held: Counter,
    duplicates: Counter,
    /// What is heard of the engines' caches.
    pub kv_events: Arc<KvMetrics>,
    /// Where the token ids of prompts come from.
    pub tokens: Arc<TokenMetrics>,
    /// What the step before the route has done.
    pub model_names: Arc<ModelNameMetrics>,
    /// What Envoys were told of endpoints.
    pub xds: Arc<XdsMetrics>,
    prefill: PrefillMetrics,
}

impl Metrics {
    /// The metrics of the process; the fleet's own are read from `fleet` at every scrape.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, counters: &SelfCounters) -> Self {
        let endpoints = Arc::new(EndpointCounters::default());
        let phases: HistogramFamily<labels::PhaseLabels> =
            Family::new_with_constructor(|| HistogramWithExemplars::new(PHASE_SECONDS.into_iter()));
        let phase = |phase| phases.get_or_create_owned(&labels::PhaseLabels { phase });
        let mut metrics = Self {
            registry: Registry::with_prefix("kthena_router"),
            models: KnownModels::new(Arc::clone(&fleet)),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(|| HistogramWithExemplars::new(REQUEST_SECONDS.into_iter())),
            active: Family::default(),
            prefix_match: Family::new_with_constructor(|| Histogram::new(RATIO)),
            refusals: Family::default(),
            read_body: phase("read_body"),
            decide: phase("decide"),
            answer: phase("answer"),
            phases,
            endpoints,
            reload_failures: Family::default(),
            bodies_hidden: Counter::default(),
            bodies_read_before: Counter::default(),
            held: Counter::default(),
            duplicates: Counter::default(),
            kv_events: Arc::default(),
            tokens: Arc::default(),
            model_names: Arc::default(),
            xds: Arc::default(),
            prefill: PrefillMetrics::default(),
            fleet,
        };
        begin(&metrics.reload_failures, ReloadSource::ALL.map(|source| SourceLabels { source: source.name() }));
        begin(&metrics.refusals, RefusalKind::CODES.map(|reason| ReasonLabels { reason }));
        metrics.register(counters);
        metrics
    }

    fn register(&mut self, counters: &SelfCounters) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests that ended, refused ones among them, by what they asked for and how they ended",
            self.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from the first message of an exchange to the end of its stream",
            self.request_duration.clone(),
        );
        registry.register(
            "active_downstream_requests",
            "Requests that an endpoint was picked for and that have not ended",
            self.active.clone(),
        );
        registry.register(
            "prefix_cache_match_ratio",
            "Share of a prompt's blocks that the picked endpoint probably held in its cache when it was picked",
            self.prefix_match.clone(),
        );
        registry.register("refusals", "Requests that got no endpoint, by reason", self.refusals.clone());
        registry.register(
            "exchange_phase_duration_seconds",
            "Time of an exchange by phase: until the body is read, then until the decision, then until the answer to Envoy",
            self.phases.clone(),
        );
        registry.register(
            "reload_failures",
            "Changes that could not be read, so that the last good state stays in force, by source",
            self.reload_failures.clone(),
        );
        registry.register(
            "bodies_hidden",
            "Requests whose body the data plane did not show: routed by load alone",
            self.bodies_hidden.clone(),
        );
        registry.register(
            "bodies_read_before",
            "Requests whose body the step before the route had read, so that the pick did not read it again",
            self.bodies_read_before.clone(),
        );
        registry.register(
            "loads_held",
            "Requests whose stream ended early, so that their load was held for an estimate",
            self.held.clone(),
        );
        registry.register(
            "duplicate_streams",
            "Streams that asked again for a request that was answered before",
            self.duplicates.clone(),
        );
        self.kv_events.register(registry);
        self.tokens.register(registry);
        self.model_names.register(registry);
        self.xds.register(registry);
        self.prefill.register(registry);
        let spans = [
            ("trace_spans_ended", "Sampled spans that ended, exported or not", &counters.spans_ended),
            ("trace_spans_exported", "Spans that the collector took", &counters.spans_exported),
            ("trace_spans_failed", "Spans that were lost with an export that failed", &counters.spans_failed),
            (
                "access_log_dropped",
                "Lines of the access log that were left out because its queue was full",
                &counters.access_log_dropped,
            ),
        ];
        for (name, help, counter) in spans {
            registry.register(name, help, counter.clone());
        }
        registry.register_collector(Box::new(FleetCollector::new(
            Arc::clone(&self.fleet),
            Arc::clone(&self.endpoints),
            Arc::clone(&self.kv_events),
        )));
    }

    /// All metrics as text: `OpenMetrics` 1.0 with exemplars, else the Prometheus format 0.0.4.
    #[must_use]
    pub fn encode(&self, openmetrics: bool) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("Metrics could not be encoded.");
        }
        if openmetrics { text } else { exposition::to_prometheus(&text) }
    }

    /// The label for a model name: itself when the pool knows it, else `unknown`.
    #[must_use]
    pub fn model(&self, pool: &PoolName, model: Option<&str>) -> ModelName {
        self.models.label(pool, model)
    }

    /// An endpoint of `pool` was picked.
    pub fn picked(&self, pool: &PoolName, address: SocketAddr) {
        self.endpoints.decided(&self.fleet, pool, address);
    }

    /// The picked endpoint probably holds `matched` of the prompt's `blocks`.
    pub fn prefix_matched(&self, model: &ModelName, matched: u32, blocks: u32) {
        if blocks > 0 {
            let ratio = f64::from(matched) / f64::from(blocks);
            self.prefix_match.get_or_create(&ModelLabels { model: model.clone() }).observe(ratio.min(1.0));
        }
    }

    /// A request was refused.
    pub fn refused(&self, kind: &RefusalKind) {
        self.refusals.get_or_create(&ReasonLabels { reason: kind.code() }).inc();
    }

    /// Counts a request of `model` as active until the guard is dropped.
    pub fn active(&self, model: &ModelName) -> Active {
        let gauge = self.active.get_or_create_owned(&ModelLabels { model: model.clone() });
        gauge.inc();
        Active(gauge)
    }

    /// An exchange ended. `status` is the HTTP status where it is known.
    pub fn ended(
        &self,
        model: &ModelName,
        path: &'static str,
        status: Option<u16>,
        error_type: &'static str,
        took: Duration,
        trace: Option<Trace>,
    ) {
        let (model, status) = (model.clone(), labels::Status::new(status));
        self.requests
            .get_or_create(&RequestLabels { model: model.clone(), path, status_code: status, error_type })
            .inc();
        let labels = DurationLabels { model, path, status_code: status };
        self.request_duration.get_or_create(&labels).observe(took.as_secs_f64(), trace, None);
    }

    /// A phase of an exchange took so long.
    pub fn phase(&self, phase: Phase, took: Duration, trace: Option<Trace>) {
        let histogram = match phase {
            Phase::ReadBody => &self.read_body,
            Phase::Decide => &self.decide,
            Phase::Answer => &self.answer,
        };
        histogram.observe(took.as_secs_f64(), trace, None);
    }

    /// The data plane hid a request's body.
    pub fn body_hidden(&self) {
        self.bodies_hidden.inc();
    }

    /// The step before the route had read a request's body.
    pub fn body_read_before(&self) {
        self.bodies_read_before.inc();
    }

    /// A load is held beyond its stream.
    pub fn held(&self) {
        self.held.inc();
    }

    /// A second stream asked for the same request.
    pub fn duplicate(&self) {
        self.duplicates.inc();
    }

    /// The counters of prefills that run apart.
    #[must_use]
    pub fn prefill(&self) -> &PrefillMetrics {
        &self.prefill
    }

    /// An engine did not answer a scrape in time, or not with its metrics.
    pub fn scrape_failed(&self, address: SocketAddr) {
        self.endpoints.scrape_failed(&self.fleet, address);
    }

    /// A reload failed; the last good state stays.
    pub fn reload_failed(&self, source: ReloadSource) {
        self.reload_failures.get_or_create(&SourceLabels { source: source.name() }).inc();
    }
}

/// One active request; dropping it ends the count.
#[derive(Debug)]
#[must_use = "dropping the guard ends the count"]
pub struct Active(Gauge);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
