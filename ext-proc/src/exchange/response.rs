//! The response: it passes, in the shape that its mode demands.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{BodySend, Chunks, Exchange, Message, Modes, Phase, ProtocolError, Step};

impl Exchange {
    pub(super) fn response_headers(
        &mut self,
        end: bool,
        modes: Option<Modes>,
        steps: &mut VecDeque<Step>,
    ) -> Result<(), ProtocolError> {
        if self.phase == Phase::Headers {
            // A filter before ours has answered: Envoy shows us its response, and never the request.
            self.declared = modes.is_some();
            self.modes = modes.unwrap_or(self.rules.fallback);
            self.phase = Phase::Answered;
        }
        self.response_part("response headers", end)?;
        if std::mem::replace(&mut self.response_headers, true) {
            return Err(ProtocolError::Twice("response headers"));
        }
        self.respond(Message::ResponseHeaders, steps);
        Ok(())
    }

    pub(super) fn response_body(
        &mut self,
        bytes: Bytes,
        end: bool,
        steps: &mut VecDeque<Step>,
    ) -> Result<(), ProtocolError> {
        if self.response_end && bytes.is_empty() && self.modes.response == BodySend::FullDuplex {
            return Ok(());
        }
        self.response_part("a response body", end)?;
        let message = match self.modes.response {
            BodySend::FullDuplex => Message::ResponseChunks(Chunks::new(bytes, end)),
            _ => Message::ResponseBody,
        };
        self.respond(message, steps);
        Ok(())
    }

    pub(super) fn response_trailers(&mut self, steps: &mut VecDeque<Step>) -> Result<(), ProtocolError> {
        self.response_part("response trailers", true)?;
        self.respond(Message::ResponseTrailers, steps);
        Ok(())
    }

    /// A response before our answer makes sense: Envoy's own replies pass here as well.
    fn response_part(&mut self, what: &'static str, end: bool) -> Result<(), ProtocolError> {
        if self.phase == Phase::Headers {
            return Err(ProtocolError::BeforeHeaders(what));
        }
        if self.response_end {
            return Err(ProtocolError::AfterEnd(what));
        }
        self.response_end = end;
        if self.phase == Phase::Deciding {
            // Envoy has answered in our stead: there is nothing left to decide.
            self.phase = Phase::Answered;
        }
        Ok(())
    }

    fn respond(&self, message: Message, steps: &mut VecDeque<Step>) {
        if self.phase != Phase::Refused {
            steps.push_back(Step::Send(message));
        }
    }
}
