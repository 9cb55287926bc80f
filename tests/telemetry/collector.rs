//! A collector that is down or hangs costs spans, never time.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tracing::dispatcher::set_default;

use crate::exchange::{RequestHeaders, Told};

const EXCHANGES: u64 = 2_000;

/// Many exchanges at once against this collector. Returns how long they took and how long the end took.
fn busy(endpoint: &str, protocol: &str) -> (Told, Duration) {
    let told = Told::new(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
    ]);
    let scope = set_default(told.telemetry.dispatch());
    let began = Instant::now();
    for _ in 0..EXCHANGES {
        told.exchange(&[], &RequestHeaders::chat());
    }
    let took = began.elapsed();
    drop(scope);
    (told, took)
}

fn ends_in_time(told: Told) {
    let counters = told.counters.clone();
    let began = Instant::now();
    told.telemetry.shutdown();
    assert!(began.elapsed() < Duration::from_secs(4), "the end took {:?}", began.elapsed());
    assert_eq!(counters.spans_ended.get(), 2 * EXCHANGES);
    assert_eq!(counters.spans_exported.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_delays_nobody() {
    // The kernel completes the connection; nobody ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for protocol in ["grpc", "http/protobuf"] {
        let (told, took) = busy(&format!("http://{}", silent.local_addr().unwrap()), protocol);
        // Waiting for one export would take its timeout of 10 s.
        assert!(took < Duration::from_secs(5), "{protocol}: {EXCHANGES} exchanges took {took:?}");
        ends_in_time(told);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_delays_nobody_and_its_spans_are_counted_as_lost() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for protocol in ["grpc", "http/protobuf"] {
        let (told, took) = busy(&format!("http://{closed}"), protocol);
        assert!(took < Duration::from_secs(5), "{protocol}: {EXCHANGES} exchanges took {took:?}");
        let failed = told.counters.spans_failed.clone();
        ends_in_time(told);
        assert!(failed.get() > 0, "{protocol}");
    }
}
