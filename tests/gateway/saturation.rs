//! A pool whose engines are all full sheds load, and takes it again when they are not.

use std::time::Duration;

use serde_json::{Value, json};
use tests::engine::EngineConfig;
use tests::poll;
use tests::scratch::Scratch;
use tests::shapes::plain::{self, Body};

use crate::world::{MODEL, SOON, World, envoy};

const SCHEDULER: &str = "
scheduler:
  pluginConfig:
  - name: least-request
    args: {maxWaitingRequests: 1}
  plugins:
    Filter:
      enabled: [least-request]
    Score:
      enabled:
      - {name: least-request, weight: 1}
";

/// Waits until each engine's gauges, as the picker knows them, show so many in its queue.
async fn until_waiting(world: &World, waiting: u64) {
    poll::until(&format!("{waiting} waiting at each engine"), SOON, async || {
        let fleet = world.picker.fleet().await.ok()?;
        fleet.iter().all(|endpoint| endpoint["waiting"] == waiting).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_saturated_pool_is_a_429_until_an_engine_has_room() {
    let scratch = Scratch::new("scheduler").unwrap();
    let scheduler = scratch.file("scheduler.yaml");
    std::fs::write(&scheduler, SCHEDULER).unwrap();
    let mut config = EngineConfig::timed(MODEL, 1.0);
    config.timing.token_interval = Duration::from_secs(3600);
    config.timing.max_running = 1;
    let flag = |options: tests::picker::PickerOptions| options.flag("--scheduler-config", scheduler.display());
    let world = World::start(vec![config; 2], Vec::new(), flag).await;
    until_waiting(&world, 0).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;

    // One runs and one waits at each engine: exact counts of our own spread them.
    let mut running = Vec::new();
    for turn in 0..4 {
        let ask = client.chat(MODEL, &[("user", &turn.to_string())]).stream(true);
        running.push(ask.call().start().await.unwrap());
    }
    assert!(running.iter().all(|answer| answer.status() == 200));
    until_waiting(&world, 1).await;

    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let refused = client.chat(MODEL, &[("user", "one too many")]).send().await.unwrap();
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{body:?}: {}", refused.text());
        assert_eq!(refused.header("content-type"), Some("application/json"), "{body:?}");
        let error = json!({
            "message": "the pool is overloaded, retry after 1 s",
            "type": "rate_limit_error",
            "param": null,
            "code": "overloaded",
        });
        assert_eq!(refused.json().unwrap(), json!({"error": error}), "{body:?}");
        assert_eq!(refused.engine(), None, "{body:?}");
    }
    let shed = &world.picker.decisions(1).await.unwrap()[0];
    assert_eq!((&shed["refusal"]["code"], &shed["refusal"]["status"]), (&"overloaded".into(), &429.into()));
    let removed = |candidate: &Value| candidate["removedBy"] == "least-request" && candidate["waiting"] == 1;
    assert!(shed["candidates"].as_array().unwrap().iter().all(removed), "{shed:#}");
    let metrics = world.picker.metrics().await.unwrap();
    let refusals = metrics.sum("kthena_router_refusals_total", &["overloaded"]);
    assert_eq!(refusals, Some(Body::ALL.len() as f64), "{:?}", metrics.all());
    assert_eq!(world.picker.in_flight().await.unwrap().values().sum::<u64>(), 4, "what is shed is not counted");

    // They go away: the engines empty their queues.
    drop(running);
    until_waiting(&world, 0).await;
    let reply = client.chat(MODEL, &[("user", "welcome back")]).max_tokens(1).send().await.unwrap();
    world.assert_picked(&reply).await;
    world.assert_idle().await;
}
