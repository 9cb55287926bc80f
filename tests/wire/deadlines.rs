//! Nothing waits for ever.

use std::time::Duration;

use kthena_ext_proc::service::Settings;

use crate::envoy::Stream;
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

async fn hurried() -> Picker {
    let settings = Settings { exchange_timeout: Duration::from_millis(50), ..Settings::default() };
    Picker::start(settings, declared(&[pool("default", "llama", &["127.0.0.9:8000"])])).await
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused_at_the_deadline() {
    let picker = hurried().await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    envoy.say(body(b"{", false)).await;
    let (status, error) = envoy.refusal().await;
    assert_eq!((status, &error["error"]["code"]), (504, &"deadline".into()));
    envoy.ends().await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended() {
    let picker = hurried().await;
    Stream::open(picker.address).await.ends().await;
}

#[tokio::test]
async fn an_answered_exchange_lives_beyond_the_deadline() {
    let picker = hurried().await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(BUFFERED, NONE, &[], true)).await;
    envoy.destination().await;
    // A second exchange starts later and runs into its own deadline: by then the first one's is over.
    Stream::open(picker.address).await.ends().await;
    assert_eq!(picker.in_flight(), [1]);
    envoy.say(response_headers("200")).await;
    envoy.hear().await;
}
