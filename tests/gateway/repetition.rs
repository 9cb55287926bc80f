//! One request that is asked about twice: gateways that carry the same filter more than once (Envoy
//! AI Gateway has one for each rule), clients that use an id again.

use serde_json::Value;
use tests::client::Client;
use tests::engine::EngineConfig;
use tests::poll;
use tests::shapes::plain::{self, Body};
use tests::shapes::{GatewayConfig, ai_gateway};

use crate::world::{MODEL, SOON, World, envoy};

/// The very same filter a second time, before the first.
fn twice(config: GatewayConfig) -> GatewayConfig {
    config.vary(|config| {
        let filters = config.manager()["http_filters"].as_array_mut().unwrap();
        let first = filters[0].clone();
        filters.insert(0, first);
    })
}

async fn counters(world: &World) -> [f64; 2] {
    let metrics = world.picker.metrics().await.unwrap();
    ["kthena_router_decisions_total", "kthena_router_duplicate_streams_total"]
        .map(|name| metrics.sum(name, &[]).unwrap_or_default())
}

/// What was decided for the id.
async fn decisions(world: &World, id: &str) -> Vec<Value> {
    let all = world.picker.decisions(1000).await.unwrap();
    all.into_iter().filter(|decision| decision["requestId"] == id).collect()
}

/// Both streams get one answer: had the second been decided for itself, its answer would have
/// overwritten the first one's, and with four engines soon another one.
async fn is_one_request(world: &World, config: GatewayConfig, what: &str) {
    let (_envoy, client) = envoy(twice(config)).await;
    let before = counters(world).await;
    for turn in 0..8 {
        let ask = client.chat(MODEL, &[("user", &format!("{turn}: {what}"))]).stream(true);
        let asked = tokio::spawn(ask.max_tokens(2).send());
        // What an engine works on, both filters have let through.
        let busy =
            poll::until("an engine that runs it", SOON, async || world.llama.iter().find(|engine| engine.load().0 > 0));
        let busy = busy.await.unwrap().address();
        let in_flight = world.picker.in_flight().await.unwrap();
        assert_eq!((in_flight.values().sum::<u64>(), in_flight[&busy]), (1, 1), "{what}: {in_flight:?}");
        let reply = asked.await.unwrap().unwrap();
        let decision = world.assert_picked(&reply).await;
        let id = decision["requestId"].as_str().unwrap();
        assert_eq!(decisions(world, id).await.len(), 1, "{what}");
        world.assert_idle().await;
    }
    let [decided, repeated] = counters(world).await;
    assert_eq!([decided - before[0], repeated - before[1]], [8.0, 8.0], "{what}: decisions, repetitions");
}

/// Slow enough to be looked at while it runs.
async fn world() -> World {
    let mut config = EngineConfig::timed(MODEL, 1.0);
    config.timing.token_interval = std::time::Duration::from_millis(200);
    World::start(vec![config; 4], Vec::new(), |options| options).await
}

#[tokio::test]
async fn the_same_filter_twice_is_one_request_in_every_mode() {
    let world = world().await;
    for body in Body::ALL {
        is_one_request(&world, plain::config(&world.pool(), body), &format!("{body:?}")).await;
    }
}

#[tokio::test]
async fn the_same_filter_twice_is_one_request_in_ai_gateway() {
    let world = world().await;
    for body in [ai_gateway::Body::Duplex, ai_gateway::Body::Buffered] {
        is_one_request(&world, ai_gateway::config(&[world.pool()], body), &format!("{body:?}")).await;
    }
}

/// The second filter sees the body that the first has changed.
#[tokio::test]
async fn the_same_filter_twice_is_one_request_when_its_model_is_rewritten() {
    let world = World::instant(4).await;
    world.config.model_server("m", "llama", world.llama[0].address().port(), Some(MODEL)).unwrap();
    world.config.model_route("alias", "alias", &[], "m").unwrap();
    for body in Body::VISIBLE {
        let (_envoy, client) = envoy(twice(plain::config(&world.pool(), body))).await;
        // Files are read within a second; until then the engines know no such model.
        let reply = poll::until("the route", SOON, async || {
            let reply = client.chat("alias", &[("user", "x")]).send().await.unwrap();
            (reply.status == 200).then_some(reply)
        });
        let reply = reply.await.unwrap();
        let decision = world.assert_picked(&reply).await;
        assert_eq!((&decision["model"], &decision["targetModel"]), (&"alias".into(), &MODEL.into()), "{body:?}");
        assert_eq!(decisions(&world, decision["requestId"].as_str().unwrap()).await.len(), 1, "{body:?}");
    }
    world.assert_idle().await;
}

async fn ask(client: &Client, id: &str, prompt: &str) -> tests::client::Reply {
    client.chat(MODEL, &[("user", prompt)]).request_id(id).send().await.unwrap()
}

#[tokio::test]
async fn another_body_with_the_same_request_id_is_decided_for_itself() {
    let world = World::instant(2).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    for prompt in ["one", "another"] {
        assert_eq!(ask(&client, "id-of-two", prompt).await.status, 200);
    }
    assert_eq!(counters(&world).await, [2.0, 0.0], "decisions, repetitions");
    let decided = decisions(&world, "id-of-two").await;
    let served: Vec<&Value> = decided.iter().map(|decision| &decision["served"]).collect();
    assert_eq!(decided.len(), 2, "{decided:#?}");
    assert!(decided.iter().all(|decision| decision["served"] == decision["endpoint"]), "{served:?}");
    // The same body again soon after is a repetition, and gets the answer of its first time.
    let again = ask(&client, "id-of-two", "one").await;
    assert_eq!(Some(again.engine().unwrap().to_string().as_str()), decided[1]["endpoint"].as_str());
    assert_eq!(counters(&world).await, [2.0, 1.0], "decisions, repetitions");
    world.assert_idle().await;
}
