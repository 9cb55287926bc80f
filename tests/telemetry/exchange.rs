//! One exchange with a decision that a reader can check by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::metrics::{Metrics, SelfCounters};
use kthena_ext_proc::observer::{BodyMode, ExchangeObserver, Observer};
use kthena_ext_proc::recent::Recent;
use kthena_ext_proc::telemetry::settings::Settings;
use kthena_ext_proc::telemetry::{LogFormat, Telemetry};
use scheduling::{
    CandidateReport, Decision, Endpoint, EngineKind, FilterReport, Headers, Moment, PoolName, Profile, Reason, Report,
    ScorerReport, Slot,
};
use tonic::metadata::MetadataMap;

/// The first candidate of every decision here.
pub(crate) const PICKED: &str = "10.0.0.1:8000";
/// The second, which the filter removed.
pub(crate) const REMOVED: &str = "10.0.0.2:8000";

/// Everything behind an observer.
pub(crate) struct Told {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) counters: SelfCounters,
    pub(crate) telemetry: Telemetry,
    pub(crate) observer: Observer,
}

impl Told {
    /// With these `OTEL_*` variables and no others.
    pub(crate) fn new(variables: &[(&str, &str)]) -> Self {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let settings = Settings::read(&variable);
        assert_eq!(settings.warnings, [""; 0]);
        let counters = SelfCounters::default();
        let telemetry = Telemetry::new(&settings, LogFormat::Text, "info", &counters, std::io::sink);
        let fleet = Arc::new(Fleet::new(Profile::default()));
        let metrics = Arc::new(Metrics::new(Arc::clone(&fleet), &counters));
        let recent = Arc::new(Recent::default());
        let observer = Observer::new(Arc::clone(&metrics), Arc::clone(&recent), None, telemetry.tracing());
        Self { fleet, metrics, recent, counters, telemetry, observer }
    }

    /// One exchange from its first message to its end.
    pub(crate) fn exchange(&self, metadata: &[(&'static str, &str)], headers: &RequestHeaders) -> Option<String> {
        let mut exchange = self.begin(metadata, headers);
        let decision = decision();
        exchange.decided(Ok(&decision), false);
        let traceparent = exchange.traceparent();
        exchange.answered();
        exchange.response(Some(200), Some(PICKED.parse().unwrap()));
        traceparent
    }

    /// An exchange up to its decision.
    pub(crate) fn begin(&self, metadata: &[(&'static str, &str)], headers: &RequestHeaders) -> ExchangeObserver {
        let mut map = MetadataMap::new();
        for (name, value) in metadata {
            map.insert(*name, value.parse().unwrap());
        }
        let mut exchange = self.observer.stream_opened(&map);
        exchange.request(&pool(), "req-1", headers, BodyMode::Buffered);
        exchange.body_read(100);
        exchange
    }
}

pub(crate) fn pool() -> PoolName {
    PoolName::new("default", "llama")
}

/// Request headers from a list.
#[derive(Debug, Default)]
pub(crate) struct RequestHeaders(Vec<(&'static str, String)>);

impl RequestHeaders {
    pub(crate) fn chat() -> Self {
        Self(vec![(":method", "POST".into()), (":path", "/v1/chat/completions".into())])
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.push((name, value.to_owned()));
        self
    }
}

impl Headers for RequestHeaders {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

fn endpoint(address: &str, name: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: address.parse::<SocketAddr>().unwrap(),
        slot: Slot(0),
        name: name.into(),
        labels: Arc::new(BTreeMap::new()),
        ready: true,
        engine: EngineKind::Vllm,
        gauges: None,
        load: Arc::default(),
    })
}

/// The first endpoint wins with 0.75; the second was removed.
pub(crate) fn decision() -> Arc<Decision> {
    let kept =
        CandidateReport { removed_by: None, total: Some(0.75), in_flight: 3, matched_blocks: 2, held_tokens: None };
    let removed =
        CandidateReport { removed_by: Some(0), total: None, in_flight: 9, matched_blocks: 0, held_tokens: None };
    Arc::new(Decision {
        report: Report {
            pool: pool(),
            model: Some("llama-3".to_owned()),
            route: Some("default/route".into()),
            model_server: Some("default/server".into()),
            filters: vec![FilterReport { name: "least-request", before: 2, after: 1 }],
            scorers: vec![
                ScorerReport { name: "prefix-cache", weight: 1.0, scores: vec![Some(0.75), None] },
                ScorerReport { name: "gpu-usage", weight: 2.0, scores: vec![None, None] },
            ],
            endpoints: Arc::new([endpoint(PICKED, "default/pod-1"), endpoint(REMOVED, "default/pod-2")]),
            candidates: vec![kept, removed],
            blocks: 4,
            kv: None,
            trade: None,
            at: Moment::after(Duration::from_secs(1)),
        },
        ranked: vec![0],
        reason: Reason::OnlyCandidate,
        rewrite_model: None,
        blocks: Arc::from([]),
        uncached_tokens: 0,
        disaggregation: None,
    })
}
