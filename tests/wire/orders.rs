//! Messages in an order that makes no sense end their stream with a clear status, and harm nobody else.

use tonic::Code;

use crate::envoy::{Stream, connect};
use crate::messages::*;
use crate::picker::Picker;

#[tokio::test]
async fn nonsense_ends_its_own_stream_only() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let channel = connect(picker.address).await;
    let mut other = Stream::on(&channel, &[]).await;
    other.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], false)).await;
    other.say(body(&BODY[..7], false)).await;

    for (messages, text) in [
        (vec![body(BODY, true)], "before the request headers"),
        (vec![trailers()], "before the request headers"),
        (vec![request_headers(&[], false), request_headers(&[], false)], "twice"),
    ] {
        let mut envoy = Stream::on(&channel, &[]).await;
        for message in messages {
            envoy.say(message).await;
        }
        let status = envoy.fails().await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(text), "{status:?}");
    }

    other.say(body(&BODY[7..], true)).await;
    other.destination().await;
    assert_eq!(other.body().await.0, BODY);
    assert_eq!(picker.in_flight(), [1]);
}

#[tokio::test]
async fn data_after_the_end_fails_and_gives_the_load_back() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], false)).await;
    envoy.say(body(BODY, true)).await;
    envoy.destination().await;
    envoy.body().await;
    envoy.say(body(b"more", true)).await;
    assert_eq!(envoy.fails().await.code(), Code::FailedPrecondition);
    picker.comes_to(&[0]).await;
}

#[tokio::test]
async fn an_unknown_body_mode_is_an_invalid_argument() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(77, NONE, &[], false)).await;
    let status = envoy.fails().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("77"), "{status:?}");
}

#[tokio::test]
async fn a_message_about_nothing_is_passed_over() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(Default::default()).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], true)).await;
    envoy.destination().await;
}
