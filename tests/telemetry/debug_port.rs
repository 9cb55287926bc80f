//! The metrics port and the debug port, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use kthena_ext_proc::declarations::Declarations;
use kthena_ext_proc::{admin, debug};
use proto::picker_v1::explain_client::ExplainClient;
use proto::picker_v1::{DryRunRequest, GetDecisionRequest, ListDecisionsRequest};
use serde_json::{Value, json};
use tests::otlp_sink::OtlpSink;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::dispatcher::set_default;

use crate::exchange::{PICKED, REMOVED, RequestHeaders, Told};

/// A server on loopback; dropping it stops it.
struct Served {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn new(router: axum::Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }) }
    }

    async fn debug(told: &Told) -> Self {
        let config = Arc::new(Declarations::default());
        Self::new(debug::router(Arc::clone(&told.fleet), Arc::clone(&told.recent), config, Arc::default(), None)).await
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let answer = tests::client::get(self.address, path).await.unwrap();
        (answer.status, answer.json().unwrap())
    }

    async fn explain(&self) -> ExplainClient<tonic::transport::Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        ExplainClient::new(endpoint.connect().await.unwrap())
    }
}

#[tokio::test]
async fn grpc_and_json_give_the_same_record() {
    let told = Told::new(&[]);
    told.exchange(&[], &RequestHeaders::chat());
    let served = Served::debug(&told).await;
    let mut client = served.explain().await;

    let (_, shown) = served.json("/debug/decisions?request-id=req-1").await;
    let asked = GetDecisionRequest { request_id: "req-1".into() };
    let record = client.get_decision(asked).await.unwrap().into_inner();
    assert_eq!(shown["decisions"], json!([record]), "one value, two ways");

    let shown = &shown["decisions"][0];
    assert_eq!(shown["endpoint"], PICKED);
    assert_eq!(shown["served"], PICKED);
    assert_eq!((&shown["pool"], &shown["modelServer"]), (&json!("default/llama"), &json!("default/server")));
    assert_eq!(shown["bodyMode"], "buffered");
    assert_eq!(shown["filters"], json!([{"name": "least-request", "before": 2, "after": 1}]));
    assert_eq!(
        shown["candidates"][0]["scores"],
        json!([{"scorer": "prefix-cache", "value": 0.75}, {"scorer": "gpu-usage"}])
    );
    assert_eq!(shown["candidates"][0]["rank"], 0);
    assert_eq!(shown["candidates"][1]["address"], REMOVED);
    assert_eq!(shown["candidates"][1]["removedBy"], "least-request");
    assert_eq!(shown["candidates"][1].get("total"), None);

    let missing = client.get_decision(GetDecisionRequest { request_id: "other".into() }).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    assert_eq!(served.json("/debug/decisions?request-id=other").await.1, json!({"decisions": []}));
}

#[tokio::test]
async fn decisions_are_listed_newest_first_and_limited() {
    let told = Told::new(&[]);
    for _ in 0..3 {
        told.exchange(&[], &RequestHeaders::chat());
    }
    let served = Served::debug(&told).await;
    let request = ListDecisionsRequest { limit: 2, pool: "default/llama".into() };
    let listed = served.explain().await.list_decisions(request).await.unwrap().into_inner().decisions;
    assert_eq!(listed.len(), 2);
    assert!(listed[0].time >= listed[1].time);
    let (_, none) = served.json("/debug/decisions?limit=2&pool=default/other").await;
    assert_eq!(none, json!({"decisions": []}));
}

#[tokio::test]
async fn a_dry_run_of_an_unknown_pool_names_the_known_ones() {
    let told = Told::new(&[]);
    let served = Served::debug(&told).await;
    let error = served.explain().await.dry_run(DryRunRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("known: none"), "{error}");
    assert!(told.recent.newest(10, |_| true).is_empty(), "a dry run leaves no trace");
}

#[tokio::test]
async fn the_debug_port_shows_kthenas_lists_a_page_and_clear_errors() {
    let told = Told::new(&[]);
    let served = Served::debug(&told).await;
    assert_eq!(served.json("/debug/config_dump/modelroutes").await, (200, json!({"modelroutes": null})));
    let missing = served.json("/debug/config_dump/namespaces/default/pods/x").await;
    assert_eq!(missing, (404, json!({"error": "Pod not found"})));
    assert_eq!(served.json("/debug/config_dump/gateways").await.0, 404);
    assert_eq!(served.json("/debug/config_dump").await.1["lastError"], Value::Null);
    assert_eq!(served.json("/debug/fleet").await.1["endpoints"], json!([]));
    let page = tests::client::get(served.address, "/").await.unwrap();
    assert_eq!(page.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openmetrics_carries_the_trace_as_exemplar_and_the_old_format_does_not() {
    let sink = OtlpSink::start().await.unwrap();
    let told = Told::new(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.endpoint()), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    let _scope = set_default(told.telemetry.dispatch());
    told.exchange(
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        &RequestHeaders::chat(),
    );
    let exemplar = "# {trace_id=\"0af7651916cd43dd8448eb211c80319c\"}";
    let open = told.metrics.encode(true);
    let decide: Vec<&str> = open
        .lines()
        .filter(|line| line.starts_with("kthena_router_exchange_phase_duration_seconds_bucket"))
        .filter(|line| line.contains("phase=\"decide\""))
        .collect();
    assert_eq!(decide.iter().filter(|line| line.contains(exemplar)).count(), 1, "{decide:#?}");
    assert!(
        open.lines()
            .any(|line| line.starts_with("kthena_router_request_duration_seconds_bucket") && line.contains(exemplar))
    );
    assert!(open.ends_with("# EOF\n"));
    assert!(!told.metrics.encode(false).contains("trace_id"));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let told = Told::new(&[]);
    let served =
        Served::new(admin::router(Arc::clone(&told.metrics), Arc::new(|| Err("the fleet is not known")))).await;
    let (status, body) = served.json("/readyz").await;
    assert_eq!((status, &body["reason"]), (503, &json!("the fleet is not known")));
    assert_eq!(served.json("/healthz").await, (200, json!({"message": "ok"})));
}
