use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{PATH, router};

fn serving(replicas: i64) -> Value {
    json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "template": {"roles": [
                {"name": "decode", "entryTemplate": {"spec": {"containers": [{"name": "engine", "image": "vllm"}]}}}
            ]}
        }
    })
}

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    let kind = json!({"group": "workload.serving.volcano.sh", "version": "v1alpha1", "kind": "ModelServing"});
    let resource = json!({"group": "workload.serving.volcano.sh", "version": "v1alpha1", "resource": "modelservings"});
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource, "name": "llm",
            "namespace": "default", "operation": operation, "userInfo": {}, "object": object, "oldObject": old,
            "dryRun": false
        }
    })
}

async fn send(content_type: &str, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
    let request = Request::post(PATH).header("content-type", content_type).body(Body::from(body)).unwrap();
    let response = router(Duration::from_secs(5)).oneshot(request).await.unwrap();
    let status = response.status();
    (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
}

/// The `response` to a review.
async fn answer(review: &Value) -> Value {
    let (status, body) = send("application/json", review.to_string().into_bytes()).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
    answer["response"].clone()
}

#[tokio::test]
async fn what_can_be_served_is_allowed() {
    let response = answer(&review("CREATE", &serving(2), &Value::Null)).await;
    assert_eq!(response["allowed"], true);
    assert_eq!(response.get("warnings"), None);
}

#[tokio::test]
async fn a_refusal_lists_each_field_and_its_remedy() {
    let mut bad = serving(-1);
    bad["spec"]["plugins"] = json!([{"name": "none-such"}]);
    let response = answer(&review("CREATE", &bad, &Value::Null)).await;
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("validation failed:\n  - spec.replicas: replicas must be a non-negative integer\n  - "),
        "{message}"
    );
    assert!(message.contains("\n  - spec.plugins[0]: "), "{message}");
}

#[tokio::test]
async fn a_field_of_a_wrong_kind_is_named() {
    let mut bad = serving(1);
    bad["spec"]["recoveryPolicy"] = json!("Whatever");
    let response = answer(&review("CREATE", &bad, &Value::Null)).await;
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("\n  - spec.recoveryPolicy: unknown variant `Whatever`"), "{message}");
}

#[tokio::test]
async fn an_old_error_is_a_warning_and_a_new_one_is_refused() {
    let mut labelled = serving(-1);
    labelled["metadata"]["labels"] = json!({"team": "a"});
    let response = answer(&review("UPDATE", &labelled, &serving(-1))).await;
    assert_eq!(response["allowed"], true);
    assert_eq!(response["warnings"], json!(["spec.replicas: replicas must be a non-negative integer"]));
    let response = answer(&review("UPDATE", &serving(-1), &serving(1))).await;
    assert_eq!(response["allowed"], false);
}

#[tokio::test]
async fn what_is_on_its_way_out_is_let_go() {
    let mut leaving = serving(-1);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-03-01T12:00:00Z");
    assert_eq!(answer(&review("UPDATE", &leaving, &Value::Null)).await["allowed"], true);
    assert_eq!(answer(&review("DELETE", &Value::Null, &serving(-1))).await["allowed"], true);
}

#[tokio::test]
async fn what_is_not_a_review_is_a_bad_request() {
    let good = review("CREATE", &serving(1), &Value::Null).to_string().into_bytes();
    assert_eq!(send("application/json; charset=utf-8", good.clone()).await.0, StatusCode::OK);
    assert_eq!(send("text/plain", good).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send("application/json", b"{}".to_vec()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send("application/json", vec![b' '; super::BODY_LIMIT + 1]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = Request::post(PATH).header("content-type", "application/json").body(body).unwrap();
    let response = router(Duration::from_millis(10)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}
