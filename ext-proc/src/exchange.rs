//! One HTTP request as Envoy tells it over one stream: a machine without a socket.
//!
//! Messages go in as [`Input`], what to do comes out as [`Step`]. The machine knows the order of
//! messages and how each body mode wants to be answered; it knows neither protobuf nor the fleet.
//!
//! ```text
//! Headers ──> Body ──> Deciding ──> Answered ──> (response phase) ──> end
//!    └── end of stream, or a hidden body ──^ └── refused: drain what still comes
//! ```
//!
//! Deciding may take a while, when a prefill is part of it: meanwhile messages come in as ever.

mod body;
mod input;
mod message;
mod modes;
mod response;
mod step;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use scheduling::RefusalKind;

pub use body::{CHUNK_LIMIT, Chunks, Received};
pub use input::{Input, ProtocolError};
pub use message::{Answer, BodyChange, Message, Refused};
pub use modes::{BodySend, Modes};
pub use step::{Seen, Step};

use crate::observer::BodyMode;

/// What an exchange must know beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The body modes to assume where the data plane does not tell.
    pub fallback: Modes,
    /// Whether a hidden body (`NONE`) may be asked for with a standalone `mode_override`.
    pub mode_override: bool,
    /// The most bytes of a request body that are kept.
    pub max_body_size: usize,
    /// How long the exchange may take to its answer.
    pub deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Headers,
    Body,
    Deciding,
    Answered,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Headers,
    Body,
    Trailers,
    HalfClose,
    NotYet,
}

/// The state of one exchange.
#[derive(Debug)]
pub struct Exchange {
    rules: Rules,
    modes: Modes,
    declared: bool,
    overridden: bool,
    phase: Phase,
    end: End,
    had_content_length: bool,
    body: Received,
    /// Body messages that Envoy sent and expects an answer for (`STREAMED`).
    unanswered: usize,
    response_headers: bool,
    response_end: bool,
    half_closed: bool,
    /// The body is over the cap and still coming.
    overflows: bool,
    /// Trailers that came while the body's answer was awaited.
    unanswered_trailers: bool,
}

impl Exchange {
    /// An exchange of which nothing was heard yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            modes: rules.fallback,
            declared: false,
            overridden: false,
            phase: Phase::Headers,
            end: End::NotYet,
            had_content_length: false,
            body: Received::default(),
            unanswered: 0,
            response_headers: false,
            response_end: false,
            half_closed: false,
            overflows: false,
            unanswered_trailers: false,
        }
    }

    /// Takes in one message and appends what follows from it to `steps`.
    pub fn on(&mut self, input: Input, steps: &mut VecDeque<Step>) {
        let done = match input {
            Input::RequestHeaders { end, content_length, modes } => {
                self.request_headers(end, content_length, modes, steps)
            }
            Input::RequestBody { bytes, end } => self.request_body(bytes, end, steps),
            Input::RequestTrailers => self.request_trailers(steps),
            Input::ResponseHeaders { end, modes } => self.response_headers(end, modes, steps),
            Input::ResponseBody { bytes, end } => self.response_body(bytes, end, steps),
            Input::ResponseTrailers => self.response_trailers(steps),
            Input::HalfClose => {
                self.half_close(steps);
                Ok(())
            }
            Input::Deadline => {
                match self.phase {
                    Phase::Headers => steps.push_back(Step::End),
                    Phase::Body | Phase::Deciding => {
                        self.overflows = false;
                        steps.push_back(Step::Refuse(RefusalKind::Deadline { after: self.rules.deadline }));
                    }
                    Phase::Refused => steps.push_back(Step::End),
                    Phase::Answered => {}
                }
                Ok(())
            }
        };
        if let Err(error) = done {
            steps.push_back(Step::Fail(error));
        }
    }

    /// The body as far as it was received; contiguous once [`Step::Pick`] was seen.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.whole()
    }

    /// How the body reaches us, for the observer.
    #[must_use]
    pub fn body_mode(&self) -> BodyMode {
        match self.modes.request {
            BodySend::None => BodyMode::None,
            BodySend::Buffered | BodySend::BufferedPartial => BodyMode::Buffered,
            BodySend::Streamed => BodyMode::Streamed,
            BodySend::FullDuplex => BodyMode::FullDuplex,
        }
    }

    /// Whether the exchange still waits for its decision, and so for a deadline.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Headers | Phase::Body | Phase::Deciding)
    }

    /// Whether [`Exchange::answer`] or [`Exchange::refuse`] is still to be called for a [`Step::Pick`].
    #[must_use]
    pub fn is_deciding(&self) -> bool {
        self.phase == Phase::Deciding
    }

    /// The answer takes until then: asks Envoy for the time, where it would not wait. To be called
    /// once, before the answer.
    ///
    /// Envoy has no timer in `FULL_DUPLEX_STREAMED`, and other data planes do not know the message.
    pub fn more_time(&self, time: Duration, steps: &mut VecDeque<Step>) {
        if self.declared && self.modes.request != BodySend::FullDuplex {
            steps.push_back(Step::Send(Message::MoreTime(time)));
        }
    }

    /// Whether a refusal was sent and only the rest of the request is read, to be thrown away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase == Phase::Refused
    }

    /// Whether the stream of this mode may end while the engine still works on the request, unless
    /// the response was seen to its end (measured with Envoy 1.40).
    #[must_use]
    pub fn may_end_early(&self) -> bool {
        if self.response_end || self.overridden || self.phase != Phase::Answered {
            return false;
        }
        match self.modes.request {
            _ if !self.declared => true,
            BodySend::None => true,
            BodySend::FullDuplex => self.modes.response == BodySend::None,
            BodySend::Buffered | BodySend::BufferedPartial | BodySend::Streamed => false,
        }
    }

    /// The decision is made: sends it in the shape that the mode demands.
    pub fn answer(&mut self, mut answer: Answer, steps: &mut VecDeque<Step>) {
        self.phase = Phase::Answered;
        let replaced = answer.body.take();
        if let (Some(body), true) = (&replaced, self.had_content_length) {
            if self.overridden {
                // Envoy 1.40 then keeps the client's, ignores a new one, and accepts only its removal.
                answer.remove.push("content-length");
            } else {
                answer.content_length = Some(body.len());
            }
        }
        let answer = Box::new(answer);
        match self.end {
            End::Headers => steps.push_back(Step::Send(Message::RequestHeaders(Some(answer)))),
            _ => match self.modes.request {
                BodySend::None => steps.push_back(Step::Send(Message::RequestHeaders(Some(answer)))),
                BodySend::Buffered | BodySend::BufferedPartial => self.answer_buffered(answer, replaced, steps),
                BodySend::Streamed => {
                    steps.push_back(Step::Send(Message::RequestHeaders(Some(answer))));
                    self.answer_streamed(replaced, steps);
                }
                BodySend::FullDuplex => {
                    steps.push_back(Step::Send(Message::RequestHeaders(Some(answer))));
                    let trailers = self.end == End::Trailers;
                    let body = replaced.map_or_else(|| self.body.take(), Bytes::from);
                    if !(trailers && body.is_empty()) {
                        steps.push_back(Step::Send(Message::RequestChunks(Chunks::new(body, !trailers))));
                    }
                    if trailers {
                        steps.push_back(Step::Send(Message::RequestTrailers(None)));
                    }
                }
            },
        }
        self.body.clear();
        if std::mem::take(&mut self.unanswered_trailers) {
            self.end = End::Trailers;
            steps.push_back(Step::Send(Message::RequestTrailers(None)));
        }
        if self.half_closed {
            steps.push_back(Step::End);
        }
    }

    /// There is no decision: sends `refusal` and ends the stream; after a body over the cap only
    /// when the rest was read and thrown away, so that the data plane can take the answer in peace.
    pub fn refuse(&mut self, refusal: Message, steps: &mut VecDeque<Step>) {
        self.phase = Phase::Refused;
        self.body.clear();
        steps.push_back(Step::Send(refusal));
        if !self.overflows || self.half_closed {
            steps.push_back(Step::End);
        }
    }

    fn answer_buffered(&mut self, answer: Box<Answer>, replaced: Option<Vec<u8>>, steps: &mut VecDeque<Step>) {
        // The headers were answered at once; what was decided travels with the body's answer. A
        // request that has trailers and no body at all offers no place for headers any more.
        let message = if self.end == End::Trailers {
            Message::RequestTrailers(Some(answer))
        } else {
            let change = replaced.map_or(BodyChange::Keep, BodyChange::Replace);
            Message::RequestBody { answer: Some(answer), change }
        };
        steps.push_back(Step::Send(message));
    }

    fn answer_streamed(&mut self, mut replaced: Option<Vec<u8>>, steps: &mut VecDeque<Step>) {
        // Envoy wants one answer for each chunk. A new body goes with the first, the others are emptied.
        let rewritten = replaced.is_some();
        for _ in 0..std::mem::take(&mut self.unanswered) {
            let change = match replaced.take() {
                Some(body) => BodyChange::Replace(body),
                None if rewritten => BodyChange::Clear,
                None => BodyChange::Keep,
            };
            steps.push_back(Step::Send(Message::RequestBody { answer: None, change }));
        }
        if self.end == End::Trailers {
            steps.push_back(Step::Send(Message::RequestTrailers(None)));
        }
    }

    /// Whether the whole body comes to us before we must answer the headers.
    fn shows_body(&self) -> bool {
        match self.modes.request {
            BodySend::None => false,
            BodySend::Streamed => self.modes.body_without_waiting,
            BodySend::Buffered | BodySend::BufferedPartial | BodySend::FullDuplex => true,
        }
    }

    fn request_headers(
        &mut self,
        end: bool,
        content_length: Option<u64>,
        modes: Option<Modes>,
        steps: &mut VecDeque<Step>,
    ) -> Result<(), ProtocolError> {
        if self.phase != Phase::Headers {
            return Err(ProtocolError::Twice("request headers"));
        }
        self.declared = modes.is_some();
        self.modes = modes.unwrap_or(self.rules.fallback);
        self.had_content_length = content_length.is_some();
        if end {
            self.end = End::Headers;
            self.pick(Seen::Absent, steps);
            return Ok(());
        }
        if self.modes.request == BodySend::None && self.rules.mode_override && !self.modes.body_without_waiting {
            steps.push_back(Step::Send(Message::ModeOverride { response: self.modes.response }));
            self.modes.request = BodySend::FullDuplex;
            self.overridden = true;
        }
        if !self.shows_body() {
            self.pick(Seen::Hidden, steps);
            return Ok(());
        }
        self.phase = Phase::Body;
        let cap = self.rules.max_body_size;
        match content_length.map(usize::try_from) {
            None => {}
            Some(Ok(length)) if length <= cap => {}
            Some(_) => {
                self.overflows = true;
                steps.push_back(Step::Refuse(RefusalKind::TooLarge { cap }));
                return Ok(());
            }
        }
        if matches!(self.modes.request, BodySend::Buffered | BodySend::BufferedPartial) {
            steps.push_back(Step::Send(Message::RequestHeaders(None)));
        }
        Ok(())
    }

    fn request_body(&mut self, bytes: Bytes, end: bool, steps: &mut VecDeque<Step>) -> Result<(), ProtocolError> {
        match self.phase {
            Phase::Headers => Err(ProtocolError::BeforeHeaders("a request body")),
            Phase::Refused => {
                if end {
                    steps.push_back(Step::End);
                }
                Ok(())
            }
            Phase::Deciding => self.undecided_request_body(&bytes),
            Phase::Body => {
                if self.body.len().saturating_add(bytes.len()) > self.rules.max_body_size {
                    self.overflows = !end;
                    steps.push_back(Step::Refuse(RefusalKind::TooLarge { cap: self.rules.max_body_size }));
                    return Ok(());
                }
                self.body.push(bytes);
                self.unanswered += 1;
                if end {
                    self.end = End::Body;
                    self.pick(Seen::Whole, steps);
                } else if self.modes.request == BodySend::Buffered {
                    // One message is the whole body; without end of stream, trailers follow.
                    self.pick(Seen::Whole, steps);
                } else if self.modes.request == BodySend::BufferedPartial {
                    self.pick(Seen::Beginning, steps);
                }
                Ok(())
            }
            Phase::Answered => self.late_request_body(&bytes, end, steps),
        }
    }

    /// What was decided about is complete: all that may come is an end of stream.
    fn undecided_request_body(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        if !bytes.is_empty() {
            return Err(ProtocolError::AfterEnd("a request body"));
        }
        if self.modes.request == BodySend::Streamed {
            self.unanswered += 1;
        }
        Ok(())
    }

    fn late_request_body(&mut self, bytes: &[u8], end: bool, steps: &mut VecDeque<Step>) -> Result<(), ProtocolError> {
        if self.end != End::NotYet {
            if !bytes.is_empty() {
                return Err(ProtocolError::AfterEnd("a request body"));
            }
            // Envoy was seen to repeat the end of stream of large full-duplex bodies
            // (gateway-api-inference-extension issue 2988); everywhere else a message wants an answer.
            if self.modes.request == BodySend::FullDuplex {
                return Ok(());
            }
        }
        if end {
            self.end = End::Body;
        }
        steps.push_back(Step::Send(Message::RequestBody { answer: None, change: BodyChange::Keep }));
        Ok(())
    }

    fn request_trailers(&mut self, steps: &mut VecDeque<Step>) -> Result<(), ProtocolError> {
        if self.phase == Phase::Headers {
            return Err(ProtocolError::BeforeHeaders("request trailers"));
        }
        if self.phase == Phase::Refused {
            steps.push_back(Step::End);
            return Ok(());
        }
        match self.end {
            End::Trailers => return Err(ProtocolError::Twice("request trailers")),
            End::Headers | End::Body | End::HalfClose => return Err(ProtocolError::AfterEnd("request trailers")),
            End::NotYet if self.phase == Phase::Deciding => {
                if std::mem::replace(&mut self.unanswered_trailers, true) {
                    return Err(ProtocolError::Twice("request trailers"));
                }
                return Ok(());
            }
            End::NotYet => self.end = End::Trailers,
        }
        if self.phase == Phase::Answered {
            steps.push_back(Step::Send(Message::RequestTrailers(None)));
        } else {
            let seen = if self.body.is_empty() { Seen::Absent } else { Seen::Whole };
            self.pick(seen, steps);
        }
        Ok(())
    }

    fn half_close(&mut self, steps: &mut VecDeque<Step>) {
        self.half_closed = true;
        // A data plane that tells its modes is Envoy, which marks the end of a body: closing before
        // that end means that the client went away. NGINX Gateway Fabric closes to say "that is all".
        if self.phase == Phase::Body && !self.declared {
            self.end = End::HalfClose;
            let seen = if self.body.is_empty() { Seen::Absent } else { Seen::Whole };
            self.pick(seen, steps);
        } else if self.phase != Phase::Deciding || self.declared {
            steps.push_back(Step::End);
        }
    }

    fn pick(&mut self, seen: Seen, steps: &mut VecDeque<Step>) {
        self.phase = Phase::Deciding;
        self.body.join();
        let seen = if seen == Seen::Whole && self.body.is_empty() { Seen::Absent } else { seen };
        steps.push_back(Step::Pick(seen));
    }
}
