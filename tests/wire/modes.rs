//! Each body mode, answered as it demands.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, processing_request::Request,
};

use crate::envoy::{Stream, common, connect, destination};
use crate::messages::*;
use crate::picker::Picker;

const ENDPOINT: &str = "127.0.0.9:8000";

#[tokio::test]
async fn a_request_without_a_body_is_answered_at_its_headers() {
    let picker = Picker::over(&[ENDPOINT]).await;
    for mode in [NONE, STREAMED, BUFFERED, FULL_DUPLEX] {
        let mut envoy = Stream::open(picker.address).await;
        envoy.say(first(mode, NONE, &[], true)).await;
        let answer = envoy.hear().await;
        assert!(matches!(answer.response, Some(Part::RequestHeaders(_))));
        assert_eq!(destination(&answer), ENDPOINT);
        assert!(!common(&answer).clear_route_cache);
    }
}

#[tokio::test]
async fn a_hidden_body_is_routed_at_the_headers() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(NONE, NONE, &[], false)).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
}

#[tokio::test]
async fn a_buffered_body_is_answered_with_the_body() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(BUFFERED, NONE, &[], false)).await;
    let headers = envoy.hear().await;
    assert!(matches!(&headers.response, Some(Part::RequestHeaders(part)) if part.response.is_none()), "{headers:?}");
    envoy.say(body(BODY, true)).await;
    let answer = envoy.hear().await;
    assert!(matches!(answer.response, Some(Part::RequestBody(_))));
    assert_eq!(destination(&answer), ENDPOINT);
    assert_eq!(common(&answer).body_mutation, None, "an unchanged body is not sent back");
}

#[tokio::test]
async fn a_streamed_body_delays_the_header_answer() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(STREAMED, NONE, &[], false)).await;
    envoy.say(body(&BODY[..5], false)).await;
    envoy.say(body(&BODY[5..], true)).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
    for _ in 0..2 {
        assert_eq!(common(&envoy.hear().await).body_mutation, None);
    }
}

#[tokio::test]
async fn a_full_duplex_body_comes_back_after_the_header_answer() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, &[], false)).await;
    envoy.say(body(BODY, false)).await;
    envoy.say(body(b"", true)).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
    assert_eq!(envoy.body().await, (BODY.to_vec(), vec![BODY.len()]));

    envoy.say(body(b"", true)).await;
    envoy.say(response_headers("200")).await;
    assert!(matches!(envoy.hear().await.response, Some(Part::ResponseHeaders(_))), "a second end is ignored");
    for text in [&b"data: 1\n\n"[..], b"data: 2\n\n"] {
        envoy.say(response_body(text, false)).await;
        assert_eq!(crate::envoy::chunk(&envoy.hear().await).body, text);
    }
    envoy.say(response_trailers()).await;
    assert!(matches!(envoy.hear().await.response, Some(Part::ResponseTrailers(_))));
    envoy.half_close();
    envoy.ends().await;
    picker.comes_to(&[0]).await;
}

#[tokio::test]
async fn full_duplex_trailers_are_answered_after_the_body() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    envoy.say(body(BODY, false)).await;
    envoy.say(trailers()).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
    let chunk = crate::envoy::chunk(&envoy.hear().await);
    assert_eq!((chunk.body.as_slice(), chunk.end_of_stream), (BODY, false));
    assert!(matches!(envoy.hear().await.response, Some(Part::RequestTrailers(_))));
}

#[tokio::test]
async fn an_empty_body_is_one_empty_chunk() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    envoy.say(body(b"", true)).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
    assert_eq!(envoy.body().await, (Vec::new(), vec![0]));
}

#[tokio::test]
async fn a_hidden_body_is_asked_for_where_the_data_plane_allows_it() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let channel = connect(picker.address).await;
    let mut envoy = Stream::on(&channel, &[("x-kthena-mode-override", "full-duplex")]).await;
    envoy.say(first(NONE, NONE, &[], false)).await;
    let word = envoy.hear().await;
    assert_eq!(word.response, None, "only the mode");
    let mode = word.mode_override.unwrap();
    assert_eq!((mode.request_body_mode, mode.response_body_mode), (FULL_DUPLEX, NONE));
    assert_eq!((mode.request_trailer_mode, mode.response_trailer_mode), (1, 1), "SEND");
    envoy.say(body(BODY, true)).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
    assert_eq!(envoy.body().await.0, BODY);
}

#[tokio::test]
async fn a_data_plane_that_half_closes_and_fills_value_is_served() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    // NGINX Gateway Fabric: no protocol_config, no pseudo headers, values in `value`, then half-close.
    let header = HeaderValue { key: "content-type".into(), value: "application/json".into(), raw_value: Vec::new() };
    let headers = HttpHeaders { headers: Some(HeaderMap { headers: vec![header] }), ..HttpHeaders::default() };
    envoy.say(part(Request::RequestHeaders(headers))).await;
    envoy.say(part(Request::RequestBody(HttpBody { body: BODY.to_vec(), ..HttpBody::default() }))).await;
    envoy.half_close();
    let answer = envoy.hear().await;
    assert!(matches!(answer.response, Some(Part::RequestHeaders(_))));
    assert_eq!(destination(&answer), ENDPOINT);
    assert_eq!(envoy.body().await.0, BODY);
    envoy.ends().await;
}

#[tokio::test]
async fn an_observing_filter_hears_nothing() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(ProcessingRequest { observability_mode: true, ..first(FULL_DUPLEX, NONE, &[], true) }).await;
    envoy.ends().await;
    picker.comes_to(&[0]).await;
}

#[tokio::test]
async fn a_rewritten_model_changes_the_body_and_its_length_and_nothing_else() {
    let picker = Picker::start(Default::default(), crate::picker::with_rewrite(ENDPOINT, "m", "the-real-model")).await;
    let request = br#"{"seed":123456789012345678901234567890, "model":"m","prompt":"hi","x":1.0}"#;
    let expected = br#"{"seed":123456789012345678901234567890, "model":"the-real-model","prompt":"hi","x":1.0}"#;
    let length = request.len().to_string();
    let headers = [("content-length", length.as_str())];
    let new_length = ("content-length".to_owned(), expected.len().to_string());

    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(BUFFERED, NONE, &headers, false)).await;
    envoy.hear().await;
    envoy.say(body(request, true)).await;
    let answer = envoy.hear().await;
    assert!(crate::envoy::set_headers(&answer).contains(&new_length));
    let mutation = common(&answer).body_mutation.unwrap().mutation;
    assert_eq!(mutation, Some(Mutation::Body(expected.to_vec())));

    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &headers, false)).await;
    envoy.say(body(request, true)).await;
    assert!(crate::envoy::set_headers(&envoy.hear().await).contains(&new_length));
    assert_eq!(envoy.body().await.0, expected);

    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(STREAMED, NONE, &headers, false)).await;
    envoy.say(body(&request[..20], false)).await;
    envoy.say(body(&request[20..], true)).await;
    assert!(crate::envoy::set_headers(&envoy.hear().await).contains(&new_length));
    let mut mutation = async || common(&envoy.hear().await).body_mutation.unwrap().mutation;
    assert_eq!(mutation().await, Some(Mutation::Body(expected.to_vec())));
    assert_eq!(mutation().await, Some(Mutation::ClearBody(true)));
}
