//! What an exchange hears, and what of it makes no sense.

use bytes::Bytes;

use super::modes::Modes;

/// What the data plane says, or the clock.
#[derive(Clone, Debug)]
pub enum Input {
    /// The request's headers.
    RequestHeaders {
        /// No body follows.
        end: bool,
        /// The request's `content-length`.
        content_length: Option<u64>,
        /// `protocol_config`; `None` when the data plane sent none.
        modes: Option<Modes>,
    },
    /// A piece of the request's body.
    RequestBody {
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        end: bool,
    },
    /// The request's trailers: its end.
    RequestTrailers,
    /// The response's headers.
    ResponseHeaders {
        /// No body follows.
        end: bool,
        /// From `protocol_config`, where this is the first message.
        modes: Option<Modes>,
    },
    /// A piece of the response's body.
    ResponseBody {
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        end: bool,
    },
    /// The response's trailers: its end.
    ResponseTrailers,
    /// The data plane sends nothing more.
    HalfClose,
    /// The exchange's time is over.
    Deadline,
}

/// Messages in an order that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Something came before the request's headers.
    #[error("{0} came before the request headers; send the request headers first (request_header_mode: SEND)")]
    BeforeHeaders(&'static str),
    /// Something came twice that exists once.
    #[error("{0} came twice in one stream; a stream is about one HTTP request")]
    Twice(&'static str),
    /// Something came after the end of its direction.
    #[error("{0} came after the end of the message that it belongs to")]
    AfterEnd(&'static str),
    /// A body mode that this picker does not know.
    #[error("body mode {0} is not supported; use NONE, BUFFERED, STREAMED or FULL_DUPLEX_STREAMED")]
    UnknownMode(i32),
    /// Bytes that are no message of the protocol.
    #[error("a message on the stream is not an envoy.service.ext_proc.v3.ProcessingRequest")]
    Unreadable,
}
