//! What a client is told when there is no answer.

use envoy_types::pb::envoy::service::ext_proc::v3::ImmediateResponse;

use crate::envoy::{Stream, immediate};
use crate::messages::*;
use crate::picker::{Picker, with_rewrite};

const ENDPOINT: &str = "127.0.0.9:8000";

async fn refusal(picker: &Picker, bytes: &[u8]) -> (i32, serde_json::Value) {
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], false)).await;
    envoy.say(body(bytes, true)).await;
    let refusal = envoy.refusal().await;
    envoy.ends().await;
    refusal
}

#[tokio::test]
async fn a_bad_body_is_400_in_the_shape_of_openai() {
    let picker = Picker::over(&[ENDPOINT]).await;
    for (bytes, code, param) in [
        (&b"{"[..], "invalid_json", None),
        (br#"{"prompt":"p"}"#, "model_missing", Some("model")),
        (br#"{"model":1}"#, "model_not_string", Some("model")),
        (br#"{"model":"a","model":"b"}"#, "model_twice", Some("model")),
    ] {
        let (status, error) = refusal(&picker, bytes).await;
        assert_eq!(status, 400);
        let error = &error["error"];
        assert_eq!((&error["type"], &error["code"]), (&"invalid_request_error".into(), &code.into()));
        assert_eq!(error["param"].as_str(), param);
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    picker.comes_to(&[0]).await;
}

#[tokio::test]
async fn a_model_that_no_route_names_is_404() {
    let picker = Picker::start(Default::default(), with_rewrite(ENDPOINT, "m", "n")).await;
    let (status, error) = refusal(&picker, br#"{"model":"unheard-of"}"#).await;
    assert_eq!((status, &error["error"]["code"]), (404, &"model_not_found".into()));
    assert_eq!(error["error"]["param"], "model");
}

#[tokio::test]
async fn a_pool_without_endpoints_is_503_also_without_a_body() {
    let picker = Picker::over(&[]).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], true)).await;
    let ImmediateResponse { status, headers, details, .. } = immediate(&envoy.hear().await);
    assert_eq!(status.unwrap().code, 503);
    let header = headers.unwrap().set_headers[0].header.clone().unwrap();
    assert_eq!((header.key.as_str(), header.raw_value.as_slice()), ("content-type", &b"application/json"[..]));
    assert_eq!(details, "kthena_no_ready_endpoint");
    envoy.ends().await;
}

#[tokio::test]
async fn a_body_that_is_not_json_by_its_type_is_routed_unread() {
    let picker = Picker::over(&[ENDPOINT]).await;
    let mut envoy = Stream::open(picker.address).await;
    let form = [("content-type", "multipart/form-data; boundary=x")];
    envoy.say(first(FULL_DUPLEX, NONE, &form, false)).await;
    envoy.say(body(b"--x--", true)).await;
    assert_eq!(envoy.destination().await, ENDPOINT);
    assert_eq!(envoy.body().await.0, b"--x--");
}
