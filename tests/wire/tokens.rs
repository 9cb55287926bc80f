//! Decisions that wait for the prompt's tokens, and for how long.

use std::sync::Arc;

use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::metrics::Metrics;
use kthena_ext_proc::service::Settings;
use kthena_ext_proc::tokens::Tokenizers;
use scheduling::Profile;
use serde_json::json;
use tokio::net::TcpListener;

use crate::envoy::Stream;
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

/// A picker that compares token ids, with one endpoint.
async fn over(endpoint: &str) -> (Picker, Metrics) {
    let metrics = Metrics::new(Arc::new(Fleet::new(Profile::default())), &Default::default());
    let tokenizers = Some(Arc::new(Tokenizers::open(None, Arc::clone(&metrics.tokens)).unwrap()));
    let settings = Settings { tokenizers, ..Settings::default() };
    let picker = Picker::start(settings, declared(&[pool("default", "llama", &[endpoint])])).await;
    let profile = json!({"scheduler": {"plugins": {"Score": {"enabled": [{"name": "kvcache-aware", "weight": 1}]}}}});
    picker.fleet.set_profile(Profile::from_value(&profile).unwrap());
    (picker, metrics)
}

#[tokio::test]
async fn an_engine_that_does_not_tokenize_costs_exactness_and_not_the_request() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (picker, metrics) = over(&address).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], false)).await;
    envoy.say(body(br#"{"model":"m","prompt":"hello"}"#, true)).await;
    assert_eq!(envoy.destination().await, address);
    let text = metrics.encode(false);
    assert!(text.contains("tokens_total{source=\"none\",reason=\"deadline\"} 1"), "{text}");
}

#[tokio::test]
async fn a_client_that_leaves_while_its_prompt_is_tokenized_leaves_nothing_behind() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (picker, _metrics) = over(&silent.local_addr().unwrap().to_string()).await;
    let envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], false)).await;
    envoy.say(body(br#"{"model":"m","prompt":"hello"}"#, true)).await;
    let (_asked, _) = silent.accept().await.unwrap();
    drop(envoy);
    // The one after it is answered, and counted alone.
    let mut other = Stream::open(picker.address).await;
    other.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], false)).await;
    other.say(body(br#"{"model":"m","prompt":[1,2,3]}"#, true)).await;
    other.destination().await;
    picker.comes_to(&[1]).await;
}
