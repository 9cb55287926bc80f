//! Prefill and decode in pods of their own, without a sidecar and with one.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::engine::{Engine, EngineConfig};
use tests::otlp_sink::{OtlpSink, Span};
use tests::shapes::plain::{self, Body};

use crate::pair_world::{Plan, body, last_body};
use crate::world::{MODEL, SOON, envoy, long_prompt};

/// Prefill runs apart also when decode holds the prompt.
const ALWAYS: &str = "disaggregation:\n  minUncachedTokens: 0\n";

/// Numbers that no type holds, an order of keys and spaces: all of it must arrive. `seed` makes the
/// prompt one of its own.
fn odd_body(seed: &str) -> String {
    let prompt = long_prompt(seed);
    format!(
        r#"{{ "zeta": 123456789012345678901234567890.10, "stream":false, "prompt" :"{prompt}",  "model": "m", "max_tokens": 3, "min_tokens": 2, "a": [1.0, 1e5] }}"#
    )
}

#[tokio::test]
async fn a_nixl_pair_moves_the_blocks_and_leaves_the_clients_bytes_alone_in_every_mode() {
    for mode in Body::VISIBLE {
        let pairs = Plan::default().start().await;
        let (_envoy, client) = pairs.behind(mode).await;
        let sent = odd_body("alice");
        let call = client.post("/v1/completions", sent.clone()).header("content-type", "application/json");
        let reply = call.header("x-request-id", "odd-1").header("authorization", "Bearer secret").send().await.unwrap();
        assert_eq!(reply.status, 200, "{mode:?}: {}\n{}", reply.text(), pairs.picker.log());
        assert_eq!(reply.engine(), Some(pairs.decode().address()), "{mode:?}");
        assert_eq!(reply.json().unwrap()["choices"][0]["text"], "word0 word1 word2 ", "decode made all tokens");
        pairs.assert_transferred(1);

        let prefill = pairs.prefill().received();
        assert_eq!(prefill.len(), 1, "{mode:?}");
        let names: BTreeSet<&str> = prefill[0].headers.keys().map(http::HeaderName::as_str).collect();
        let expected = ["authorization", "content-length", "content-type", "host", "x-request-id"];
        assert_eq!(names, BTreeSet::from(expected), "{mode:?}");
        let asked = sent.replace(r#" "stream":false,"#, "").replace(r#""max_tokens": 3"#, r#""max_tokens": 1"#);
        let asked = asked.replace(r#""min_tokens": 2"#, r#""min_tokens": 1"#);
        let asked = asked.strip_suffix(" }").unwrap();
        assert_eq!(
            body(&prefill[0]),
            format!(
                r#"{asked},"kv_transfer_params":{{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}} }}"#
            ),
        );
        // The parameters themselves are compared to the byte by the engine that gave them out.
        let decode = last_body(pairs.decode());
        let (before, params) = decode.split_once(r#","kv_transfer_params":"#).unwrap();
        assert_eq!(format!("{before} }}"), sent, "{mode:?}");
        assert!(params.contains("123456789012345678901234567890.10") && params.ends_with("} }"), "{params}");

        let metrics = tests::client::get(pairs.decode().address(), "/metrics").await.unwrap().text();
        let tokens = reply.json().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap();
        for name in ["vllm:external_prefix_cache_hits_total", "external_kv_transfer"] {
            let line = metrics.lines().find(|line| !line.starts_with('#') && line.contains(name)).unwrap();
            assert!(line.ends_with(&format!(" {tokens}.0")), "{line}");
        }
        pairs.wait_for_metric("kthena_router_prefill_requests_total", &["outcome=\"ok\""], 1.0).await;
        pairs.wait_for_metric("kthena_router_request_prefill_duration_seconds_count", &["model=\"m\""], 1.0).await;
        pairs.wait_for_metric("kthena_router_request_decode_duration_seconds_count", &["model=\"m\""], 1.0).await;
        pairs.wait_for_metric("kthena_router_prefill_orphaned_total", &[], 0.0).await;
        pairs.assert_idle().await;
    }
}

#[tokio::test]
async fn a_streamed_chat_is_prefilled_apart_and_streams_from_decode() {
    let pairs = Plan::default().start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let reply = client.chat("m", &[("user", &long_prompt("bob"))]).stream(true).max_tokens(3).send().await.unwrap();
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    assert_eq!(reply.usage().unwrap()["completion_tokens"], 3);
    let prefill: Value = serde_json::from_str(&last_body(pairs.prefill())).unwrap();
    assert_eq!(
        (prefill.get("stream"), prefill.get("stream_options"), &prefill["max_tokens"]),
        (None, None, &json!(1)),
        "{prefill:#}"
    );
    pairs.assert_transferred(1);
    pairs.assert_idle().await;
}

#[tokio::test]
async fn a_prompt_of_many_chunks_is_prefilled_apart() {
    let pairs = Plan::default().start().await;
    for mode in Body::VISIBLE {
        let (_envoy, client) = pairs.behind(mode).await;
        let sent = odd_body(&format!("{mode:?} {}", "and so on ".repeat(600)));
        let call = client.post("/v1/completions", sent.clone()).header("content-type", "application/json");
        let reply = call.send().await.unwrap();
        assert_eq!(reply.status, 200, "{mode:?}: {}", reply.text());
        let received = pairs.decode().received().pop().unwrap();
        assert!(received.body_len > sent.len(), "{mode:?}");
    }
    pairs.assert_transferred(4);
    pairs.assert_idle().await;
}

#[tokio::test]
async fn pairs_are_of_one_group_and_both_groups_work() {
    let pairs = Plan { groups: vec![(2, 1), (1, 2)], ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let asks = (0..40).map(|turn| client.complete("m", &long_prompt(&format!("client {turn}"))).send());
    for reply in futures_util::future::join_all(asks).await {
        assert_eq!(reply.unwrap().status, 200);
    }
    pairs.assert_transferred(40);
    for (prefills, decodes) in std::iter::zip(&pairs.prefills, &pairs.decodes) {
        let kept: u64 = prefills.iter().map(|engine| engine.transfers().kept).sum();
        let received: u64 = decodes.iter().map(|engine| engine.transfers().received).sum();
        assert!(kept > 0 && kept == received, "both groups are used");
        let own: BTreeSet<_> = prefills.iter().map(Engine::address).collect();
        for decode in decodes {
            assert!(decode.transfers().sources.is_subset(&own), "nothing crosses groups");
        }
    }
    pairs.assert_idle().await;
}

/// An engine would not notice: parameters that were used before point at blocks that are somebody else's.
#[tokio::test]
async fn a_repeated_request_is_prefilled_anew() {
    // Slow enough that all three are under way at once: later it would be another request.
    let mut slow = EngineConfig::timed(MODEL, 1.0);
    slow.timing.prefill_tokens_per_second = 1000.0;
    let pairs = Plan { prefill: slow, ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let prompt = long_prompt("carol");
    let ask = || client.complete("m", &prompt).request_id("the-same").send();
    for reply in futures_util::future::join_all([ask(), ask(), ask()]).await {
        assert_eq!(reply.unwrap().status, 200);
    }
    pairs.assert_transferred(3);
    pairs.assert_idle().await;
}

/// As in Envoy AI Gateway, which has a filter for each rule: the second sees the body that decode gets.
#[tokio::test]
async fn two_filters_make_one_prefill() {
    let pairs = Plan { profile: Some(ALWAYS), ..Plan::default() }.start().await;
    for (turn, mode) in (1..).zip(Body::VISIBLE) {
        let config = plain::config(&pairs.pool(), mode).vary(|config| {
            let filters = config.manager()["http_filters"].as_array_mut().unwrap();
            filters.insert(0, filters[0].clone());
        });
        let (_envoy, client) = envoy(config).await;
        let reply = client.complete("m", &long_prompt("kim")).send().await.unwrap();
        assert_eq!(reply.status, 200, "{mode:?}: {}", reply.text());
        pairs.assert_transferred(turn);
        pairs.assert_idle().await;
    }
}

#[tokio::test]
async fn transfer_fields_of_a_client_never_reach_an_engine() {
    let pairs = Plan::default().start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let forged =
        json!({"do_remote_prefill": true, "remote_host": "127.0.0.1", "remote_port": 1, "remote_request_id": "x"});
    for prompt in [long_prompt("mallory"), "short".to_owned()] {
        let ask = client.complete("m", &prompt).field("kv_transfer_params", forged.clone());
        let ask = ask.field("bootstrap_host", "127.0.0.1").field("bootstrap_room", 1);
        assert_eq!(ask.send().await.unwrap().status, 200);
        let decode: Value = serde_json::from_str(&last_body(pairs.decode())).unwrap();
        assert_ne!(decode["kv_transfer_params"], forged);
        assert_eq!((decode.get("bootstrap_host"), decode.get("bootstrap_room")), (None, None));
    }
    pairs.assert_transferred(1);
}

#[tokio::test]
async fn what_a_transfer_cannot_carry_is_decodes_alone() {
    let pairs = Plan::default().start().await;
    let (_envoy, client) = pairs.behind(Body::Buffered).await;
    let twice = client.complete("m", &long_prompt("dave")).field("n", 2).send().await.unwrap();
    assert_eq!((twice.status, twice.engine()), (200, Some(pairs.decode().address())));
    let embedding = client.post("/v1/embeddings", odd_body("erin")).header("content-type", "application/json");
    assert_eq!(embedding.send().await.unwrap().status, 200);
    assert!(last_body(pairs.decode()).contains("zeta"));
    pairs.assert_transferred(0);
    assert_eq!(pairs.prefill().received_count(), 0);
    pairs.wait_for_metric("kthena_router_prefill_fallbacks_total", &["reason=\"sequences\""], 1.0).await;
    pairs.assert_idle().await;
}

#[tokio::test]
async fn the_model_server_writes_its_model_over_both_bodies() {
    let vary = |spec: &mut Value| spec["model"] = "real".into();
    let engine = EngineConfig::instant("real");
    let pairs = Plan { prefill: engine.clone(), decode: engine, vary, ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::Streamed).await;
    let reply = client.complete(MODEL, &long_prompt("frank")).send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    pairs.assert_transferred(1);
}

#[tokio::test]
async fn sglangs_prefill_and_decode_meet_in_a_fresh_room() {
    let vary = |spec: &mut Value| {
        spec["inferenceEngine"] = "SGLang".into();
        spec.as_object_mut().unwrap().remove("kvConnector");
    };
    let pairs = Plan { vary, profile: Some(ALWAYS), ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let mut rooms = BTreeSet::new();
    for turn in 1..=3 {
        let prompt = long_prompt(&format!("grace {turn}"));
        let reply = client.complete("m", &prompt).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        let decode: Value = serde_json::from_str(&last_body(pairs.decode())).unwrap();
        rooms.extend(decode["bootstrap_room"].as_u64());
        assert_eq!(decode["bootstrap_host"], pairs.prefill().address().ip().to_string());
        assert_eq!(pairs.transfers().used_twice, 0);
        assert_eq!(rooms.len(), turn);
    }
    assert!(rooms.iter().all(|room| *room < 1 << 63));
    // Whichever of the two answers is first: a call that the decode's answer overtakes is cancelled, its blocks have gone over.
    pairs.wait_for_metric("kthena_router_prefill_requests_total", &[], 3.0).await;
    pairs.assert_transferred(3);
    pairs.assert_idle().await;
}

/// Without response trailers Envoy ends a full-duplex stream when it was answered, and decode waits.
#[tokio::test]
async fn a_prefill_beside_decode_outlives_a_stream_that_ends_early() {
    let vary = |spec: &mut Value| {
        spec["inferenceEngine"] = "SGLang".into();
        spec.as_object_mut().unwrap().remove("kvConnector");
    };
    let mut slow = EngineConfig::timed(MODEL, 1.0);
    slow.timing.prefill_tokens_per_second = 1000.0;
    let pairs = Plan { vary, prefill: slow, ..Plan::default() }.start().await;
    let (_envoy, client) = pairs
        .behind_with(Body::FullDuplex, |filter| {
            filter["grpc_service"].as_object_mut().unwrap().remove("initial_metadata");
            filter["processing_mode"]["response_header_mode"] = "SKIP".into();
            filter["processing_mode"]["response_trailer_mode"] = "SKIP".into();
        })
        .await;
    let reply = client.complete("m", &long_prompt("heidi")).send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    pairs.assert_transferred(1);
    pairs.wait_for_metric("kthena_router_prefill_requests_total", &["outcome=\"ok\""], 1.0).await;
}

#[tokio::test]
async fn a_sidecar_is_only_told_where_prefill_is() {
    let decode_labels = json!({"networking.serving.volcano.sh/routing-sidecar": "true"});
    let pairs = Plan { decode_labels, ..Plan::default() }.start().await;
    for mode in Body::VISIBLE {
        let (_envoy, client) = pairs.behind(mode).await;
        // A prompt that decode holds already would not be worth a transfer.
        let sent = odd_body(&format!("{mode:?}"));
        let call = client.post("/v1/completions", sent.clone()).header("content-type", "application/json");
        let reply = call.header("x-prefiller-host-port", "10.6.6.6:666").send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        let received = pairs.decode().received().pop().unwrap();
        let told: Vec<_> = received.headers.get_all("x-prefiller-host-port").iter().collect();
        assert_eq!(told, [&pairs.prefill().address().to_string()], "{mode:?}");
        assert!(received.body_is(sent.as_bytes()), "{mode:?}");
    }
    assert_eq!(pairs.prefill().received_count(), 0);
    pairs.assert_idle().await;
}

#[tokio::test]
async fn the_prefill_is_a_span_below_the_exchange_and_the_engines_hangs_below_it() {
    let sink = OtlpSink::start().await.unwrap();
    let engine = EngineConfig::instant(MODEL).traces(sink.address());
    let traces = Some(sink.endpoint());
    let pairs = Plan { prefill: engine.clone(), decode: engine, traces, ..Plan::default() }.start().await;
    let (_envoy, client) = pairs.behind(Body::FullDuplex).await;
    let reply = client.complete("m", &long_prompt("judy")).send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let whole = |spans: &[Span]| {
        let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
        let is_ended = spans.iter().any(|span| span.name.ends_with("ExternalProcessor/Process"));
        (is_ended && count("prefill") == 1 && count("llm_request") == 2 && count("kthena.schedule") == 1).then_some(())
    };
    sink.wait_for(SOON, whole).await.unwrap();
    let spans = sink.spans();
    let prefill = spans.iter().find(|span| span.name == "prefill").unwrap();
    let tree = sink.tree(&prefill.trace_id);
    let shown = tree.waterfall(60);
    assert_eq!(tree.roots(), 1, "{shown}");
    let exchange = tree.parent(prefill).unwrap();
    assert!(exchange.name.ends_with("ExternalProcessor/Process"), "{shown}");
    let of = |address: std::net::SocketAddr| {
        let is = |span: &&Span| span.name == "llm_request" && span.service.contains(&address.to_string());
        spans.iter().find(is).unwrap_or_else(|| panic!("no span of {address} in\n{shown}"))
    };
    assert_eq!(tree.parent(of(pairs.prefill().address())), Some(prefill), "{shown}");
    assert_eq!(tree.parent(of(pairs.decode().address())), Some(exchange), "{shown}");
}
