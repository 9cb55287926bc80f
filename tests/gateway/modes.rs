//! Each request-body mode, end to end.

use tests::shapes::plain::{self, Body};

use crate::world::{World, envoy, long_prompt};

/// Streamed and whole answers come from the endpoint that was picked, and a prompt returns to the
/// endpoint that has seen it: so the body was read.
async fn reads_the_body_and_picks(body: Body, told_as: &str) {
    let world = World::instant(4).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
    for turn in 0..6 {
        let reply =
            client.chat("m", &[("user", &format!("{turn} is a number"))]).stream(turn % 2 == 0).send().await.unwrap();
        let decision = world.assert_picked(&reply).await;
        assert_eq!((&decision["model"], &decision["bodyMode"]), (&"m".into(), &told_as.into()), "{decision:#}");
    }
    for seed in ["alice", "bob", "carol"] {
        let ask = || client.complete("m", &long_prompt(seed)).send();
        let first = ask().await.unwrap();
        world.assert_picked(&first).await;
        for _ in 0..3 {
            assert_eq!(ask().await.unwrap().engine(), first.engine(), "the prompt's blocks are there");
        }
    }
    world.assert_idle().await;
}

#[tokio::test]
async fn buffered_reads_the_body_and_picks() {
    reads_the_body_and_picks(Body::Buffered, "buffered").await;
}

#[tokio::test]
async fn streamed_reads_the_body_and_picks() {
    reads_the_body_and_picks(Body::Streamed, "streamed").await;
}

#[tokio::test]
async fn full_duplex_reads_the_body_and_picks() {
    reads_the_body_and_picks(Body::FullDuplex, "full_duplex_streamed").await;
}

#[tokio::test]
async fn a_mode_override_turns_none_into_full_duplex() {
    reads_the_body_and_picks(Body::Override, "full_duplex_streamed").await;
}

#[tokio::test]
async fn a_hidden_body_still_gets_a_picked_endpoint_and_is_counted() {
    let world = World::instant(3).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::None)).await;
    for _ in 0..4 {
        let reply = client.chat("m", &[("user", "hidden")]).send().await.unwrap();
        let decision = world.assert_picked(&reply).await;
        assert_eq!((&decision["bodyMode"], &decision["bodyHidden"]), (&"none".into(), &true.into()), "{decision:#}");
    }
    let metrics = world.picker.metrics().await.unwrap();
    assert_eq!(metrics.sum("kthena_router_bodies_hidden_total", &[]), Some(4.0));
    world.assert_idle().await;
}

/// Without `send_body_without_waiting_for_header_response` Envoy keeps the body until the headers
/// are answered: there is nothing to wait for.
#[tokio::test]
async fn streamed_that_waits_for_the_headers_answer_is_not_waited_for() {
    let world = World::instant(2).await;
    let config = plain::config(&world.pool(), Body::Streamed)
        .vary(|config| config.ext_proc()["send_body_without_waiting_for_header_response"] = false.into());
    let (_envoy, client) = envoy(config).await;
    let reply = client.chat("m", &[("user", "kept back")]).send().await.unwrap();
    world.assert_picked(&reply).await;
    world.assert_idle().await;
}

#[tokio::test]
async fn responses_that_pass_through_the_picker_arrive_as_the_engine_sent_them() {
    let world = World::instant(2).await;
    for mode in ["FULL_DUPLEX_STREAMED", "STREAMED", "BUFFERED"] {
        let config = plain::config(&world.pool(), Body::FullDuplex)
            .vary(|config| config.ext_proc()["processing_mode"]["response_body_mode"] = mode.into());
        let (_envoy, client) = envoy(config).await;
        for stream in [true, false] {
            let reply = client.chat("m", &[("user", mode)]).max_tokens(50).stream(stream).send().await.unwrap();
            world.assert_picked(&reply).await;
            let words = (0..50).map(|word| format!("word{word} "));
            if stream {
                let told = reply
                    .events()
                    .iter()
                    .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(ToOwned::to_owned))
                    .collect::<String>();
                assert_eq!(told, words.collect::<String>(), "{mode}");
                assert!(reply.text().ends_with("data: [DONE]\n\n"), "{mode}");
            } else {
                assert_eq!(
                    reply.json().unwrap()["choices"][0]["message"]["content"],
                    words.collect::<String>(),
                    "{mode}"
                );
            }
        }
    }
    world.assert_idle().await;
}
