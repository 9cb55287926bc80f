//! Bodies arrive as they were sent, in every mode, at every size; or changed exactly where they must be.

use bytes::Bytes;
use http::Method;
use tests::client::{Client, Reply};
use tests::engine::EngineConfig;
use tests::otlp_sink::{OtlpSink, Span};
use tests::shapes::GatewayConfig;
use tests::shapes::plain::{self, Body};

use crate::world::{World, envoy};

/// A chat completion whose message has `size` bytes, with fields that a JSON library would reorder,
/// round or drop.
fn chat(model: &str, size: usize) -> String {
    let text: String = ('a'..='z').cycle().take(size).collect();
    format!(
        r#"{{ "zeta": 12345678901234567890123456789.10 , "max_tokens":1, "model"  : "{model}","messages":[{{"role":"user","content":"{text}"}}],"x":{{"b":1,"a":[ ]}}, "e":"é\u00e9" }}"#
    )
}

async fn assert_exact(world: &World, reply: &Reply, body: &[u8], what: &str) {
    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
    let received = world.engine(reply.engine().unwrap()).received();
    let last = received.last().unwrap();
    assert_eq!(last.body_len, body.len(), "{what}");
    assert!(last.body_is(body), "{what}");
    if let Some(length) = last.header("content-length") {
        assert_eq!(length, body.len().to_string(), "{what}");
    }
}

async fn arrive_byte_for_byte(body: Body) {
    let world = World::instant(1).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
    for size in [0, 1, 1_000, 65_536, 1 << 20, 10_000_000] {
        let sent = chat("m", size);
        let reply = client.post("/v1/chat/completions", sent.clone()).send().await.unwrap();
        assert_exact(&world, &reply, sent.as_bytes(), &format!("{body:?}, message of {size} bytes")).await;
    }
    // Not JSON, so not ours to understand; and nothing at all.
    for sent in [&b""[..], &b"x"[..], &[0; 100_000][..]] {
        let call = client.request(Method::POST, "/v1/audio/transcriptions").header("content-type", "audio/wav");
        let reply = call.body(sent).send().await.unwrap();
        assert_exact(&world, &reply, sent, &format!("{body:?}, {} bytes of audio", sent.len())).await;
    }
    world.assert_idle().await;
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_when_hidden() {
    arrive_byte_for_byte(Body::None).await;
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_when_buffered() {
    arrive_byte_for_byte(Body::Buffered).await;
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_when_streamed() {
    arrive_byte_for_byte(Body::Streamed).await;
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_in_full_duplex() {
    arrive_byte_for_byte(Body::FullDuplex).await;
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte_after_a_mode_override() {
    arrive_byte_for_byte(Body::Override).await;
}

#[tokio::test]
async fn bodies_in_pieces_of_any_size_arrive_byte_for_byte() {
    let world = World::instant(1).await;
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        for piece in [1, 7, 62_000, 70_000] {
            let sent = Bytes::from(chat("m", 40 * piece));
            let pieces: Vec<Bytes> = sent.chunks(piece).map(Bytes::copy_from_slice).collect();
            let call = client.request(Method::POST, "/v1/chat/completions").header("content-type", "application/json");
            let reply = call.chunks(pieces).send().await.unwrap();
            assert_exact(&world, &reply, &sent, &format!("{body:?}, pieces of {piece}")).await;
        }
    }
}

#[tokio::test]
async fn a_rewritten_model_changes_its_bytes_and_no_others() {
    let world = World::instant(1).await;
    world.config.model_server("m", "llama", world.llama[0].address().port(), Some("m")).unwrap();
    world.config.model_route("alias", "the-name-that-clients-know", &[], "m").unwrap();
    for body in Body::VISIBLE {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        for size in [10, 300_000] {
            let sent = chat("the-name-that-clients-know", size);
            let reply = until_routed(&client, &sent).await;
            assert_exact(&world, &reply, chat("m", size).as_bytes(), &format!("{body:?}, {size}")).await;
            let decision = world.assert_picked(&reply).await;
            assert_eq!((&decision["route"], &decision["targetModel"]), (&"default/alias".into(), &"m".into()));
        }
    }
}

/// Files are read within a second.
async fn until_routed(client: &Client, body: &str) -> Reply {
    tests::poll::until("the route", crate::world::SOON, async || {
        let reply = client.post("/v1/chat/completions", body.to_owned()).send().await.unwrap();
        (reply.status == 200).then_some(reply)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn json_is_known_by_any_of_the_content_types_and_what_is_none_is_told_as_hidden() {
    let sink = OtlpSink::start().await.unwrap();
    let endpoint = sink.endpoint();
    let world = World::start(vec![EngineConfig::instant("m")], Vec::new(), |it| it.traces(&endpoint)).await;
    let (_envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex)).await;
    let hidden = async || world.picker.metrics().await.unwrap().sum("kthena_router_bodies_hidden_total", &[]);
    let ask = async |types: &[&str]| {
        let call = client.request(Method::POST, "/v1/chat/completions").body(chat("m", 10));
        let call = types.iter().fold(call, |call, value| call.header("content-type", value));
        world.assert_picked(&call.send().await.unwrap()).await
    };
    let json: [&[&str]; 5] = [
        &["application/json", "application/json"],
        &["application/json, application/json"],
        &["APPLICATION/JSON; Charset=UTF-8"],
        &["text/plain", "application/json"],
        &[],
    ];
    for types in json {
        assert_eq!(ask(types).await["model"], "m", "{types:?}");
        assert_eq!(hidden().await, Some(0.0), "{types:?}");
    }
    let decision = ask(&["text/plain"]).await;
    assert_eq!(decision["model"], "", "{decision:#}");
    assert_eq!(hidden().await, Some(1.0));
    let told =
        |span: &Span| decision["traceId"] == span.trace_id && span.attribute("kthena.body_hidden") == Some("true");
    sink.wait_for(crate::world::SOON, |spans| spans.iter().any(told).then_some(())).await.unwrap();
}

/// No retry policy here: with one, Envoy 1.40 sends the body of a request with trailers twice, whatever
/// the picker answers.
#[tokio::test]
async fn a_request_with_trailers_is_answered_and_its_body_is_whole() {
    let world = World::instant(2).await;
    for body in [Body::None, Body::Buffered, Body::FullDuplex, Body::Override] {
        let (envoy, _) = envoy(without_retries(plain::config(&world.pool(), body))).await;
        let sent = Bytes::from(chat("m", 100_000));
        let reply = with_trailers(&Client::http2(envoy.address()), &sent).await;
        assert_exact(&world, &reply, &sent, &format!("{body:?} with trailers")).await;
        world.assert_picked(&reply).await;
    }
    world.assert_idle().await;
}

/// Envoy 1.40 keeps the trailers until the headers are answered, and the answer waits for the end of the
/// body, which is in the trailers: only Envoy's `message_timeout` can end that.
#[tokio::test]
async fn a_streamed_request_with_trailers_ends_at_the_message_timeout() {
    let world = World::instant(1).await;
    let config = without_retries(plain::config(&world.pool(), Body::Streamed))
        .vary(|config| config.ext_proc()["message_timeout"] = "0.3s".into());
    let (envoy, _) = envoy(config).await;
    let reply = with_trailers(&Client::http2(envoy.address()), &Bytes::from(chat("m", 10))).await;
    assert_eq!(reply.status, 504);
    world.assert_idle().await;
}

fn without_retries(config: GatewayConfig) -> GatewayConfig {
    config.vary(|config| {
        let route = &mut config.manager()["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
        route.as_object_mut().unwrap().remove("retry_policy");
    })
}

async fn with_trailers(client: &Client, body: &Bytes) -> Reply {
    let pieces: Vec<Bytes> = body.chunks(30_000).map(Bytes::copy_from_slice).collect();
    let call = client.request(Method::POST, "/v1/chat/completions").header("content-type", "application/json");
    call.chunks(pieces).trailers("x-checksum", "7").send().await.unwrap()
}

#[tokio::test]
async fn a_request_without_a_body_is_picked_for_in_every_mode() {
    let world = World::instant(2).await;
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let reply = client.get("/v1/models").send().await.unwrap();
        world.assert_picked(&reply).await;
        assert_eq!(reply.json().unwrap()["data"][0]["id"], "m", "{body:?}");
    }
    world.assert_idle().await;
}
