//! Lists of endpoints, subsets of them, and who served in the end.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tests::engine::EngineConfig;
use tests::poll;
use tests::shapes::plain::{self, Body};

use crate::world::{MODEL, SOON, World, addresses, envoy, long_prompt};

#[tokio::test]
async fn one_address_is_answered_by_default_and_a_list_on_request() {
    for (length, flag) in [(1, None), (3, Some("3"))] {
        let engines = vec![EngineConfig::instant(MODEL); 4];
        let with_flag = |options: tests::picker::PickerOptions| match flag {
            Some(length) => options.flag("--destination-list", length),
            None => options,
        };
        let world = World::start(engines, Vec::new(), with_flag).await;
        let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
        let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
        let decision = world.assert_picked(&reply).await;
        let sent = world.engine(reply.engine().unwrap()).received().pop().unwrap();
        let list = sent.header("x-gateway-destination-endpoint").unwrap();
        let list: Vec<SocketAddr> = list.split(',').map(|address| address.parse().unwrap()).collect();
        assert_eq!(list.len(), length);
        assert_eq!(Some(list[0]), reply.engine(), "the first is the best");
        assert!(list.iter().all(|address| addresses(&world.llama).contains(address)));
        let ranked = decision["endpoints"].as_array().unwrap();
        assert_eq!(json!(ranked[..length]), json!(list), "{decision:#}");
    }
}

#[tokio::test]
async fn a_dead_first_of_a_list_is_passed_over_and_load_follows_to_who_served() {
    let engines = vec![EngineConfig::instant(MODEL); 2];
    let mut world = World::start(engines, Vec::new(), |options| options.flag("--destination-list", "2")).await;
    world.llama[0].kill().await;
    let (dead, alive) = (world.llama[0].address(), world.llama[1].address());
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    poll::until("a request whose first choice is dead", SOON, async || {
        let prompt = rand::random::<u64>().to_string();
        let reply = client.chat("m", &[("user", &prompt)]).send().await.unwrap();
        assert_eq!((reply.status, reply.engine()), (200, Some(alive)));
        let decision = world.picker.decision(&reply.request_id().unwrap()).await.unwrap();
        (decision["endpoint"] == dead.to_string()).then(|| assert_eq!(decision["served"], alive.to_string()))
    })
    .await
    .unwrap();
    world.assert_idle().await;
}

#[tokio::test]
async fn load_and_prefix_move_to_the_endpoint_that_served() {
    let mut config = EngineConfig::timed(MODEL, 1.0);
    config.timing.token_interval = std::time::Duration::from_millis(300);
    let mut world = World::start(vec![config; 2], Vec::new(), |options| options).await;
    world.llama[0].kill().await;
    let (dead, alive) = (world.llama[0].address(), world.llama[1].address());
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    let mut attempt = 0;
    let prompt = loop {
        let prompt = long_prompt(&format!("attempt {attempt}"));
        let mut answer =
            client.chat("m", &[("user", &prompt)]).stream(true).max_tokens(4).call().start().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.next().await.unwrap();
        // The dead one was picked or not: whoever serves has the load.
        world.wait_for_in_flight_at(alive, 1).await;
        assert_eq!(world.picker.in_flight().await.unwrap()[&dead], 0);
        let reply = answer.finish().await.unwrap();
        world.assert_idle().await;
        let decision = world.picker.decision(&reply.request_id().unwrap()).await.unwrap();
        if decision["endpoint"] == dead.to_string() {
            assert_eq!(decision["served"], alive.to_string(), "{decision:#}");
            break prompt;
        }
        attempt += 1;
        assert!(attempt < 20, "the dead endpoint was never picked");
    };
    world.llama[0].revive().await.unwrap();
    for _ in 0..4 {
        let reply = client.chat("m", &[("user", &prompt)]).max_tokens(1).send().await.unwrap();
        assert_eq!(reply.engine(), Some(alive), "who served holds the prompt");
    }
}

/// A filter before ext_proc that gives the hint as a list.
fn list_hint(addresses: &[String]) -> Value {
    json!({"name": "envoy.filters.http.set_metadata", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
        "metadata": [{
            "metadata_namespace": "envoy.lb.subset_hint",
            "value": {"x-gateway-destination-endpoint-subset": addresses},
            "allow_overwrite": true,
        }],
    }})
}

/// A filter before ext_proc that makes the hint of a request header, as a string.
fn string_hint() -> Value {
    json!({"name": "envoy.filters.http.header_to_metadata", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [{"header": "x-subset", "on_header_present": {
            "metadata_namespace": "envoy.lb.subset_hint", "key": "x-gateway-destination-endpoint-subset",
        }}],
    }})
}

#[tokio::test]
async fn a_subset_hint_is_obeyed_as_a_string_with_ports_and_without() {
    let world = World::instant(4).await;
    for body in [Body::Buffered, Body::FullDuplex] {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body).first_filter(string_hint())).await;
        let [first, second] = [world.llama[1].address(), world.llama[2].address()];
        for hint in
            [format!("{first},{second}"), format!("{}, {}", first.ip(), second.ip()), format!("{second},10.0.0.1:80")]
        {
            for turn in 0..6 {
                let ask = client.chat("m", &[("user", &format!("{hint} {turn}"))]).header("x-subset", &hint);
                let reply = ask.send().await.unwrap();
                world.assert_picked(&reply).await;
                assert!(hint.contains(&reply.engine().unwrap().ip().to_string()), "{hint}");
            }
        }
    }
}

#[tokio::test]
async fn a_subset_hint_is_obeyed_as_a_list() {
    let world = World::instant(3).await;
    let only = world.llama[1].address();
    let config = plain::config(&world.pool(), Body::FullDuplex).first_filter(list_hint(&[only.to_string()]));
    let (_envoy, client) = envoy(config).await;
    for turn in 0..8 {
        let reply = client.chat("m", &[("user", &format!("{turn}"))]).send().await.unwrap();
        world.assert_picked(&reply).await;
        assert_eq!(reply.engine(), Some(only));
    }
}

#[tokio::test]
async fn a_subset_hint_that_leaves_nobody_is_a_503() {
    let world = World::instant(2).await;
    let port = world.llama[0].address().port();
    for hint in [vec![], vec!["10.0.0.1:80".to_owned()], vec![format!("10.0.0.1:{port}")], vec!["rubbish".to_owned()]] {
        let config = plain::config(&world.pool(), Body::FullDuplex).first_filter(list_hint(&hint));
        let (_envoy, client) = envoy(config).await;
        let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
        assert_eq!(reply.status, 503, "{hint:?}: {}", reply.text());
        assert_eq!(reply.json().unwrap()["error"]["code"], "subset_empty", "{hint:?}");
    }
    assert!(world.llama.iter().all(|engine| engine.received_count() == 0));
}

#[tokio::test]
async fn endpoints_come_and_go_with_the_files() {
    let world = World::instant(3).await;
    let all = addresses(&world.llama);
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    for declared in [&all[..1], &all[1..], &all[..]] {
        world.config.pool("llama", declared).unwrap();
        world.picker.wait_for_endpoints(declared.len()).await.unwrap();
        // As many as before is not yet the same ones.
        poll::until("these endpoints", SOON, async || {
            let fleet = world.picker.in_flight().await.ok()?;
            declared.iter().all(|address| fleet.contains_key(address)).then_some(())
        })
        .await
        .unwrap();
        for turn in 0..8 {
            let reply = client.chat("m", &[("user", &format!("{turn} of {}", declared.len()))]).send().await.unwrap();
            world.assert_picked(&reply).await;
            assert!(declared.contains(&reply.engine().unwrap()));
        }
    }
}

#[tokio::test]
async fn requests_go_to_the_endpoint_with_the_fewest_in_flight() {
    let world = World::endless(3).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    let mut answers = Vec::new();
    for turn in 0..9 {
        let prompt = format!("{turn}");
        let call = client.chat("m", &[("user", &prompt)]).stream(true).max_tokens(2).call();
        answers.push(call.start().await.unwrap());
    }
    for address in addresses(&world.llama) {
        world.wait_for_in_flight_at(address, 3).await;
    }
    drop(answers);
    world.assert_idle().await;
}
