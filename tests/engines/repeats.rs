//! What the picker missed of an engine's events, and what is no longer true of it.

use tests::poll;
use tests::scratch::Scratch;

use crate::caches::{batches, cached_stage, foretold_and_taken, heard, hits, ids, past, thousand};
use crate::fleet::{Fleet, Role, SOON};
use crate::stage::Stage;
use crate::wire::Wire;

const REPLAYS: &str = "kthena_router_kv_replays_total";

/// Waits until so many replays of this cause are complete.
async fn until_replayed(stage: &Stage, cause: &str, times: f64) {
    let cause = format!("cause=\"{cause}\"");
    poll::until(&cause, SOON, async || {
        (stage.counted(REPLAYS, &[&cause, "outcome=\"complete\""]).await == times).then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", stage.picker.log()));
}

#[tokio::test]
async fn events_that_were_lost_on_the_way_are_repeated_and_the_index_is_exact_again() {
    let files = Scratch::new("profile").unwrap();
    let fleet = Fleet::start(&[Role::Whole]).await.unwrap();
    let wire = Wire::before(fleet.engines()[0].address().ip(), fleet.ports.events).await.unwrap();
    let port = wire.port();
    let stage = cached_stage(fleet, "kvcache-aware", &files, port, |options| options).await;
    let engine = &stage.fleet.engines()[0];
    let own = engine.client();

    // One batch does not arrive; the next one shows that it is missing.
    wire.lose(1);
    assert_eq!(ids(&own, &thousand(1)).send().await.unwrap().status, 200);
    past(&stage, engine, ids(&own, &thousand(2))).await;
    until_replayed(&stage, "gap", 1.0).await;

    // The connection breaks, and meanwhile the engine goes on.
    let name = engine.address().to_string();
    let before = batches(&stage, &name).await.unwrap();
    wire.cut();
    assert_eq!(ids(&own, &thousand(3)).send().await.unwrap().status, 200);
    wire.mend();
    heard(&stage, &name, before).await;
    until_replayed(&stage, "reconnect", 1.0).await;

    for seed in 1..=3 {
        let reply = ids(&stage.client, &thousand(seed)).send().await.unwrap();
        assert_eq!(foretold_and_taken(&stage, &reply).await, (992, 992), "prompt {seed}");
    }
    assert_eq!(hits(&stage).await, 3 * 992);
    assert_eq!(stage.counted("kthena_router_kv_forgotten_total", &[]).await, 0.0);
    stage.assert_idle().await;
    println!("a lost batch and a broken connection: both repeated, 3 of 3 prompts foretold as taken");
}

#[tokio::test]
async fn an_engine_that_restarts_is_forgotten_and_learned_anew() {
    let files = Scratch::new("profile").unwrap();
    let fleet = Fleet::start(&[Role::Restarted, Role::Whole]).await.unwrap();
    let port = fleet.ports.events;
    let stage = cached_stage(fleet, "kvcache-aware", &files, port, |options| options).await;
    let engine = &stage.fleet.engines()[0];
    let own = engine.client();
    past(&stage, engine, ids(&own, &thousand(1))).await;
    let reply = ids(&stage.client, &thousand(1)).send().await.unwrap();
    assert_eq!(foretold_and_taken(&stage, &reply).await, (992, 992));

    stage.fleet.kill(engine).await.unwrap();
    stage.fleet.wait_until_restarted(engine).await.unwrap();
    assert_eq!(ids(&own, &thousand(2)).send().await.unwrap().status, 200);
    // Its batches are counted from 0 again, and the picker follows.
    let name = engine.address().to_string();
    poll::until("the restart to be noticed", SOON, async || (batches(&stage, &name).await? == 1).then_some(()))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", stage.picker.log()));
    let reply = ids(&stage.client, &thousand(2)).send().await.unwrap();
    assert_eq!(foretold_and_taken(&stage, &reply).await, (992, 992), "it has told of it since");
    let reply = ids(&stage.client, &thousand(1)).send().await.unwrap();
    assert_eq!(foretold_and_taken(&stage, &reply).await, (0, 0), "a new process holds nothing of before");
    stage.assert_idle().await;
    println!("a restarted engine: forgotten, and learned anew");
}
