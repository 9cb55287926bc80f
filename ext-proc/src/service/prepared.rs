//! What is found out before a decision, because the prompt's tokens depend on it.

use std::pin::Pin;

use bytes::Bytes;
use scheduling::{Content, Resolution};

use super::Shared;
use super::kept::RequestHead;
use crate::exchange::Seen;
use crate::openai::{self, Detached};
use crate::tokens::{self, Asking, InTokens};

/// A request that was read; resolved and with its tokens, where those were asked for.
pub(super) struct Prepared {
    pub(super) read: Detached,
    pub(super) resolution: Option<Resolution>,
    pub(super) tokens: Option<InTokens>,
}

/// Ends with the tokens, or with none.
pub(super) type Preparing = Pin<Box<dyn Future<Output = Prepared> + Send>>;

/// How far a request is prepared.
pub(super) enum Preparation {
    /// It waits for its tokens; the future does nothing until it is polled, and waits for a bounded time.
    Under(Preparing),
    /// Nothing is to be waited for. `None`: nothing was read.
    Done(Option<Box<Prepared>>),
}

/// Reads the body, unless it is `read` already, and resolves the route, to ask for the tokens where the profile wants
/// them. What cannot be read or resolved is refused later.
pub(super) fn preparing(
    shared: &Shared,
    head: &RequestHead,
    seen: Seen,
    body: Bytes,
    read: Option<Detached>,
) -> Preparation {
    let wanted = seen == Seen::Whole && tokens::is_wanted(&shared.fleet, head.path()) && head.is_json();
    let read = read.or_else(|| if wanted { Some(openai::parse(&body).ok()?.detach(&body)) } else { None });
    let asking = read.as_ref().filter(|_| wanted).zip(head.pool.as_ref().ok()).and_then(|(read, pool)| {
        let request = head.request(Content::Parsed(read.attach(&body).body));
        Asking::of(shared.settings.tokenizers.as_ref(), &shared.fleet, pool, &request)
    });
    match (read, asking) {
        (Some(read), Some(asking)) => Preparation::Under(Box::pin(async move {
            let tokens = asking.tokens(&body, Some(read.members())).await;
            Prepared { read, resolution: asking.resolution, tokens }
        })),
        (read, _) => {
            let prepared = |read| Box::new(Prepared { read, resolution: None, tokens: None });
            Preparation::Done(read.map(prepared))
        }
    }
}
