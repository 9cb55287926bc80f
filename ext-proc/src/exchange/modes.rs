//! How the data plane shows bodies: `protocol_config` of the first message.

/// Envoy's `BodySendMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodySend {
    /// `NONE`: not at all.
    None,
    /// `STREAMED`: in pieces, each answered.
    Streamed,
    /// `BUFFERED`: whole, in one message.
    Buffered,
    /// `BUFFERED_PARTIAL`: one message, up to Envoy's buffer limit.
    BufferedPartial,
    /// `FULL_DUPLEX_STREAMED`: in pieces, which are sent back.
    #[default]
    FullDuplex,
}

/// The modes of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// `request_body_mode`.
    pub request: BodySend,
    /// `response_body_mode`.
    pub response: BodySend,
    /// `send_body_without_waiting_for_header_response`.
    pub body_without_waiting: bool,
}
