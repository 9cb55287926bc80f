//! One call: its headers, its cap, and what becomes of it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// Serves until the set is dropped.
pub(in crate::prefill) async fn serve(router: Router) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, tasks)
}

async fn call(router: Router) -> Result<Bytes, CallError> {
    let (address, _tasks) = serve(router).await;
    let headers = CallHeaders::new("id", None, None);
    Client::default().call(address, "/v1/completions", headers, Bytes::from_static(b"{}")).await
}

#[tokio::test]
async fn a_call_has_these_headers_and_no_others() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = Arc::clone(&seen);
    let answer = async move |headers: HeaderMap, body: Bytes| {
        *record.lock() = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        body
    };
    let (address, _tasks) = serve(Router::new().route("/v1/completions", post(answer))).await;
    let headers = CallHeaders::new("id-1", Some("application/json; charset=utf-8"), Some("Bearer secret"));
    let body = Bytes::from_static(br#"{"model":"m"}"#);
    let client = Client::default();
    let answer = client.call(address, "/v1/completions", headers.traced(Some("00-a-b-01")), body.clone()).await;
    assert_eq!(answer.unwrap(), body);
    let mut seen = seen.lock().clone();
    seen.sort();
    let host = format!("host: {address}");
    assert_eq!(
        seen,
        [
            "authorization: Bearer secret",
            "content-length: 13",
            "content-type: application/json; charset=utf-8",
            &host,
            "traceparent: 00-a-b-01",
            "x-request-id: id-1",
        ]
    );
}

#[tokio::test]
async fn a_status_that_is_not_2xx_is_an_error_and_only_some_are_the_requests_fault() {
    for (status, no_better) in [(400, true), (404, true), (408, false), (429, false), (500, false), (503, false)] {
        let status = StatusCode::from_u16(status).unwrap();
        let error = call(Router::new().route("/v1/completions", post(async move || status))).await.unwrap_err();
        assert_eq!((error.status(), error.is_elsewhere_no_better()), (Some(status), no_better));
    }
}

#[tokio::test]
async fn an_answer_over_the_cap_is_not_read_on() {
    let answer = |bytes: usize| call(Router::new().route("/v1/completions", post(async move || vec![b'x'; bytes])));
    assert_eq!(answer(CAP).await.unwrap().len(), CAP);
    assert!(matches!(answer(CAP + 1).await, Err(CallError::TooLarge)));
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_another_ones_chance() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::default().call(address, "/", CallHeaders::default(), Bytes::new()).await.unwrap_err();
    assert_eq!((error.code(), error.is_elsewhere_no_better()), ("connection", false));
}

#[tokio::test]
async fn a_call_that_is_dropped_closes_its_connection() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::default();
    let call = client.call(address, "/", CallHeaders::default(), Bytes::from_static(b"body"));
    let mut heard = Vec::new();
    let engine = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        while !heard.ends_with(b"body") {
            connection.read_buf(&mut heard).await.unwrap();
        }
        connection
    };
    let mut connection = tokio::select! {
        _ = call => panic!("nobody has answered"),
        connection = engine => connection,
    };
    // The call was dropped with the `select`.
    let rest = tokio::time::timeout(Duration::from_secs(5), connection.read(&mut [0; 8])).await;
    assert_eq!(rest.expect("the connection is closed").unwrap(), 0);
}
