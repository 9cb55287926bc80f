//! One prefill call to one engine, with a cap on its answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;

use super::connectors::NoTransfer;
use crate::engine_client::{Connections, engine_client};

/// How long a connection may take to be made: a pod that is gone is left for the next soon.
const CONNECT: Duration = Duration::from_secs(2);

/// The largest answer, in bytes. A prefill answers with one token and where its blocks are.
const CAP: usize = 1 << 20;

/// Connections to one engine that are kept for the next call.
const IDLE: usize = 32;

/// How long they are kept: less than the 5 s after which vLLM's and `SGLang`'s server (uvicorn) closes them,
/// so that no call meets a connection that is being closed.
const IDLE_TIME: Duration = Duration::from_secs(4);

/// Why a prefill call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The engine took longer than the try had.
    #[error("no answer within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// The request cannot be written as HTTP.
    #[error("the call cannot be made")]
    Request(#[source] http::Error),
    /// No connection, or it broke.
    #[error("no answer over the connection")]
    Connection(#[source] legacy::Error),
    /// The engine refuses.
    #[error("the engine answered with status {0}")]
    Status(StatusCode),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
    /// The answer is over the cap; the connection is closed.
    #[error("the answer has more than {CAP} bytes")]
    TooLarge,
    /// The answer does not say what decode needs.
    #[error(transparent)]
    NoTransfer(#[from] NoTransfer),
}

impl CallError {
    /// Every [`code`](Self::code).
    pub const CODES: [&'static str; 7] =
        ["deadline", "request", "connection", "refused", "status", "too_large", "no_transfer"];

    /// Its name as a metric's label and as `error.type` of a span.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Request(_) => "request",
            Self::Connection(_) | Self::BrokenOff(_) => "connection",
            Self::Status(_) if self.is_elsewhere_no_better() => "refused",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::NoTransfer(_) => "no_transfer",
        }
    }

    /// The status, where the engine answered with one that is not 2xx.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// Whether the engine is to blame, and not the request.
    #[must_use]
    pub fn is_the_endpoints_fault(&self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error(),
            Self::Deadline(_) | Self::Connection(_) | Self::BrokenOff(_) => true,
            Self::Request(_) | Self::TooLarge | Self::NoTransfer(_) => false,
        }
    }

    /// Whether another engine would do no better: the request is at fault, or what was computed is
    /// there and only cannot be had.
    #[must_use]
    pub fn is_elsewhere_no_better(&self) -> bool {
        match self {
            Self::Status(status) => {
                let of_the_moment = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                status.is_client_error() && !of_the_moment.contains(status)
            }
            Self::Request(_) | Self::TooLarge | Self::NoTransfer(_) => true,
            Self::Deadline(_) | Self::Connection(_) | Self::BrokenOff(_) => false,
        }
    }
}

/// The headers of a prefill call: these and no other of the client's.
#[derive(Clone, Debug, Default)]
pub struct CallHeaders(HeaderMap);

impl CallHeaders {
    /// Headers of a call about a request of this id.
    #[must_use]
    pub fn new(request_id: &str, content_type: Option<&str>, authorization: Option<&str>) -> Self {
        let mut headers = Self::default();
        headers.set(header::CONTENT_TYPE, content_type.unwrap_or("application/json"));
        headers.set(HeaderName::from_static("x-request-id"), request_id);
        if let Some(authorization) = authorization {
            headers.set(header::AUTHORIZATION, authorization);
        }
        headers
    }

    /// With the trace context of the span that the call is.
    #[must_use]
    pub fn traced(&self, traceparent: Option<&str>) -> Self {
        let mut headers = self.clone();
        if let Some(traceparent) = traceparent {
            headers.set(HeaderName::from_static("traceparent"), traceparent);
        }
        headers
    }

    /// What is no header value is left out: the engine can do without it or says what it misses.
    fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.insert(name, value);
        }
    }
}

/// Makes prefill calls over connections that are kept. Clones share them.
#[derive(Clone, Debug)]
pub struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Default for Client {
    fn default() -> Self {
        let http = engine_client(Connections { connect: CONNECT, idle: IDLE, idle_time: IDLE_TIME });
        Self { http }
    }
}

impl Client {
    /// Posts `body` to `path` of the engine at `address` and reads its answer. Dropping the future
    /// ends the call, and the engine sees its connection close.
    ///
    /// # Errors
    /// [`CallError`], but neither `Deadline` nor `NoTransfer`.
    pub async fn call(
        &self,
        address: SocketAddr,
        path: &str,
        headers: CallHeaders,
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let uri = format!("http://{address}{path}");
        let mut request = Request::post(uri).body(Full::new(body)).map_err(CallError::Request)?;
        *request.headers_mut() = headers.0;
        let answer = self.http.request(request).await.map_err(CallError::Connection)?;
        if !answer.status().is_success() {
            return Err(CallError::Status(answer.status()));
        }
        match Limited::new(answer.into_body(), CAP).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(CallError::TooLarge),
            Err(error) => Err(CallError::BrokenOff(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::serve;
