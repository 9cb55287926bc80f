//! What the brain may know about one request. Borrowed from the bytes that Envoy sent.

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use crate::kv::PromptKeys;
use crate::routing::Resolution;

/// Look-up of request headers by lower-case name; pseudo headers have their colon.
pub trait Headers: Debug + Sync {
    /// The first value under `name`, if it is text.
    fn get(&self, name: &str) -> Option<&str>;
}

/// A request as seen by filters, scorers and routes.
#[derive(Debug)]
pub struct Request<'a> {
    /// `x-request-id`, or one made by the edge.
    pub id: &'a str,
    /// Path without query; empty when the data plane sends none.
    pub path: &'a str,
    /// All request headers.
    pub headers: &'a dyn Headers,
    /// What is known of the body.
    pub content: Content<'a>,
    /// The only endpoints that the data plane allows; `None` allows all of the pool.
    pub subset: Option<&'a Subset>,
    /// The prompt as the engine will see it; `None` where nobody could tell, or nobody asked.
    pub tokens: Option<Tokens<'a>>,
    /// The route and server that were chosen before the decision, because the tokens depend on them;
    /// `None` where the decision is the first to ask. A server that the pool lost since is chosen anew.
    pub resolution: Option<&'a Resolution>,
}

/// A prompt in tokens, with what keeps equal ones apart in an engine's cache.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// The ids.
    pub ids: &'a [u32],
    /// The adapter's name, where the model is one.
    pub lora: Option<&'a str>,
    /// The client's `cache_salt`.
    pub salt: Option<&'a str>,
    /// The keys of these ids, for sizes of blocks for which they were made before; others are made when
    /// they are wanted.
    pub keys: &'a [PromptKeys],
}

impl Request<'_> {
    /// The client's model name, where a body with one was seen.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        match &self.content {
            Content::Parsed(body) => Some(&body.model),
            Content::Absent | Content::Hidden => None,
        }
    }
}

/// What is known of the request's body.
#[derive(Debug)]
pub enum Content<'a> {
    /// The request has none, as `GET /v1/models`.
    Absent,
    /// The data plane does not show it to us: route by load alone.
    Hidden,
    /// It was parsed.
    Parsed(Body<'a>),
}

/// The fields of an OpenAI-shaped body that matter here.
#[derive(Debug)]
pub struct Body<'a> {
    /// `model`, as the client wrote it.
    pub model: Cow<'a, str>,
    /// `stream`.
    pub stream: bool,
    /// `max_completion_tokens`, else `max_tokens`.
    pub max_tokens: Option<u64>,
    /// The prompt's text.
    pub prompt: Prompt<'a>,
}

/// The prompt as pieces of text in order, borrowed where the JSON had no escapes.
///
/// Roles, parts of multimodal messages (by their URL or data) and tools are pieces too: whatever
/// goes into the engine's prompt before a piece decides whether the piece is in a cache.
#[derive(Debug, Default)]
pub struct Prompt<'a> {
    /// The pieces. A piece ends where the next begins; there are no separators to add.
    pub pieces: Vec<Cow<'a, [u8]>>,
}

impl Prompt<'_> {
    /// Bytes of all pieces together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Whether there is no text at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(|piece| piece.is_empty())
    }

    /// Tokens, estimated as a quarter of the bytes, rounded up (Kthena's estimate).
    #[must_use]
    pub fn estimated_tokens(&self) -> u32 {
        u32::try_from(self.len().div_ceil(4)).unwrap_or(u32::MAX)
    }
}

/// The data plane's subset hint (`x-gateway-destination-endpoint-subset`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Members with a port: that endpoint only.
    pub addresses: Vec<SocketAddr>,
    /// Members without: every port of the pod.
    pub hosts: Vec<IpAddr>,
}

impl Subset {
    /// Whether the hint allows `address`.
    #[must_use]
    pub fn allows(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address) || self.hosts.contains(&address.ip())
    }
}
