//! A prompt goes to the endpoint that says it holds the prompt's blocks, by its KV events.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};
use tests::client::{Client, Reply};
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig, EventForm, KvEvents, ReplayForm};
use tests::picker::PickerOptions;
use tests::poll;
use tests::scratch::Scratch;
use tests::shapes::plain::{self, Body};

use crate::world::{MODEL, SOON, World, addresses, envoy, long_prompt};

const PROFILE: &str = "scheduler:\n  plugins:\n    Score:\n      enabled:\n        - {name: kvcache-aware, weight: 1}\n        - {name: random, weight: 0.01}\n";

/// Four engines that publish their KV events, and a picker that listens to them.
async fn world(kv_events: KvEvents) -> (World, Scratch) {
    let llama = Engine::start_many(vec![EngineConfig::instant(MODEL); 4]).await.unwrap();
    let ports = Engine::publish_kv_events(&llama, kv_events).await.unwrap();
    let config = ConfigDir::new().unwrap();
    config.pool("llama", &addresses(&llama)).unwrap();
    let files = Scratch::new("profile").unwrap();
    let profile = files.file("profile.yaml");
    std::fs::write(&profile, PROFILE).unwrap();
    let options = PickerOptions::new(config.path())
        .flag("--scheduler-config", profile.display())
        .flag("--kv-events-port", ports.events)
        .flag("--kv-replay-port", ports.replay);
    let picker = options.start().await.unwrap();
    (World { llama, qwen: Vec::new(), config, picker }, files)
}

/// Requests whose prompts are text, messages and token ids, and differ from those of another `seed`.
fn requests(seed: u32) -> [(&'static str, Value); 3] {
    let text = long_prompt(&seed.to_string());
    let ids: Vec<u32> = (0..700).map(|place| seed * 1000 + place).collect();
    [
        ("/v1/completions", json!({"model": MODEL, "prompt": text})),
        ("/v1/chat/completions", json!({"model": MODEL, "messages": [{"role": "user", "content": text}]})),
        ("/v1/completions", json!({"model": MODEL, "prompt": ids})),
    ]
}

async fn send(to: SocketAddr, path: &str, body: &Value) -> Result<Reply> {
    let call = Client::new(to).post(path, Bytes::from(body.to_string()));
    call.header("content-type", "application/json").send().await
}

/// Waits until the picker has taken in so many batches of the engine's.
async fn heard(world: &World, engine: SocketAddr, batches: u64) {
    poll::until("the engine's events", SOON, async || {
        let fleet = world.picker.fleet().await.ok()?;
        let endpoint = fleet.into_iter().find(|endpoint| endpoint["address"] == engine.to_string())?;
        (endpoint["kvEvents"][0]["nextSequence"] == batches).then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", world.picker.log()));
}

#[tokio::test]
async fn a_prompt_lands_where_its_blocks_are_by_the_engines_own_account() {
    for (events, replay) in [(EventForm::Array, ReplayForm::Bare), (EventForm::Map, ReplayForm::WithTopic)] {
        let (world, _files) = world(KvEvents { events, replay }).await;
        let (envoy, _client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
        for (index, engine) in world.llama.iter().enumerate() {
            for (path, body) in requests(u32::try_from(index).unwrap()) {
                // Past the picker: it learns of this from the engine alone.
                assert_eq!(send(engine.address(), path, &body).await.unwrap().status, 200);
            }
            heard(&world, engine.address(), 3).await;
        }
        for (index, engine) in world.llama.iter().enumerate() {
            for (path, body) in requests(u32::try_from(index).unwrap()) {
                let reply = send(envoy.address(), path, &body).await.unwrap();
                let decision = world.assert_picked(&reply).await;
                assert_eq!(reply.engine(), Some(engine.address()), "{decision:#}");
            }
        }
        let metrics = world.picker.metrics().await.unwrap();
        let tokens = |source: &str| metrics.sum("kthena_router_tokens_total", &[&format!("source=\"{source}\"")]);
        assert_eq!((tokens("engine"), tokens("request"), tokens("none")), (Some(8.0), Some(4.0), Some(0.0)));
        world.assert_idle().await;
    }
}

#[tokio::test]
async fn blocks_that_an_engine_dropped_draw_nobody() {
    let (mut world, _files) = world(KvEvents::default()).await;
    let (envoy, _client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    let warm = world.llama[0].address();
    let [_, _, (path, body)] = requests(9);
    send(warm, path, &body).await.unwrap();
    heard(&world, warm, 1).await;
    world.llama[0].kill().await;
    world.llama[0].revive().await.unwrap();
    // The new process has computed something else.
    let [_, _, (other_path, other)] = requests(8);
    send(warm, other_path, &other).await.unwrap();
    poll::until("the restart to be noticed", SOON, async || {
        let metrics = world.picker.metrics().await.ok()?;
        let complete = ["cause=\"restart\"", "outcome=\"complete\""];
        metrics.sum("kthena_router_kv_replays_total", &complete).filter(|replays| *replays > 0.0).map(drop)
    })
    .await
    .unwrap();
    heard(&world, warm, 1).await;
    let reply = send(envoy.address(), other_path, &other).await.unwrap();
    assert_eq!(reply.engine(), Some(warm));
    let reply = send(envoy.address(), path, &body).await.unwrap();
    let decision = world.assert_picked(&reply).await;
    let candidates = decision["candidates"].as_array().unwrap();
    assert!(candidates.iter().all(|candidate| candidate["heldTokens"] == 0), "{decision:#}");
}
