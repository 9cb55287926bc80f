//! JSON over HTTP, with a deadline and a cap.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::LARGEST;

/// For the whole of an answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is answered at `url`, or why nothing is.
pub(super) async fn json(url: &str) -> Result<Value, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url} is no address: {error}"))?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let call = async {
        let answer = client.get(uri).await.map_err(|error| causes(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{url} answers {status}"));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| format!("{url} cannot be read to its end: {error}"))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| format!("{url} answers no JSON: {error}"))
    };
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{url} does not answer within {} s", DEADLINE.as_secs())),
    }
}

/// The error with its causes: the last is what a person can act on.
fn causes(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        story = format!("{story}: {cause}");
        next = cause.source();
    }
    story
}
