//! Prefills that fail, hang or take long, and clients that leave meanwhile.

use std::time::{Duration, Instant};

use tests::client::Client;
use tests::engine::{EngineConfig, Fault};
use tests::poll;
use tests::shapes::plain::Body;
use tests::shapes::standalone;

use crate::pair_world::{Plan, last_body};
use crate::world::{MODEL, SOON, envoy, long_prompt};

const CALLS: &str = "kthena_router_prefill_requests_total";
const FALLBACKS: &str = "kthena_router_prefill_fallbacks_total";

/// An engine that computes a prompt for minutes.
fn slow_prefill() -> EngineConfig {
    let mut config = EngineConfig::timed(MODEL, 1.0);
    config.timing.prefill_tokens_per_second = 1.0;
    config
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_prefill_call() {
    let pairs = Plan { prefill: slow_prefill(), ..Plan::default() }.start().await;
    for (turn, mode) in Body::VISIBLE.into_iter().enumerate() {
        let (_envoy, client) = pairs.behind(mode).await;
        let asked = tokio::spawn(client.complete("m", &long_prompt(&format!("{mode:?}"))).send());
        poll::until("the prefill", SOON, async || (pairs.prefill().load() == (1, 0)).then_some(())).await.unwrap();
        asked.abort();
        poll::until("its end", SOON, async || (pairs.prefill().load() == (0, 0)).then_some(())).await.unwrap();
        pairs.wait_for_metric(CALLS, &["outcome=\"cancelled\""], f64::from(u32::try_from(turn).unwrap() + 1)).await;
        pairs.assert_idle().await;
    }
    assert_eq!(pairs.decode().received_count(), 0);
}

#[tokio::test]
async fn load_is_counted_at_both_while_prefill_works_and_at_decode_thereafter() {
    let mut endless = EngineConfig::timed(MODEL, 1.0);
    endless.timing.token_interval = Duration::from_secs(3600);
    let pairs = Plan { decode: endless, ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let addresses = [pairs.prefill().address(), pairs.decode().address()];
    let both = async |expected: [u64; 2]| {
        poll::until(&format!("in flight {expected:?}"), SOON, async || {
            let in_flight = pairs.picker.in_flight().await.ok()?;
            (addresses.map(|it| in_flight.get(&it).copied().unwrap_or_default()) == expected).then_some(())
        })
        .await
        .unwrap();
    };
    pairs.prefill().set_fault(Fault::Slow(Duration::from_millis(500)));
    let asked = tokio::spawn(client.complete("m", &long_prompt("walter")).send());
    both([1, 1]).await;
    both([0, 1]).await;
    asked.abort();
    both([0, 0]).await;
}

#[tokio::test]
async fn a_prefill_that_hangs_is_given_up_and_decode_does_it_alone() {
    let flags = vec![("--prefill-timeout", "300ms".to_owned())];
    let pairs = Plan { flags, ..Plan::default() }.start().await;
    pairs.prefill().set_fault(Fault::Hang);
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let start = Instant::now();
    let reply = client.complete("m", &long_prompt("ken")).send().await.unwrap();
    assert_eq!((reply.status, reply.engine()), (200, Some(pairs.decode().address())));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(!last_body(pairs.decode()).contains("kv_transfer_params"));
    pairs.wait_for_metric(CALLS, &["outcome=\"deadline\""], 1.0).await;
    pairs.wait_for_metric(FALLBACKS, &["reason=\"deadline\""], 1.0).await;
    assert!(pairs.picker.log().contains("Prefill failed."));
    pairs.assert_idle().await;
}

#[tokio::test]
async fn a_prefill_that_fails_is_made_by_another_of_the_group() {
    for kill in [false, true] {
        let mut pairs = Plan { groups: vec![(2, 1), (1, 0)], ..Plan::default() }.start().await;
        if kill {
            pairs.prefills[0][0].kill().await;
        } else {
            pairs.prefill().set_fault(Fault::Status(503));
        }
        let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
        // One of the two is the first choice for each of these prompts.
        for turn in 0..8 {
            let reply = client.complete("m", &long_prompt(&format!("client {turn}"))).send().await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        let outcome = if kill { "connection" } else { "status" };
        let failed = pairs.picker.metrics().await.unwrap().sum(CALLS, &[&format!("outcome=\"{outcome}\"")]);
        assert!(failed.is_some_and(|failed| failed >= 1.0), "it was tried: {failed:?}");
        pairs.assert_transferred(8);
        assert_eq!(pairs.prefills[0][1].transfers().kept, 8);
        assert_eq!(pairs.prefills[1][0].received_count(), 0, "it is of another group");
        pairs.assert_idle().await;
    }
}

#[tokio::test]
async fn when_every_prefill_fails_decode_does_it_alone() {
    let pairs = Plan { groups: vec![(2, 1)], ..Plan::default() }.start().await;
    for prefill in &pairs.prefills[0] {
        prefill.set_fault(Fault::Status(500));
    }
    let (_envoy, client) = pairs.behind(Body::Buffered).await;
    let reply = client.complete("m", &long_prompt("laura")).send().await.unwrap();
    assert_eq!((reply.status, reply.engine()), (200, Some(pairs.decode().address())));
    pairs.wait_for_metric(CALLS, &["outcome=\"status\""], 2.0).await;
    pairs.wait_for_metric(FALLBACKS, &["reason=\"status\""], 1.0).await;
    pairs.assert_idle().await;
}

#[tokio::test]
async fn a_request_that_prefill_refuses_gets_decodes_own_answer_and_no_second_try() {
    let pairs = Plan { groups: vec![(2, 1)], ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::Buffered).await;
    let nonsense = client.complete("m", &long_prompt("mike")).field("min_tokens", "many");
    let reply = nonsense.send().await.unwrap();
    assert_eq!((reply.status, reply.engine()), (400, Some(pairs.decode().address())), "{}", reply.text());
    pairs.wait_for_metric(CALLS, &["outcome=\"refused\""], 1.0).await;
    pairs.wait_for_metric(CALLS, &[], 1.0).await;
    pairs.assert_idle().await;
}

#[tokio::test]
async fn a_request_without_prefill_is_refused_where_that_is_configured() {
    let profile = Some("disaggregation:\n  whenNoPrefill: refuse\n");
    let pairs = Plan { profile, ..Plan::default() }.start().await;
    pairs.prefill().set_fault(Fault::Status(500));
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let reply = client.complete("m", &long_prompt("nina")).send().await.unwrap();
    assert_eq!((reply.status, &reply.json().unwrap()["error"]["code"]), (503, &"no_prefill_endpoint".into()));
    assert_eq!(pairs.decode().received_count(), 0);
    pairs.assert_idle().await;
}

#[tokio::test]
async fn a_prefill_whose_decode_never_answers_is_counted() {
    let pairs = Plan::default().start().await;
    pairs.decode().set_fault(Fault::Hang);
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let asked = tokio::spawn(client.complete("m", &long_prompt("oscar")).request_id("orphan").send());
    pairs.decode().wait_for_request("orphan", SOON).await.unwrap();
    asked.abort();
    pairs.wait_for_metric("kthena_router_prefill_orphaned_total", &[], 1.0).await;
    pairs.assert_idle().await;
}

/// A request whose prefill takes longer than Envoy's `message_timeout`.
async fn ask_slowly(client: &Client) -> u16 {
    client.complete("m", &long_prompt("peggy")).send().await.unwrap().status
}

#[tokio::test]
async fn envoy_waits_for_a_prefill_beyond_its_message_timeout_where_it_may() {
    for (mode, may, expected) in [
        (Body::Buffered, true, 200),
        (Body::Streamed, true, 200),
        // Measured, so that the documentation can rely on it: no `max_message_timeout`, no patience.
        (Body::Buffered, false, 504),
        (Body::Streamed, false, 504),
        // Envoy has no timer here.
        (Body::FullDuplex, false, 200),
        (Body::Override, false, 200),
    ] {
        let pairs = Plan::default().start().await;
        pairs.prefill().set_fault(Fault::Slow(Duration::from_millis(1500)));
        let limits = |filter: &mut serde_json::Value| {
            filter["message_timeout"] = "0.3s".into();
            if may {
                filter["max_message_timeout"] = "60s".into();
            }
        };
        let (_envoy, client) = pairs.behind_with(mode, limits).await;
        assert_eq!(ask_slowly(&client).await, expected, "{mode:?}, may: {may}\n{}", pairs.picker.log());
        pairs.assert_idle().await;
    }
}

#[tokio::test]
async fn the_standalone_configuration_waits_for_a_prefill() {
    let pairs = Plan::default().start().await;
    pairs.prefill().set_fault(Fault::Slow(Duration::from_millis(2500)));
    let (_envoy, client) = envoy(standalone::config(&pairs.pool()).unwrap()).await;
    assert_eq!(ask_slowly(&client).await, 200);
    pairs.assert_transferred(1);
    pairs.assert_idle().await;
}
