//! One trace over Envoy, the picker and the engine.

use tests::engine::EngineConfig;
use tests::otlp_sink::{OtlpSink, Span, TraceTree};
use tests::shapes::plain::{self, Body};
use tests::shapes::{GatewayConfig, standalone};

use crate::world::{MODEL, SOON, World, envoy};

const PROCESS: &str = "envoy.service.ext_proc.v3.ExternalProcessor/Process";

async fn world(sink: &OtlpSink) -> World {
    let engines = vec![EngineConfig::instant(MODEL).traces(sink.address()); 2];
    let endpoint = sink.endpoint();
    World::start(engines, Vec::new(), |options| options.traces(&endpoint)).await
}

/// The trace with `id` once it has spans of all of `names`.
async fn complete(sink: &OtlpSink, id: &str, names: &[&str]) -> TraceTree {
    let has_all = |spans: &[Span]| {
        let has = |name: &&str| spans.iter().any(|span| span.trace_id == id && span.name == **name);
        names.iter().all(has).then_some(())
    };
    sink.wait_for(SOON, has_all).await.unwrap();
    sink.tree(id)
}

fn find<'a>(tree: &'a TraceTree, name: &str) -> &'a Span {
    let found = tree.rows().iter().map(|(_, span)| span).find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("no span {name} in\n{}", tree.waterfall(40)))
}

async fn is_one_tree(traced: impl FnOnce(&World, &OtlpSink) -> GatewayConfig, client_traces: bool) {
    let sink = OtlpSink::start().await.unwrap();
    let world = world(&sink).await;
    let (_envoy, client) = envoy(traced(&world, &sink)).await;
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let mut ask = client.chat("m", &[("user", "x")]).stream(true);
    if client_traces {
        ask = ask.header("traceparent", &format!("00-{trace_id}-b7ad6b7169203331-01"));
    }
    let reply = ask.send().await.unwrap();
    let decision = world.assert_picked(&reply).await;
    let id = decision["traceId"].as_str().unwrap();
    if client_traces {
        assert_eq!(id, trace_id);
    }
    let tree = complete(&sink, id, &["ingress", PROCESS, "kthena.schedule", "llm_request"]).await;
    let shown = tree.waterfall(60);
    println!("{shown}");
    assert_eq!(tree.roots(), 1, "{shown}");
    let ingress = find(&tree, "ingress");
    assert_eq!(ingress.parent_id, if client_traces { "b7ad6b7169203331" } else { "" }, "{shown}");

    let process = find(&tree, PROCESS);
    assert_eq!(process.service, "kthena-ext-proc", "{shown}");
    let asked = tree.parent(process).unwrap();
    assert!(asked.service == "envoy" && asked.name.contains("ExternalProcessor"), "{shown}");
    assert_eq!(tree.parent(asked), Some(ingress), "{shown}");
    assert_eq!(tree.parent(find(&tree, "kthena.schedule")), Some(process), "{shown}");

    let engine = find(&tree, "llm_request");
    assert!(engine.service.contains(&reply.engine().unwrap().to_string()), "{shown}");
    let routed = tree.parent(engine).unwrap();
    assert!(routed.service == "envoy" && routed.name.starts_with("router "), "{shown}");
    assert_eq!(tree.parent(routed), Some(ingress), "{shown}");
}

#[tokio::test]
async fn envoy_picker_and_engine_are_one_tree_below_the_clients_span() {
    is_one_tree(|world, sink| plain::config(&world.pool(), Body::FullDuplex).traces(sink.address()), true).await;
}

#[tokio::test]
async fn envoy_picker_and_engine_are_one_tree_when_the_client_does_not_trace() {
    is_one_tree(|world, sink| standalone::config(&world.pool()).unwrap().traces(sink.address()), false).await;
}

#[tokio::test]
async fn the_engine_hangs_below_the_picker_when_envoy_does_not_trace() {
    let sink = OtlpSink::start().await.unwrap();
    let world = world(&sink).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
    let decision = world.assert_picked(&reply).await;
    let tree = complete(&sink, decision["traceId"].as_str().unwrap(), &[PROCESS, "llm_request"]).await;
    assert_eq!(tree.roots(), 1, "{}", tree.waterfall(60));
    assert_eq!(tree.parent(find(&tree, "llm_request")), Some(find(&tree, PROCESS)));
}

#[tokio::test]
async fn a_client_that_asks_not_to_be_sampled_is_not() {
    let sink = OtlpSink::start().await.unwrap();
    let world = world(&sink).await;
    let config = plain::config(&world.pool(), Body::FullDuplex).traces(sink.address());
    let (_envoy, client) = envoy(config).await;
    let unsampled = "1af7651916cd43dd8448eb211c80319c";
    let ask = || client.chat("m", &[("user", "x")]);
    let quiet = ask().header("traceparent", &format!("00-{unsampled}-b7ad6b7169203331-00")).send().await.unwrap();
    assert_eq!(quiet.status, 200);
    // A later one that is sampled has arrived: so would the earlier.
    let loud = world.assert_picked(&ask().send().await.unwrap()).await;
    complete(&sink, loud["traceId"].as_str().unwrap(), &["ingress", PROCESS, "llm_request"]).await;
    assert!(sink.spans().iter().all(|span| span.trace_id != unsampled));
}
