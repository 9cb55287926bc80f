//! Load lives as long as the request, at the endpoint that serves it.

use std::time::Duration;

use kthena_ext_proc::service::Settings;

use crate::envoy::{Stream, connect};
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

const TWO: [&str; 2] = ["127.0.0.1:8000", "127.0.0.2:8000"];

#[tokio::test]
async fn load_moves_to_the_endpoint_that_served() {
    let picker = Picker::over(&TWO).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], true)).await;
    let picked = envoy.destination().await;
    let other = TWO.into_iter().find(|it| *it != picked).unwrap();
    let key = "x-gateway-destination-endpoint-served";
    envoy.say(with_metadata(response_headers("200"), "envoy.lb", key, other)).await;
    envoy.hear().await;
    let expected = TWO.map(|it| u32::from(it == other));
    assert_eq!(picker.in_flight(), expected);
}

#[tokio::test]
async fn what_was_served_draws_the_next_request_of_its_prefix() {
    let picker = Picker::over(&TWO).await;
    let long = format!(r#"{{"model":"m","prompt":"{}"}}"#, "a shared system prompt, ".repeat(200));
    let ask = async |id: &str| {
        let mut envoy = Stream::open(picker.address).await;
        envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, &[("x-request-id", id)], false)).await;
        envoy.say(body(long.as_bytes(), true)).await;
        let destination = envoy.destination().await;
        envoy.body().await;
        envoy.say(response_headers("200")).await;
        envoy.hear().await;
        destination
    };
    let warm = ask("0").await;
    picker.comes_to(&[0, 0]).await;
    for id in 1..10 {
        assert_eq!(ask(&id.to_string()).await, warm);
        picker.comes_to(&[0, 0]).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_load_back() {
    let picker = Picker::over(&TWO[..1]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(BUFFERED, NONE, &[], true)).await;
    envoy.destination().await;
    assert_eq!(picker.in_flight(), [1]);
    drop(envoy);
    picker.comes_to(&[0]).await;
}

async fn ends_early(hold: Duration, metadata: &[(&'static str, &str)]) -> Picker {
    let settings = Settings { hold_default: hold, ..Settings::default() };
    let picker = Picker::start(settings, declared(&[pool("default", "llama", &TWO[..1])])).await;
    let mut envoy = Stream::on(&connect(picker.address).await, metadata).await;
    envoy.say(first(NONE, NONE, &[], false)).await;
    envoy.destination().await;
    envoy.half_close();
    envoy.ends().await;
    picker
}

#[tokio::test]
async fn load_is_held_where_the_stream_ends_before_the_request() {
    let picker = ends_early(Duration::from_secs(600), &[]).await;
    assert_eq!(picker.in_flight(), [1]);
}

#[tokio::test]
async fn held_load_ends_at_its_estimate() {
    let picker = ends_early(Duration::from_millis(100), &[]).await;
    picker.comes_to(&[0]).await;
}

#[tokio::test]
async fn nothing_is_held_where_the_data_plane_sends_response_trailers() {
    let picker = ends_early(Duration::from_secs(600), &[("x-kthena-response-trailers", "send")]).await;
    picker.comes_to(&[0]).await;
}

#[tokio::test]
async fn a_response_seen_to_its_end_is_not_held() {
    let picker = Picker::over(&TWO[..1]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(NONE, NONE, &[], false)).await;
    envoy.destination().await;
    envoy.say(response_headers("200")).await;
    envoy.hear().await;
    envoy.say(response_trailers()).await;
    envoy.hear().await;
    envoy.half_close();
    envoy.ends().await;
    picker.comes_to(&[0]).await;
}
