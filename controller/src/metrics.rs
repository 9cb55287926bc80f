//! What is counted, for Prometheus: `kthena_controller_*`. Every label is bounded.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::attachment::Attachments;
use crate::observe::store::Store;
use crate::queue::Queue;

/// Buckets for the duration of a pass, in seconds: planning takes microseconds, a thousand writes a minute.
const PASS_SECONDS: [f64; 12] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0];

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// `create`, `apply`, `patch`, `delete`, `update`.
    pub verb: &'static str,
    /// The kind; `ModelServing/status` for a status.
    pub kind: &'static str,
    /// `ok`, or why not: `conflict`, `exists`, `gone`, `forbidden`, `invalid`, `throttled`, `timeout`, `error`.
    pub outcome: &'static str,
}

/// How passes end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// A kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// How calls of Envoy Gateway end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    /// `endpoints`, `cluster`, `translation`.
    hook: &'static str,
    /// `ok` or `refused`.
    outcome: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    writes: Family<WriteLabels, Counter>,
    passes: Family<OutcomeLabels, Histogram, fn() -> Histogram>,
    watch_errors: Family<KindLabels, Counter>,
    extension_calls: Family<CallLabels, Counter>,
    /// Envoys that follow endpoints, once for each cluster.
    pub endpoint_streams: Gauge,
    /// Endpoints that were sent to an Envoy.
    pub endpoint_updates: Counter,
    /// Endpoints that an Envoy refused.
    pub endpoint_refusals: Counter,
    /// Events that were not written: too many of one object, or the API server does not take them.
    pub events_dropped: Counter,
    leads: Arc<AtomicBool>,
}

impl Metrics {
    /// Metrics over these stores and this queue.
    #[must_use]
    pub fn new(store: Arc<Store>, queue: Arc<Queue>, attachments: Arc<Attachments>) -> Self {
        let mut registry = Registry::with_prefix("kthena_controller");
        let writes = Family::<WriteLabels, Counter>::default();
        registry.register("writes", "Writes to the API server, by what was written and how it ended", writes.clone());
        let histogram: fn() -> Histogram = || Histogram::new(PASS_SECONDS);
        let passes = Family::new_with_constructor(histogram);
        registry.register(
            "reconcile_duration_seconds",
            "Time of a pass over one ModelServing, by how it ended",
            passes.clone(),
        );
        let watch_errors = Family::default();
        registry.register(
            "watch_errors",
            "Lists and watches that failed, by kind; they are tried again",
            watch_errors.clone(),
        );
        let extension_calls = Family::default();
        for hook in ["endpoints", "cluster", "translation"] {
            for outcome in ["ok", "refused"] {
                // A series that exists from the start lets `increase()` see the first refusal.
                drop(extension_calls.get_or_create(&CallLabels { hook, outcome }));
            }
        }
        registry.register(
            "extension_calls",
            "Calls of Envoy Gateway, by hook; while one is refused it publishes nothing",
            extension_calls.clone(),
        );
        let endpoint_streams = Gauge::default();
        registry.register(
            "endpoint_streams",
            "Streams of Envoys that follow the endpoints of pools, one for each cluster",
            endpoint_streams.clone(),
        );
        let endpoint_updates = Counter::default();
        registry.register(
            "endpoint_updates",
            "Lists of endpoints that were sent to an Envoy",
            endpoint_updates.clone(),
        );
        let endpoint_refusals = Counter::default();
        registry.register("endpoint_refusals", "Lists of endpoints that an Envoy refused", endpoint_refusals.clone());
        let events_dropped = Counter::default();
        registry.register(
            "events_dropped",
            "Kubernetes events that were not written: too many of one object, or not taken by the API server",
            events_dropped.clone(),
        );
        registry.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let leads = Arc::new(AtomicBool::new(false));
        registry.register_collector(Box::new(State { store, queue, attachments, leads: Arc::clone(&leads) }));
        Self {
            registry,
            writes,
            passes,
            watch_errors,
            extension_calls,
            endpoint_streams,
            endpoint_updates,
            endpoint_refusals,
            events_dropped,
            leads,
        }
    }

    /// A write ended.
    pub fn wrote(&self, verb: &'static str, kind: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&WriteLabels { verb, kind, outcome }).inc();
    }

    /// A pass ended.
    pub fn passed(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&OutcomeLabels { outcome }).observe(took.as_secs_f64());
    }

    /// A list or a watch failed.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&KindLabels { kind }).inc();
    }

    /// A call of Envoy Gateway was answered.
    pub fn hooked(&self, hook: &'static str, outcome: &'static str) {
        self.extension_calls.get_or_create(&CallLabels { hook, outcome }).inc();
    }

    /// Whether this process leads.
    pub fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut page, &self.registry) {
            let _ = write!(page, "# {error}");
        }
        page
    }
}

/// Read when scraped, so that it cannot drift from what decides.
#[derive(Debug)]
struct State {
    store: Arc<Store>,
    queue: Arc<Queue>,
    attachments: Arc<Attachments>,
    leads: Arc<AtomicBool>,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (due, failing) = self.queue.depth();
        gauge(&mut encoder, "queue_depth", "ModelServings whose pass is due.", &[("", "", count(due))])?;
        gauge(&mut encoder, "failing", "ModelServings whose last pass failed.", &[("", "", count(failing))])?;
        let (due, stuck) = self.attachments.depth();
        gauge(
            &mut encoder,
            "attachment_queue_depth",
            "ModelServers and ModelRoutes whose pass is due.",
            &[("", "", count(due))],
        )?;
        gauge(
            &mut encoder,
            "attachment_failing",
            "ModelServers and ModelRoutes whose last pass failed.",
            &[("", "", count(stuck))],
        )?;
        let leads = i64::from(self.leads.load(Ordering::Relaxed));
        gauge(&mut encoder, "leader", "1 if this replica leads and writes, else 0.", &[("", "", leads)])?;
        let (mut servings, mut ready, mut unready, mut missing, mut outdated) = (0, 0, 0, 0, 0);
        for serving in self.store.servings().good() {
            servings += 1;
            let Some(status) = &serving.status else { continue };
            ready += i64::from(status.available_replicas);
            unready += i64::from((status.replicas - status.available_replicas).max(0));
            missing += i64::from((serving.spec.replicas.unwrap_or(1) - status.replicas).max(0));
            outdated += i64::from((status.replicas - status.updated_replicas).max(0));
        }
        let states = [("ready", ready), ("unready", unready), ("missing", missing), ("outdated", outdated)];
        let states = states.map(|(state, number)| ("state", state, number));
        gauge(
            &mut encoder,
            "groups",
            "Serving groups by state, as every replica sees them; an outdated one is ready or unready too.",
            &states,
        )?;
        let [pods, services, pod_groups, revisions] = self.store.sizes().map(count);
        let [servers, routes, endpoints] = self.attachments.sizes().map(count);
        let kinds = [
            ("kind", "ModelServing", servings),
            ("kind", "Pod", pods),
            ("kind", "Service", services),
            ("kind", "PodGroup", pod_groups),
            ("kind", "ControllerRevision", revisions),
            ("kind", "ModelServer", servers),
            ("kind", "ModelRoute", routes),
            ("kind", "Endpoint", endpoints),
        ];
        gauge(&mut encoder, "objects", "Objects that this replica watches, by kind.", &kinds)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Encodes a gauge; a label without a name is none.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[(&str, &str, i64)],
) -> Result<(), std::fmt::Error> {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (label, value, number) in series {
        let number = ConstGauge::new(*number);
        if label.is_empty() {
            return number.encode(metric);
        }
        number.encode(metric.encode_family(&[(*label, *value)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_was_counted_and_what_is() {
        let metrics = Metrics::new(Arc::default(), Arc::default(), Arc::default());
        metrics.wrote("create", "Pod", "ok");
        metrics.passed("settled", Duration::from_millis(2));
        metrics.set_leads(true);
        let page = metrics.page();
        for line in [
            "kthena_controller_writes_total{verb=\"create\",kind=\"Pod\",outcome=\"ok\"} 1",
            "kthena_controller_reconcile_duration_seconds_count{outcome=\"settled\"} 1",
            "kthena_controller_leader 1",
            "kthena_controller_groups{state=\"ready\"} 0",
            "kthena_controller_objects{kind=\"Pod\"} 0",
            "kthena_controller_attachment_failing 0",
            "kthena_controller_build_info{version=",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
