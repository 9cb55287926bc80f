//! What is found out before a decision, because the prompt's tokens depend on it.

use std::pin::Pin;

use bytes::Bytes;
use scheduling::{Content, Resolution};

use super::Shared;
use super::kept::RequestHead;
use crate::exchange::Seen;
use crate::openai::{self, Detached};
use crate::tokens::{self, Asking, InTokens};

/// A request that was read and resolved, and its tokens if there are any.
pub(super) struct Prepared {
    pub(super) read: Detached,
    pub(super) resolution: Option<Resolution>,
    pub(super) tokens: Option<InTokens>,
}

/// Ends with the tokens, or with none.
pub(super) type Preparing = Pin<Box<dyn Future<Output = Prepared> + Send>>;

/// Reads the body and resolves the route, to ask for the tokens where the profile wants them; the future
/// does nothing until it is polled, and waits for a bounded time. What cannot be read or resolved is refused
/// later.
pub(super) fn preparing(shared: &Shared, head: &RequestHead, seen: Seen, body: Bytes) -> Option<Preparing> {
    let pool = head.pool.as_ref().ok()?;
    if seen != Seen::Whole || !tokens::is_wanted(&shared.fleet, head.path()) || !head.is_json() {
        return None;
    }
    let openai::Parsed { body: content, model, members } = openai::parse(&body).ok()?;
    let mut request = head.request(Content::Parsed(content));
    let asking = Asking::of(shared.settings.tokenizers.as_ref(), &shared.fleet, pool, &request)?;
    let content = std::mem::replace(&mut request.content, Content::Absent);
    let Content::Parsed(content) = content else { return None };
    let read = openai::Parsed { body: content, model, members }.detach(&body);
    Some(Box::pin(async move {
        let tokens = asking.tokens(&body, Some(read.members())).await;
        Prepared { read, resolution: asking.resolution, tokens }
    }))
}
