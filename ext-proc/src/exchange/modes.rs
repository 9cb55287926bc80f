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

impl std::str::FromStr for BodySend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().replace('_', "-").as_str() {
            "none" => Ok(Self::None),
            "streamed" => Ok(Self::Streamed),
            "buffered" => Ok(Self::Buffered),
            "buffered-partial" => Ok(Self::BufferedPartial),
            "full-duplex" | "full-duplex-streamed" => Ok(Self::FullDuplex),
            _ => Err(format!(
                "unknown body mode `{text}`; use none, streamed, buffered, buffered-partial or full-duplex"
            )),
        }
    }
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
