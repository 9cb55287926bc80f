//! Bodies of every size, cut at every place.

use kthena_ext_proc::service::Settings;

use crate::envoy::Stream;
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

/// A body of about `length` bytes, in which no two stretches are alike.
fn large(length: usize) -> Vec<u8> {
    let mut text = String::with_capacity(length + 32);
    text.push_str(r#"{"model":"m","prompt":""#);
    let mut number = 0_u64;
    while text.len() < length {
        text.push_str(&number.to_string());
        number += 1;
    }
    text.push_str(r#""}"#);
    text.into_bytes()
}

#[tokio::test]
async fn a_body_may_be_cut_at_any_byte() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let whole = r#"{"model":"m","prompt":"é😀 \"q\" \ud83d\ude00"}"#.as_bytes();
    for cut in 0..=whole.len() {
        let mut envoy = Stream::open(picker.address).await;
        envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
        envoy.say(body(&whole[..cut], false)).await;
        envoy.say(body(&whole[cut..], true)).await;
        envoy.destination().await;
        assert_eq!(envoy.body().await.0, whole, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_body_may_come_byte_by_byte() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    for byte in BODY {
        envoy.say(body(&[*byte], false)).await;
    }
    envoy.say(body(b"", true)).await;
    envoy.destination().await;
    assert_eq!(envoy.body().await, (BODY.to_vec(), vec![BODY.len()]));
}

#[tokio::test]
async fn ten_megabytes_come_back_byte_for_byte_in_chunks_that_envoy_takes() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let whole = large(10_000_000);
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    for piece in whole.chunks(65_536) {
        envoy.say(body(piece, false)).await;
    }
    envoy.say(body(b"", true)).await;
    envoy.destination().await;
    let (back, sizes) = envoy.body().await;
    assert!(back == whole, "{} of {} bytes", back.len(), whole.len());
    assert!(sizes.iter().all(|size| *size <= 62_000));
}

#[tokio::test]
async fn three_megabytes_may_come_in_one_message() {
    let picker = Picker::over(&["127.0.0.9:8000"]).await;
    let whole = large(3_000_000);
    for mode in [FULL_DUPLEX, BUFFERED] {
        let mut envoy = Stream::open(picker.address).await;
        envoy.say(first(mode, NONE, &[], false)).await;
        if mode == BUFFERED {
            envoy.hear().await;
        }
        envoy.say(body(&whole, true)).await;
        envoy.destination().await;
        if mode == FULL_DUPLEX {
            assert!(envoy.body().await.0 == whole);
        }
    }
}

async fn small_cap() -> Picker {
    let settings = Settings { max_body_size: 100_000, ..Settings::default() };
    Picker::start(settings, declared(&[pool("default", "llama", &["127.0.0.9:8000"])])).await
}

#[tokio::test]
async fn a_declared_length_over_the_cap_is_refused_before_the_body() {
    let picker = small_cap().await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[("content-length", "100001")], false)).await;
    let (status, error) = envoy.refusal().await;
    assert_eq!((status, &error["error"]["code"]), (413, &"request_too_large".into()));
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_at_once_and_what_follows_is_thrown_away() {
    let picker = small_cap().await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    envoy.say(body(&[b'x'; 60_000], false)).await;
    envoy.say(body(&[b'x'; 60_000], false)).await;
    assert_eq!(envoy.refusal().await.0, 413);
    for _ in 0..100 {
        envoy.say(body(&[b'x'; 60_000], false)).await;
    }
    envoy.say(body(b"", true)).await;
    envoy.ends().await;
}

#[tokio::test]
async fn one_message_beyond_every_limit_is_a_body_over_the_cap() {
    let picker = small_cap().await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(BUFFERED, NONE, &[], false)).await;
    envoy.hear().await;
    envoy.say(body(&vec![b'x'; 4_000_000], true)).await;
    assert_eq!(envoy.refusal().await.0, 413);
}
