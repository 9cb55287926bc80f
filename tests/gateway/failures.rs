//! Clients that go away; pickers that are down, hang or drain; engines that break.

use std::time::{Duration, Instant};

use tests::engine::{EngineConfig, Fault};
use tests::process::Signal;
use tests::shapes::plain::{self, Body};
use tests::shapes::{ai_gateway, envoy_gateway, istio, standalone};
use tests::{client, poll};

use crate::world::{SOON, World, envoy};

#[tokio::test]
async fn a_client_that_goes_away_before_the_headers_leaves_nothing_in_flight() {
    let world = World::instant(1).await;
    world.llama[0].set_fault(Fault::Hang);
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let asked = tokio::spawn(client.chat("m", &[("user", "never answered")]).send());
        world.wait_for_in_flight_at(world.llama[0].address(), 1).await;
        asked.abort();
        world.assert_idle().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_an_answer_leaves_nothing_in_flight() {
    let world = World::endless(1).await;
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let mut answer = client.chat("m", &[("user", "x")]).stream(true).call().start().await.unwrap();
        answer.next().await.unwrap();
        world.wait_for_in_flight_at(world.llama[0].address(), 1).await;
        drop(answer);
        world.assert_idle().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_its_request_leaves_nothing_in_flight() {
    let world = World::instant(1).await;
    for body in Body::VISIBLE {
        let (envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let call = client.post("/v1/chat/completions", r#"{"model":"m","messages":["#);
        let asked = tokio::spawn(call.start_unfinished());
        poll::until("the request at Envoy", SOON, async || {
            let active = envoy.stats("^http.http.downstream_rq_active$").await.ok()?;
            (active.values().sum::<u64>() == 1).then_some(())
        })
        .await
        .unwrap();
        asked.abort();
        poll::until("its end at Envoy", SOON, async || {
            let active = envoy.stats("^http.http.downstream_rq_active$").await.ok()?;
            (active.values().sum::<u64>() == 0).then_some(())
        })
        .await
        .unwrap();
        world.assert_idle().await;
    }
    assert_eq!(world.llama[0].received_count(), 0);
}

#[tokio::test]
async fn an_engine_that_breaks_off_or_fails_leaves_nothing_in_flight() {
    // Words ten milliseconds apart: the answer has begun, at Envoy too, when it breaks.
    let world = World::start(vec![EngineConfig::timed("m", 1.0)], Vec::new(), |options| options).await;
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let ask = || client.chat("m", &[("user", "x")]).stream(true).send();
        world.llama[0].set_fault(Fault::ResetAfter(2));
        assert!(ask().await.is_err(), "{body:?}: the answer breaks off");
        world.assert_idle().await;
        world.llama[0].set_fault(Fault::Status(500));
        assert_eq!(ask().await.unwrap().status, 500, "{body:?}");
        world.llama[0].set_fault(None);
        assert_eq!(ask().await.unwrap().status, 200, "{body:?}");
        world.assert_idle().await;
    }
}

/// What the standalone configuration promises: any engine answers, with a body and without, and no
/// client can choose which.
#[tokio::test]
async fn the_standalone_configuration_fails_open_when_the_picker_is_gone() {
    let world = World::instant(2).await;
    let (_envoy, client) = envoy(standalone::config(&world.pool()).unwrap()).await;
    world.assert_picked(&client.chat("m", &[("user", "x")]).send().await.unwrap()).await;
    world.picker.process().signal(Signal::Kill).unwrap();
    world.picker.process().exit_code(SOON).await.unwrap();
    let forged = world.llama[0].address();
    let mut engines = std::collections::BTreeSet::new();
    for turn in 0..20 {
        let prompt = format!("{turn}{}", "x".repeat(if turn % 4 == 0 { 60_000 } else { 10 }));
        let ask = client.chat("m", &[("user", &prompt)]).stream(turn % 2 == 0);
        let reply = ask.header("x-gateway-destination-endpoint", &forged.to_string()).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        engines.extend(reply.engine());
    }
    assert_eq!(engines.len(), 2, "round robin, whatever the client says");
    assert_eq!(client.get("/v1/models").send().await.unwrap().status, 200);
}

#[tokio::test]
async fn the_standalone_configuration_fails_open_when_the_picker_hangs() {
    let world = World::instant(2).await;
    let (_envoy, client) = envoy(standalone::config(&world.pool()).unwrap()).await;
    world.assert_picked(&client.chat("m", &[("user", "x")]).send().await.unwrap()).await;
    world.picker.process().signal(Signal::Stop).unwrap();
    for _ in 0..6 {
        let start = Instant::now();
        let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(start.elapsed() < Duration::from_secs(3), "message_timeout is 1 s");
    }
    world.picker.process().signal(Signal::Continue).unwrap();
    poll::until("picks again", SOON, async || {
        let reply = client.chat("m", &[("user", "x")]).send().await.ok()?;
        let path = format!("/debug/decisions?request-id={}", reply.request_id()?);
        let decision = client::get(world.picker.debug_address(), &path).await.ok()?;
        decision.text().contains(&reply.engine()?.to_string()).then_some(())
    })
    .await
    .unwrap();
    world.assert_idle().await;
}

/// Measured truth, so that documentation and doctor can rely on it: (POST, GET) with the picker gone.
#[tokio::test]
async fn each_gateway_fails_as_documented_when_the_picker_is_gone() {
    let world = World::instant(2).await;
    let pools = [world.pool()];
    let shapes = [
        ("Envoy Gateway buffered, failOpen", envoy_gateway::config(&pools, envoy_gateway::Body::Buffered), (200, 200)),
        ("Envoy Gateway full duplex", envoy_gateway::config(&pools, envoy_gateway::Body::FullDuplex), (503, 503)),
        ("AI Gateway", ai_gateway::config(&pools, ai_gateway::Body::Duplex), (500, 500)),
        ("Istio FailOpen, its Pod still ready", istio::config(&pools, true), (500, 200)),
        ("Istio FailClose", istio::config(&pools, false), (500, 500)),
        ("plain", plain::config(&pools[0], Body::FullDuplex), (500, 500)),
    ];
    world.picker.process().signal(Signal::Kill).unwrap();
    world.picker.process().exit_code(SOON).await.unwrap();
    for (what, config, expected) in shapes {
        let (_envoy, client) = envoy(config).await;
        let post = client.chat("m", &[("user", "x")]).send().await.unwrap().status;
        let get = client.get("/v1/models").send().await.unwrap().status;
        assert_eq!((post, get), expected, "{what}");
    }
}

#[tokio::test]
async fn a_picker_that_is_told_to_stop_finishes_what_runs_and_takes_no_more() {
    let world = World::instant(1).await;
    world.llama[0].set_fault(Fault::Slow(Duration::from_millis(1500)));
    let (_envoy, client) = envoy(standalone::config(&world.pool()).unwrap()).await;
    let asked = tokio::spawn(client.chat("m", &[("user", "x")]).stream(true).send());
    world.wait_for_in_flight_at(world.llama[0].address(), 1).await;
    world.picker.process().signal(Signal::Term).unwrap();
    poll::until("not ready", SOON, async || {
        let ready = client::get(world.picker.metrics_address(), "/readyz").await;
        (!ready.is_ok_and(|reply| reply.status == 200)).then_some(())
    })
    .await
    .unwrap();
    let reply = asked.await.unwrap().unwrap();
    assert_eq!((reply.status, reply.text().ends_with("data: [DONE]\n\n")), (200, true), "{}", reply.text());
    assert_eq!(world.picker.process().exit_code(SOON).await.unwrap(), 0, "{}", world.picker.log());
    // Fail-open takes over.
    world.llama[0].set_fault(None);
    assert_eq!(client.chat("m", &[("user", "x")]).send().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_picker_that_is_told_to_stop_does_not_wait_beyond_its_drain_timeout() {
    let mut endless = EngineConfig::timed("m", 1.0);
    endless.timing.token_interval = Duration::from_secs(3600);
    let world = World::start(vec![endless], Vec::new(), |options| options.flag("--drain-timeout", "500ms")).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    let mut answer = client.chat("m", &[("user", "x")]).stream(true).call().start().await.unwrap();
    answer.next().await.unwrap();
    world.picker.process().signal(Signal::Term).unwrap();
    assert_eq!(world.picker.process().exit_code(SOON).await.unwrap(), 0, "{}", world.picker.log());
}
