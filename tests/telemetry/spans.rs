//! The span tree that a collector receives.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use scheduling::{KvMeasure, Refusal, RefusalKind};
use tests::otlp_sink::{OtlpSink, Span};
use tracing::dispatcher::set_default;

use crate::exchange::{PICKED, RequestHeaders, Told, decision};

const EXCHANGE: &str = "envoy.service.ext_proc.v3.ExternalProcessor/Process";
const ENVOYS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const CLIENTS: &str = "00-11111111111111111111111111111111-2222222222222222-01";
const DEADLINE: Duration = Duration::from_secs(20);

async fn traced() -> (OtlpSink, Told) {
    let sink = OtlpSink::start().await.unwrap();
    let told = Told::new(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.endpoint()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_SERVICE_NAME", "picker-under-test"),
    ]);
    (sink, told)
}

/// The exchange's span and the decision's, once the sink has them.
async fn tree(sink: &OtlpSink) -> (Span, Option<Span>) {
    let find = |spans: &[Span]| {
        let find = |name: &str| spans.iter().find(|span| span.name == name).cloned();
        find(EXCHANGE).map(|exchange| (exchange, find("kthena.schedule")))
    };
    sink.wait_for(DEADLINE, find).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parent_is_envoys_span_from_the_metadata() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    let given = told.exchange(&[("traceparent", ENVOYS)], &RequestHeaders::chat().with("traceparent", CLIENTS));
    assert_eq!(given, None, "Envoy traces: it would overwrite ours");
    let (exchange, schedule) = tree(&sink).await;
    assert_eq!(exchange.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(exchange.parent_id, "b7ad6b7169203331");
    assert_eq!(exchange.service, "picker-under-test");
    let schedule = schedule.unwrap();
    assert_eq!((&schedule.parent_id, &schedule.trace_id), (&exchange.span_id, &exchange.trace_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_metadata_the_parent_is_the_clients_span() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    let given = told.exchange(&[], &RequestHeaders::chat().with("traceparent", CLIENTS));
    let (exchange, _) = tree(&sink).await;
    assert_eq!(exchange.parent_id, "2222222222222222");
    assert_eq!(
        given,
        Some(format!("00-{}-{}-01", "1".repeat(32), exchange.span_id)),
        "the engine's parent is our span"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_parent_a_trace_begins() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    let given = told.exchange(&[], &RequestHeaders::chat()).unwrap();
    let (exchange, _) = tree(&sink).await;
    assert_eq!(exchange.parent_id, "");
    assert_eq!(given, format!("00-{}-{}-01", exchange.trace_id, exchange.span_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsampled_parent_leaves_no_span() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    told.exchange(&[("traceparent", &ENVOYS.replace("-01", "-00"))], &RequestHeaders::chat());
    told.exchange(&[], &RequestHeaders::chat().with("traceparent", CLIENTS));
    let (exchange, _) = tree(&sink).await;
    assert_eq!(exchange.trace_id, "1".repeat(32), "the later exchange arrived, the unsampled one did not");
    assert_eq!(told.counters.spans_ended.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_tell_the_decision() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    told.exchange(&[], &RequestHeaders::chat());
    let (exchange, schedule) = tree(&sink).await;
    for (key, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.status_code", "OK"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "llama-3"),
        ("kthena.pool.namespace", "default"),
        ("kthena.pool.name", "llama"),
        ("kthena.route.name", "default/route"),
        ("kthena.outcome", "picked"),
        ("kthena.picked.endpoint", PICKED),
        ("server.address", "10.0.0.1"),
        ("server.port", "8000"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(exchange.attribute(key), Some(value), "{key} of {:#?}", exchange.attributes);
    }
    let schedule = schedule.unwrap();
    assert!(schedule.start >= exchange.start && schedule.end <= exchange.end);
    assert!(schedule.attribute("kthena.candidates.top").unwrap().contains("10.0.0.1:8000=0.750"));
    let names: Vec<&str> = schedule.events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["kthena.filter", "kthena.score", "kthena.score"]);
    let event = |index: usize, key: &str| {
        schedule.events[index].1.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    };
    assert_eq!(event(0, "kthena.plugin.name"), Some("least-request"));
    assert_eq!((event(0, "kthena.candidates.before"), event(0, "kthena.candidates.after")), (Some("2"), Some("1")));
    assert_eq!((event(1, "kthena.plugin.name"), event(1, "kthena.score.max")), (Some("prefix-cache"), Some("0.75")));
    assert_eq!(event(2, "kthena.score.max"), None, "a scorer without a measure has no best score");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_the_prompt_that_is_held_is_the_engines_own_account_where_there_is_one() {
    for (kv, held_tokens, wanted) in [
        (None, None, ("0.5", "approx", None)),
        (Some(KvMeasure::NoEvents), None, ("0.5", "approx", Some("approximate: no endpoint has sent KV events"))),
        (Some(KvMeasure::Exact { tokens: 64 }), Some(48), ("0.75", "exact", Some("exact, 64 tokens looked up"))),
    ] {
        let (sink, told) = traced().await;
        let _scope = set_default(told.telemetry.dispatch());
        let mut decision = Arc::unwrap_or_clone(decision());
        decision.report.kv = kv;
        decision.report.candidates[0].held_tokens = held_tokens;
        let mut exchange = told.begin(&[], &RequestHeaders::chat());
        exchange.decided(Ok(&Arc::new(decision)), false);
        drop(exchange);
        let (_, schedule) = tree(&sink).await;
        let schedule = schedule.unwrap();
        let attribute = |key: &str| schedule.attribute(&format!("kthena.{key}"));
        let found = (attribute("prefix.matched_ratio"), attribute("prefix.source"), attribute("kv.measure"));
        assert_eq!(found, (Some(wanted.0), Some(wanted.1), wanted.2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_span_lasts_as_long_as_the_exchange_also_when_something_ran_in_it_before() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    let mut exchange = told.begin(&[], &RequestHeaders::chat());
    exchange.decided(Ok(&decision()), false);
    exchange.span().in_scope(|| {});
    let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    exchange.answered();
    drop(exchange);
    let (exchange, _) = tree(&sink).await;
    assert!(Duration::from_nanos(exchange.end) >= later, "{exchange:?} ended before {later:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_error_with_its_code() {
    let (sink, told) = traced().await;
    let _scope = set_default(told.telemetry.dispatch());
    let mut exchange = told.begin(&[], &RequestHeaders::chat());
    exchange.decided(Err(&Refusal::from(RefusalKind::UnknownModel("gpt-9".into()))), false);
    exchange.refused(404);
    drop(exchange);
    let (exchange, schedule) = tree(&sink).await;
    assert_eq!(exchange.attribute("error.type"), Some("model_not_found"));
    assert_eq!(exchange.attribute("http.response.status_code"), Some("404"));
    assert!(schedule.is_none(), "it never came to candidates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_there_is_no_span() {
    let told = Told::new(&[]);
    assert!(told.telemetry.tracing().is_none());
    let _scope = set_default(told.telemetry.dispatch());
    let exchange = told.begin(&[("traceparent", ENVOYS)], &RequestHeaders::chat());
    assert!(exchange.span().is_disabled());
    assert_eq!(exchange.traceparent(), None);
}
