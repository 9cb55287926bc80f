//! What we say to the data plane, before it is protobuf.

use std::time::Duration;

use super::body::Chunks;
use super::modes::BodySend;

/// One message to Envoy.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Only a `mode_override` to FULL_DUPLEX_STREAMED for the request.
    ModeOverride {
        /// The response's body mode, which stays.
        response: BodySend,
    },
    /// Asks Envoy to wait longer for the answer to the message that it sent last.
    MoreTime(Duration),
    /// Answers the request's headers; `None` lets them pass.
    RequestHeaders(Option<Box<Answer>>),
    /// Answers one body message (`BUFFERED`, `STREAMED`).
    RequestBody {
        /// What was decided, where the headers were answered before.
        answer: Option<Box<Answer>>,
        /// What becomes of the bytes.
        change: BodyChange,
    },
    /// Sends the request's body back (`FULL_DUPLEX_STREAMED`).
    RequestChunks(Chunks),
    /// Answers the request's trailers.
    RequestTrailers(Option<Box<Answer>>),
    /// Lets the response's headers pass.
    ResponseHeaders,
    /// Lets a piece of the response's body pass.
    ResponseBody,
    /// Sends a piece of the response's body back (`FULL_DUPLEX_STREAMED`).
    ResponseChunks(Chunks),
    /// Lets the response's trailers pass.
    ResponseTrailers,
    /// Envoy itself answers the client with this.
    Refusal(Refused),
}

/// What becomes of the bytes of one body message.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyChange {
    /// They pass.
    Keep,
    /// These take their place.
    Replace(Vec<u8>),
    /// They vanish, because an earlier message carried the new body.
    Clear,
}

/// What was decided, as the request shall carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `ip:port`, or several with commas, best first: header and metadata alike. None: the request is not steered.
    pub destination: Option<String>,
    /// Further headers to set.
    pub set: Vec<(&'static str, String)>,
    /// Headers to remove; only such as are there.
    pub remove: Vec<&'static str>,
    /// The new body, where it changes.
    pub body: Option<Vec<u8>>,
    /// The new `content-length`; the exchange fills it in.
    pub content_length: Option<usize>,
    /// Whether Envoy shall choose the route again.
    pub clear_route_cache: bool,
}

/// An answer to the client in the engine's stead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u64>,
    /// The OpenAI-shaped error.
    pub body: Vec<u8>,
    /// For Envoy's access log (`%RESPONSE_CODE_DETAILS%`).
    pub details: String,
}
