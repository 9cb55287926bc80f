//! The step before the route: the picker says the model in a header, Envoy chooses the route by it, and the picker is
//! asked again, now for that route's pool.

use serde_json::json;
use tests::client::{Client, Reply};
use tests::engine::EngineConfig;
use tests::envoy::Envoy;
use tests::shapes::plain::{self, Body};

use crate::world::{World, addresses};

const MODEL: &str = "x-gateway-model-name";
const BASE_MODEL: &str = "x-gateway-base-model-name";

/// A pool for `llama` with the adapter `sql`, and one for `qwen`.
async fn world() -> World {
    let llama = vec![EngineConfig::instant("llama").adapters(&["sql"]); 2];
    let world =
        World::start(llama, vec![EngineConfig::instant("qwen"); 2], |options| options.flag("--model-name-port", 0))
            .await;
    world.config.model_server("llama", "llama", addresses(&world.llama)[0].port(), None).unwrap();
    world.config.model_route("llama", "llama", &["sql"], "llama").unwrap();
    let dump = async || {
        let reply = tests::client::get(world.picker.debug_address(), "/debug/config_dump/modelroutes").await.ok()?;
        reply.text().contains("sql").then_some(())
    };
    tests::poll::until("the route", crate::world::SOON, dump).await.unwrap();
    world
}

/// An Envoy that routes by the step's headers, whose step sees bodies in this mode.
async fn envoy(world: &World, body: Body) -> (Envoy, Client) {
    let [llama, qwen] = world.pools();
    let config = plain::also_pool(plain::config(&llama, Body::FullDuplex), &qwen);
    let config = plain::route_by_header(config, &[(BASE_MODEL, "llama", "llama"), (MODEL, "qwen", "qwen")]);
    let step = world.picker.logged_address("modelNameAddress").unwrap();
    crate::world::envoy(plain::name_models_first(config, step, body)).await
}

/// The picker is asked all the same, and says that no route tells the pool.
fn has_no_route(reply: &Reply) {
    let error = &reply.json().unwrap()["error"];
    assert_eq!((reply.status, &error["code"]), (503, &"unknown_pool".into()), "{error}");
}

/// How many bodies the pick did not have to read, because the step had.
async fn read_once(world: &World) -> f64 {
    world.picker.metrics().await.unwrap().sum("kthena_router_bodies_read_before_total", &[]).unwrap_or_default()
}

#[tokio::test]
async fn a_request_goes_to_the_pool_of_its_model_or_adapter_in_every_mode_that_shows_the_body() {
    let world = world().await;
    for body in [Body::Buffered, Body::FullDuplex, Body::Streamed] {
        let (_envoy, client) = envoy(&world, body).await;
        let long = "a prompt that fills several frames ".repeat(4000);
        let before = read_once(&world).await;
        for (model, pool) in [("llama", "llama"), ("sql", "llama"), ("qwen", "qwen")] {
            for prompt in ["short", &long] {
                let sent = format!(r#"{{"prompt": "{prompt}", "max_tokens": 2, "model": "{model}"}}"#);
                let reply = client.post("/v1/completions", sent.clone()).send().await.unwrap();
                let decision = world.assert_picked(&reply).await;
                assert_eq!(decision["pool"], format!("default/{pool}"), "{body:?}");
                let received = world.engine(reply.engine().unwrap()).received().pop().unwrap();
                assert_eq!(received.header(MODEL), Some(model));
                assert_eq!(received.header(BASE_MODEL), Some(pool));
                assert_eq!(received.header("x-kthena-body-read"), None, "what was for the pick ends there");
                assert!(received.body_is(sent.as_bytes()), "{body:?}");
            }
        }
        assert_eq!(read_once(&world).await - before, 3.0, "{body:?}: the long prompts, and no other");
        has_no_route(&client.chat("mistral", &[("user", "x")]).send().await.unwrap());
    }
    world.assert_idle().await;
}

#[tokio::test]
async fn a_client_does_not_choose_its_route_by_writing_the_header() {
    let world = world().await;
    let (_envoy, client) = envoy(&world, Body::Buffered).await;
    let ask = client.chat("llama", &[("user", "x")]).header(MODEL, "qwen").header(BASE_MODEL, "qwen");
    let reply = ask.send().await.unwrap();
    assert_eq!(world.assert_picked(&reply).await["pool"], "default/llama");
    let models = client.get("/v1/models").header(MODEL, "qwen").send().await.unwrap();
    has_no_route(&models);
    for body in [r#"{"model": "qwen\r\nx-admin: 1", "prompt": "x"}"#, r#"{"model": 1}"#, "no JSON", ""] {
        let reply = client.post("/v1/completions", body.to_owned()).header(MODEL, "qwen").send().await.unwrap();
        has_no_route(&reply);
    }
}

/// Envoy decides which filters a request meets by the first route that it finds, and does not look again: a filter
/// that only a route by model switches on never sees the request.
#[tokio::test]
async fn a_filter_that_only_the_new_route_switches_on_is_not_asked() {
    let world = world().await;
    let [llama, qwen] = world.pools();
    let config = plain::also_pool(plain::config(&llama, Body::FullDuplex), &qwen).vary(|config| {
        config.manager()["http_filters"][0]["disabled"] = true.into();
    });
    let config = plain::route_by_header(config, &[(MODEL, "llama", "llama")]).vary(|config| {
        config.manager()["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"] = json!({
            "envoy.filters.http.ext_proc": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}},
        });
    });
    let step = world.picker.logged_address("modelNameAddress").unwrap();
    let (_envoy, client) = crate::world::envoy(plain::name_models_first(config, step, Body::Buffered)).await;
    let reply = client.chat("llama", &[("user", "x")]).send().await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(world.picker.decisions(10).await.unwrap().len(), 0, "the request went past the picker");
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_before_the_route() {
    let options =
        |options: tests::picker::PickerOptions| options.flag("--model-name-port", 0).flag("--max-body-size", "64Ki");
    let world = World::start(vec![EngineConfig::instant("llama")], vec![EngineConfig::instant("qwen")], options).await;
    for body in [Body::Buffered, Body::FullDuplex] {
        let (_envoy, client) = envoy(&world, body).await;
        let reply = client.chat("llama", &[("user", &"x".repeat(100_000))]).send().await.unwrap();
        assert_eq!(reply.status, 413, "{body:?}");
        assert_eq!(reply.json().unwrap()["error"]["code"], "request_too_large", "{body:?}");
    }
    let metrics = tests::client::get(world.picker.metrics_address(), "/metrics").await.unwrap().text();
    assert!(metrics.contains("kthena_router_model_names_total{result=\"refused\"} 2"), "{metrics}");
}
