use opentelemetry::trace::TraceId;
use scheduling::{Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, Gauges, Profile};

use super::*;

fn metrics() -> Metrics {
    Metrics::new(Arc::new(Fleet::new(Profile::default())), &SelfCounters::default())
}

fn pool() -> PoolName {
    PoolName::new("default", "llama")
}

fn lines<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name)).collect()
}

#[test]
fn requests_are_counted_under_kthenas_name_and_labels() {
    let metrics = metrics();
    let model = metrics.model(&pool(), Some("llama"));
    metrics.ended(&model, "/v1/completions", Some(200), "successful_request", Duration::from_millis(3), None);
    metrics.ended(&model, "other", None, "scheduling", Duration::from_millis(3), None);
    let text = metrics.encode(false);
    let mut found = lines(&text, "kthena_router_requests_total");
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "kthena_router_requests_total{model=\"unknown\",path=\"/v1/completions\",status_code=\"200\",\
             error_type=\"successful_request\"} 1",
            "kthena_router_requests_total{model=\"unknown\",path=\"other\",status_code=\"unknown\",\
             error_type=\"scheduling\"} 1",
        ]
    );
    assert!(text.contains("# TYPE kthena_router_requests_total counter"));
    assert_eq!(lines(&text, "kthena_router_request_duration_seconds_count").len(), 2);
}

#[test]
fn a_client_cannot_make_series() {
    let metrics = metrics();
    for number in 0..5_000 {
        let model = metrics.model(&pool(), Some(&format!("made-up-{number}")));
        let path = labels::path(&format!("/v1/{number}"));
        metrics.ended(&model, path, Some(40_000), "scheduling", Duration::ZERO, None);
    }
    assert_eq!(lines(&metrics.encode(false), "kthena_router_requests_total").len(), 1);
}

#[test]
fn paths_lose_their_query() {
    assert_eq!(labels::path("/v1/chat/completions?api-version=1"), "/v1/chat/completions");
    assert_eq!(labels::path("/v1/chat/completions/x"), "other");
    assert_eq!(labels::path(""), "other");
}

#[test]
fn the_active_gauge_falls_with_its_guard() {
    let metrics = metrics();
    let name = "kthena_router_active_downstream_requests";
    let one = metrics.active(&metrics.model(&pool(), None));
    let two = metrics.active(&metrics.model(&pool(), None));
    drop(one);
    assert_eq!(lines(&metrics.encode(false), name), ["kthena_router_active_downstream_requests{model=\"unknown\"} 1"]);
    drop(two);
    assert_eq!(lines(&metrics.encode(false), name), ["kthena_router_active_downstream_requests{model=\"unknown\"} 0"]);
}

#[test]
fn an_endpoint_outside_the_fleet_has_no_series() {
    let metrics = metrics();
    metrics.picked(&pool(), "10.0.0.1:8000".parse().unwrap());
    metrics.scrape_failed("10.0.0.1:8000".parse().unwrap());
    assert!(!metrics.encode(true).contains("10.0.0.1"));
}

#[test]
fn reload_failures_exist_before_the_first() {
    let metrics = metrics();
    metrics.reload_failed(ReloadSource::Certificate);
    let text = metrics.encode(false);
    let mut found = lines(&text, "kthena_router_reload_failures_total");
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "kthena_router_reload_failures_total{source=\"certificate\"} 1",
            "kthena_router_reload_failures_total{source=\"cluster\"} 0",
            "kthena_router_reload_failures_total{source=\"config-dir\"} 0",
            "kthena_router_reload_failures_total{source=\"scheduler-config\"} 0",
            "kthena_router_reload_failures_total{source=\"tokenizers\"} 0",
        ]
    );
}

#[test]
fn what_may_be_counted_exists_before_the_first() {
    let text = metrics().encode(false);
    for series in [
        "refusals_total{reason=\"no_ready_endpoint\"}",
        "prefill_requests_total{outcome=\"ok\"}",
        "prefill_requests_total{outcome=\"deadline\"}",
        "prefill_fallbacks_total{reason=\"sequences\"}",
        "kv_events_total{type=\"stored\"}",
        "kv_replays_total{cause=\"gap\",outcome=\"failed\"}",
        "tokens_total{source=\"none\",reason=\"busy\"}",
        "model_names_total{result=\"named\"}",
    ] {
        assert!(text.contains(&format!("kthena_router_{series} 0\n")), "{series} is not in\n{text}");
    }
}

#[test]
fn an_observation_carries_its_trace() {
    let metrics = metrics();
    metrics.phase(Phase::Decide, Duration::from_micros(20), Some(Trace(TraceId::from_bytes([0xab; 16]))));
    let text = metrics.encode(true);
    let exemplar = format!("# {{trace_id=\"{}\"}}", "ab".repeat(16));
    assert_eq!(text.matches(&exemplar).count(), 1, "{text}");
}

#[test]
fn the_prefix_ratio_needs_blocks() {
    let metrics = metrics();
    let model = metrics.model(&pool(), None);
    metrics.prefix_matched(&model, 0, 0);
    metrics.prefix_matched(&model, 3, 4);
    let text = metrics.encode(false);
    assert_eq!(
        lines(&text, "kthena_router_prefix_cache_match_ratio_count"),
        ["kthena_router_prefix_cache_match_ratio_count{model=\"unknown\"} 1"]
    );
    assert_eq!(
        lines(&text, "kthena_router_prefix_cache_match_ratio_sum"),
        ["kthena_router_prefix_cache_match_ratio_sum{model=\"unknown\"} 0.75"]
    );
}

fn declare(fleet: &Fleet, addresses: &[&str]) {
    let endpoints = addresses.iter().map(|address| DeclaredEndpoint {
        address: address.parse().unwrap(),
        name: "default/pod".into(),
        labels: Arc::default(),
        ready: true,
        engine: EngineKind::Vllm,
    });
    let pool = DeclaredPool { name: pool(), picker: None, endpoints: endpoints.collect() };
    fleet.apply(Event::Declared(Declared { pools: vec![pool], ..Declared::default() }));
}

#[test]
fn the_series_of_an_endpoint_leave_with_it() {
    let fleet = Arc::new(Fleet::new(Profile::default()));
    let metrics = Metrics::new(Arc::clone(&fleet), &SelfCounters::default());
    let (stays, leaves) = ("10.0.0.1:8000", "10.0.0.2:8000");
    declare(&fleet, &[stays, leaves]);
    for address in [stays, leaves, leaves] {
        metrics.picked(&pool(), address.parse().unwrap());
    }
    let decisions = |text: &str| lines(text, "kthena_router_decisions_total").join("\n");
    let before = metrics.encode(false);
    assert!(decisions(&before).contains("endpoint=\"10.0.0.2:8000\"} 2"), "{before}");
    assert_eq!(lines(&before, "kthena_router_endpoint_in_flight_requests").len(), 2);
    assert!(lines(&before, "kthena_router_scrape_age_seconds").is_empty(), "nothing was scraped");
    declare(&fleet, &[stays]);
    assert!(!metrics.encode(false).contains(leaves));
    metrics.picked(&pool(), stays.parse().unwrap());
    assert!(decisions(&metrics.encode(false)).contains("endpoint=\"10.0.0.1:8000\"} 2"));
}

#[test]
fn in_flight_is_read_from_the_fleet_when_scraped() {
    let fleet = Arc::new(Fleet::new(Profile::default()));
    let metrics = Metrics::new(Arc::clone(&fleet), &SelfCounters::default());
    declare(&fleet, &["10.0.0.1:8000"]);
    let shown = || {
        let text = metrics.encode(false);
        lines(&text, "kthena_router_endpoint_in_flight_requests").concat()
    };
    let load = Arc::clone(&fleet.snapshot().pools[&pool()].endpoints[0].load);
    let in_flight = load.begin(10);
    assert!(shown().ends_with(" 1"), "{}", shown());
    drop(in_flight);
    assert!(shown().ends_with(" 0"), "{}", shown());
}

#[test]
fn a_model_that_an_engine_serves_is_a_label_up_to_the_cap() {
    let fleet = Arc::new(Fleet::new(Profile::default()));
    let metrics = Metrics::new(Arc::clone(&fleet), &SelfCounters::default());
    declare(&fleet, &["10.0.0.1:8000"]);
    let models: Vec<Arc<str>> = (0..labels::MAX_MODELS + 5).map(|number| format!("m{number}").into()).collect();
    let gauges = Gauges { models: Some(models.clone().into()), ..Gauges::default() };
    fleet.apply(Event::Scraped { address: "10.0.0.1:8000".parse().unwrap(), gauges });
    let named: Vec<_> = models.iter().map(|model| metrics.model(&pool(), Some(model))).collect();
    assert_eq!(named[0].as_str(), "m0");
    assert_eq!(named.iter().filter(|name| name.as_str() == "other").count(), 5);
    assert_eq!(metrics.model(&pool(), Some("nobody's")).as_str(), "unknown");
    assert_eq!(metrics.model(&PoolName::new("other", "pool"), Some("m-new")).as_str(), "unknown");
}
