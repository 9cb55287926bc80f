//! What clients get when there is no endpoint for them: the very JSON, through every mode.

use bytes::Bytes;
use serde_json::{Value, json};
use tests::client::Reply;
use tests::config_dir::inference_pool;
use tests::engine::EngineConfig;
use tests::poll;
use tests::shapes::plain::{self, Body};

use crate::world::{MODEL, SOON, World, envoy};

fn assert_refused(reply: &Reply, status: u16, error: &Value, what: &str) {
    assert_eq!(reply.status, status, "{what}: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(reply.json().unwrap(), json!({"error": error}), "{what}");
    assert_eq!(reply.engine(), None, "{what}");
}

fn bad_request(message: &str, param: Option<&str>, code: &str) -> Value {
    json!({"message": message, "type": "invalid_request_error", "param": param, "code": code})
}

#[tokio::test]
async fn a_bad_body_is_a_400_that_says_what_is_bad() {
    let world = World::instant(1).await;
    let model = Some("model");
    let cases = [
        (r#"{"messages":[]}"#, bad_request("the request body has no `model`", model, "model_missing")),
        (r#"{"model":7}"#, bad_request("`model` must be a non-empty string", model, "model_not_string")),
        (r#"{"model":""}"#, bad_request("`model` must be a non-empty string", model, "model_not_string")),
        (
            r#"{"model":"m","model":"n"}"#,
            bad_request("the request body has more than one `model`", model, "model_twice"),
        ),
    ];
    for body in Body::VISIBLE {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        for (sent, error) in &cases {
            let reply = client.post("/v1/chat/completions", *sent).send().await.unwrap();
            assert_refused(&reply, 400, error, &format!("{body:?} {sent}"));
        }
        let reply = client.post("/v1/chat/completions", "{\"model\":").send().await.unwrap();
        let error = &reply.json().unwrap()["error"];
        assert_eq!((reply.status, &error["code"], &error["param"]), (400, &"invalid_json".into(), &Value::Null));
        assert!(error["message"].as_str().unwrap().starts_with("the request body is not valid JSON: "), "{error}");
    }
    assert_eq!(world.llama[0].received_count(), 0);
    world.assert_idle().await;
}

#[tokio::test]
async fn an_unknown_model_is_a_404_once_the_pool_has_routes() {
    let world = World::instant(1).await;
    world.config.model_server("m", "llama", world.llama[0].address().port(), None).unwrap();
    world.config.model_route("m", MODEL, &[], "m").unwrap();
    for body in Body::VISIBLE {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let ask = || client.chat("gpt-unknown", &[("user", "x")]).send();
        let reply = poll::until("the route", SOON, async || {
            Some(ask().await.unwrap()).filter(|reply| reply.engine().is_none())
        });
        let error = bad_request("the model `gpt-unknown` does not exist", Some("model"), "model_not_found");
        assert_refused(&reply.await.unwrap(), 404, &error, &format!("{body:?}"));
        world.assert_picked(&client.chat(MODEL, &[("user", "x")]).send().await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_body_over_the_cap_is_a_413_as_soon_as_it_is_known() {
    let engines = vec![EngineConfig::instant(MODEL)];
    let world = World::start(engines, Vec::new(), |options| options.flag("--max-body-size", "1Mi")).await;
    let error = json!({
        "message": "the request body is larger than 1048576 bytes",
        "type": "invalid_request_error",
        "param": null,
        "code": "request_too_large",
    });
    for body in Body::VISIBLE {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let big = Bytes::from(vec![b' '; (1 << 20) + 1]);
        let call = client.post("/v1/chat/completions", big.clone());
        assert_refused(&call.send().await.unwrap(), 413, &error, &format!("{body:?}, by length"));
        let pieces: Vec<Bytes> = big.chunks(50_000).map(Bytes::copy_from_slice).collect();
        let call = client.post("/v1/chat/completions", Bytes::new());
        assert_refused(&call.chunks(pieces).send().await.unwrap(), 413, &error, &format!("{body:?}, in pieces"));
        if body != Body::Buffered {
            // The rest never comes: the answer does not wait for it.
            let call = client.post("/v1/chat/completions", big);
            let early = tokio::time::timeout(SOON, call.start_unfinished()).await.unwrap().unwrap();
            assert_eq!(early.status(), 413, "{body:?}, unfinished");
        }
        let fits = r#"{"model":"m","prompt":"x"}"#;
        let fits = " ".repeat((1 << 20) - fits.len()) + fits;
        let reply = client.post("/v1/completions", fits).send().await.unwrap();
        world.assert_picked(&reply).await;
    }
    world.assert_idle().await;
}

#[tokio::test]
async fn a_pool_without_ready_endpoints_is_a_503() {
    let world = World::instant(1).await;
    world.config.write("pool-llama.yaml", &[inference_pool("llama", 8000)]).unwrap();
    world.picker.wait_for_endpoints(0).await.unwrap();
    let error = json!({
        "message": "no endpoint of the pool `default/llama` is ready",
        "type": "service_unavailable_error",
        "param": null,
        "code": "no_ready_endpoint",
    });
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
        assert_refused(&reply, 503, &error, &format!("{body:?}"));
        let reply = client.get("/v1/models").send().await.unwrap();
        assert_refused(&reply, 503, &error, &format!("{body:?} without a body"));
    }
}

#[tokio::test]
async fn a_refusal_is_remembered_and_counted_by_its_reason() {
    let world = World::instant(1).await;
    let (envoy, client) = envoy(plain::config(&world.pool(), Body::FullDuplex).access_log()).await;
    client.post("/v1/chat/completions", "{}").send().await.unwrap();
    let refused = &world.picker.decisions(1).await.unwrap()[0];
    assert_eq!((&refused["refusal"]["code"], &refused["refusal"]["status"]), (&"model_missing".into(), &400.into()));
    let metrics = world.picker.metrics().await.unwrap();
    assert_eq!(metrics.sum("kthena_router_refusals_total", &["model_missing"]), Some(1.0), "{:?}", metrics.all());
    let line = poll::until("Envoy's access log", SOON, async || envoy.access_log().pop()).await.unwrap();
    assert_eq!(line["details"], "kthena_model_missing");
}
