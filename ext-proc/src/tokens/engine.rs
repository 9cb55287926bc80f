//! An engine's own `/tokenize`, for models whose files are not here: bounded in time, number and size.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Why;
use crate::engine_client::{Connections, engine_client};

/// Requests under way; more go without ids.
const CONCURRENCY: usize = 32;

/// The largest body that is sent to be tokenized, in bytes.
const BODY: usize = 1 << 20;

/// The largest answer, in bytes: up to eight for each token.
const ANSWER: usize = 8 << 20;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_millis(200);

/// How long a connection is kept: less than the 5 s after which vLLM's server (uvicorn) closes it.
const IDLE_TIME: Duration = Duration::from_secs(4);

/// Asks engines; the caller has the deadline.
#[derive(Debug)]
pub(super) struct EngineTokenizer {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    turns: Semaphore,
}

#[derive(Deserialize)]
struct Answer {
    tokens: Vec<u32>,
}

impl EngineTokenizer {
    pub(super) fn new() -> Self {
        let http = engine_client(Connections { connect: CONNECT, idle: CONCURRENCY, idle_time: IDLE_TIME });
        Self { http, turns: Semaphore::new(CONCURRENCY) }
    }

    /// The ids that the engine's completion of this very body would begin with: its `/tokenize` reads the same
    /// fields.
    pub(super) async fn ids(&self, engine: SocketAddr, body: &[u8]) -> Result<Arc<[u32]>, Why> {
        let _turn = self.turns.try_acquire().map_err(|_| Why::Busy)?;
        if body.len() > BODY {
            return Err(Why::Engine(format!("the body has more than {BODY} bytes")));
        }
        let failed = |cause: &dyn std::fmt::Display| Why::Engine(cause.to_string());
        let request = Request::post(format!("http://{engine}/tokenize"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|error| failed(&error))?;
        let answer = self.http.request(request).await.map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(Why::Engine(format!("status {}", answer.status())));
        }
        let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|error| failed(&error))?;
        let answer: Answer = serde_json::from_slice(&body.to_bytes()).map_err(|error| failed(&error))?;
        Ok(answer.tokens.into())
    }
}
