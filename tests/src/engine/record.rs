//! What a simulated engine received, for assertions.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

/// Requests that are remembered.
const KEPT: usize = 1000;

/// The largest body that is remembered.
const KEPT_BODY: usize = 16 << 10;

/// A request as the engine received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, unless it is larger than 16 KiB.
    pub body: Option<Bytes>,
    /// Bytes of the body.
    pub body_len: usize,
    /// Of the body.
    pub body_hash: u128,
    /// The trailers, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Received {
    /// A header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the body is byte for byte `body`.
    #[must_use]
    pub fn body_is(&self, body: &[u8]) -> bool {
        self.body_len == body.len() && self.body_hash == xxh3_128(body)
    }
}

#[derive(Debug, Default)]
pub(super) struct Record {
    requests: Mutex<(u64, VecDeque<Received>)>,
}

impl Record {
    /// Remembers a request that came through a gateway: those carry an `x-request-id`, and a picker
    /// that asks for our models does not.
    pub(super) fn push(&self, parts: &http::request::Parts, body: &Bytes, trailers: Option<HeaderMap>) {
        if !parts.headers.contains_key("x-request-id") {
            return;
        }
        let received = Received {
            method: parts.method.clone(),
            path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: parts.headers.clone(),
            body: (body.len() <= KEPT_BODY).then(|| body.clone()),
            body_len: body.len(),
            body_hash: xxh3_128(body),
            trailers,
        };
        let mut requests = self.requests.lock();
        requests.0 += 1;
        if requests.1.len() == KEPT {
            requests.1.pop_front();
        }
        requests.1.push_back(received);
    }

    pub(super) fn all(&self) -> Vec<Received> {
        self.requests.lock().1.iter().cloned().collect()
    }

    pub(super) fn count(&self) -> u64 {
        self.requests.lock().0
    }
}
