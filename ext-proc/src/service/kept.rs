//! What a stream keeps of its request and of the answer that it gave.

use std::sync::Arc;
use std::time::Instant;

use scheduling::{Content, Decision, Headers, PoolName, RefusalKind, Request, Subset};

use crate::duplicates::{self, Key};
use crate::from_proto::WireHeaders;
use crate::openai::{self, Detached};

/// What is kept of the request's headers message.
pub(super) struct RequestHead {
    pub(super) headers: WireHeaders,
    pub(super) id: String,
    /// The client sent the id: two streams that carry it may be one request.
    pub(super) named: bool,
    pub(super) pool: Result<PoolName, RefusalKind>,
    pub(super) subset: Option<Subset>,
    /// Of the body, by the step before the route.
    pub(super) read_before: Option<Detached>,
}

impl RequestHead {
    /// The path without its query.
    pub(super) fn path(&self) -> &str {
        let path = self.headers.get(":path").unwrap_or_default();
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// Whether the body is worth reading.
    pub(super) fn is_json(&self) -> bool {
        openai::is_json(self.headers.all("content-type"))
    }

    /// The request, with a body of which this is known, before anything else is.
    pub(super) fn request<'a>(&'a self, content: Content<'a>) -> Request<'a> {
        Request {
            id: &self.id,
            path: self.path(),
            headers: &self.headers,
            content,
            subset: self.subset.as_ref(),
            tokens: None,
            resolution: None,
        }
    }
}

/// What is kept of a decision that was sent.
pub(super) struct Answered {
    pub(super) picked: duplicates::Shared,
    pub(super) decision: Arc<Decision>,
    /// As the client sent it.
    pub(super) key: Option<Key>,
    /// As our answer changed it.
    pub(super) changed_key: Option<Key>,
    pub(super) at: Instant,
    pub(super) last_sent: Instant,
    pub(super) learned: bool,
    /// A prefill was made for it.
    pub(super) prefilled: bool,
    /// The response's headers came by.
    pub(super) responded: bool,
    /// The response was complete with its headers, as far as the engine's work goes.
    pub(super) whole_response: bool,
}

impl Answered {
    pub(super) fn new(picked: duplicates::Shared, decision: Arc<Decision>, key: Option<Key>, now: Instant) -> Self {
        Self {
            picked,
            decision,
            key,
            changed_key: None,
            at: now,
            last_sent: now,
            learned: false,
            prefilled: false,
            responded: false,
            whole_response: false,
        }
    }
}
