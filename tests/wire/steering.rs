//! What steers a request is ours to say, within what the data plane allows.

use kthena_ext_proc::service::Settings;

use crate::envoy::{Stream, common, set_headers};
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

#[tokio::test]
async fn steering_headers_of_a_client_are_overwritten_or_removed_and_no_other_is_touched() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let mut envoy = Stream::open(picker.address).await;
    let spoofed = [
        ("x-gateway-destination-endpoint", "6.6.6.6:1"),
        ("x-gateway-destination-endpoint-subset", "6.6.6.6:1"),
        ("x-prefiller-host-port", "6.6.6.6:1"),
        ("X-Data-Parallel-Host-Port", "6.6.6.6:1"),
        ("x-data-parallel-rank", "3"),
        ("x-prefiller-host-port", "7.7.7.7:1"),
        ("authorization", "Bearer x"),
        ("x-custom", "stays"),
    ];
    envoy.say(first(FULL_DUPLEX, NONE, &spoofed, true)).await;
    let answer = envoy.hear().await;
    assert_eq!(set_headers(&answer), [("x-gateway-destination-endpoint".into(), "127.0.0.9:8000".into())]);
    let removed = common(&answer).header_mutation.unwrap().remove_headers;
    let expected = [
        "x-gateway-destination-endpoint-subset",
        "x-prefiller-host-port",
        "x-data-parallel-host-port",
        "x-data-parallel-rank",
    ];
    assert_eq!(removed, expected);
}

#[tokio::test]
async fn an_answer_lists_further_addresses_where_that_is_configured() {
    let endpoints = ["127.0.0.1:8000", "127.0.0.2:8000", "127.0.0.3:8000"];
    let settings = Settings { destinations: 2, ..Settings::default() };
    let picker = Picker::start(settings, declared(&[pool("default", "llama", &endpoints)])).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], true)).await;
    let destination = envoy.destination().await;
    let (best, next) = destination.split_once(',').expect("two addresses");
    assert!(best != next && endpoints.contains(&best) && endpoints.contains(&next), "{destination}");
}

#[tokio::test]
async fn an_ipv6_address_is_written_in_brackets() {
    let picker = Picker::over(&["[fd00::1]:8000"]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], true)).await;
    assert_eq!(envoy.destination().await, "[fd00::1]:8000");
}

async fn within(picker: &Picker, subset: &str) -> Stream {
    let envoy = Stream::open(picker.address).await;
    let key = "x-gateway-destination-endpoint-subset";
    envoy.say(with_metadata(first(FULL_DUPLEX, NONE, &[], true), "envoy.lb.subset_hint", key, subset)).await;
    envoy
}

#[tokio::test]
async fn a_subset_hint_is_obeyed() {
    let picker = Picker::over(&["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.2:8000"]).await;
    assert_eq!(within(&picker, "127.0.0.1:8001").await.destination().await, "127.0.0.1:8001");
    assert_eq!(within(&picker, "127.0.0.2").await.destination().await, "127.0.0.2:8000");
    let some = within(&picker, "9.9.9.9:1, 127.0.0.2:8000").await.destination().await;
    assert_eq!(some, "127.0.0.2:8000");
}

#[tokio::test]
async fn a_subset_hint_that_leaves_nobody_is_503() {
    let picker = Picker::over(&["127.0.0.1:8000"]).await;
    for subset in ["", "9.9.9.9:8000", "127.0.0.1:9999", "nonsense"] {
        let (status, error) = within(&picker, subset).await.refusal().await;
        assert_eq!((status, &error["error"]["code"]), (503, &"subset_empty".into()), "{subset}");
    }
}
