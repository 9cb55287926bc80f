//! What Envoy says on a stream, and the deadline by which it must be answered.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::Stream;
use scheduling::RefusalKind;
use tokio::time::Sleep;
use tonic::{Code, Status, Streaming};

use super::wire::ProcessingRequest;
use crate::exchange::{Exchange, Input, ProtocolError, Step};

/// The messages of one stream.
pub(crate) struct Inbound {
    messages: Streaming<ProcessingRequest>,
    /// The data plane has said all.
    ended: bool,
    /// When the exchange must be answered.
    pub(crate) deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What came.
#[expect(clippy::large_enum_variant, reason = "nearly every one is a message, and is taken apart at once")]
pub(crate) enum Arrival {
    /// A message.
    Message(ProcessingRequest),
    /// The end of messages, or of the time.
    Input(Input),
    /// The end of messages, by an error.
    Broken(Status),
}

impl Inbound {
    /// `messages`, to be answered within `time`.
    pub(crate) fn new(messages: Streaming<ProcessingRequest>, time: Duration) -> Self {
        Self { messages, ended: false, deadline: Instant::now() + time, timer: None }
    }

    /// What comes next; the deadline only while `exchange` still waits for something.
    pub(crate) fn poll(&mut self, exchange: &Exchange, context: &mut Context<'_>) -> Poll<Arrival> {
        // An end is told once, and a stream that waits for its prefill would hear it again and again.
        let message = match self.ended {
            true => Poll::Pending,
            false => Pin::new(&mut self.messages).poll_next(context),
        };
        match message {
            Poll::Ready(Some(Ok(message))) => Poll::Ready(Arrival::Message(message)),
            Poll::Ready(Some(Err(status))) => Poll::Ready(Arrival::Broken(status)),
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Arrival::Input(Input::HalfClose))
            }
            Poll::Pending => {
                if !(exchange.is_pending() || exchange.is_draining()) {
                    self.timer = None;
                    return Poll::Pending;
                }
                let deadline = self.deadline;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
                ready!(timer.as_mut().poll(context));
                self.timer = None;
                Poll::Ready(Arrival::Input(Input::Deadline))
            }
        }
    }
}

/// What follows when the messages ended with an error; `cap` is the largest body.
pub(crate) fn broken(status: &Status, exchange: &Exchange, cap: usize) -> Step {
    match status.code() {
        // One message over tonic's limit, which is the body's cap and some: a body over the cap.
        Code::OutOfRange | Code::ResourceExhausted if exchange.is_pending() => {
            Step::Refuse(RefusalKind::TooLarge { cap })
        }
        // Not protobuf.
        Code::Internal => Step::Fail(ProtocolError::Unreadable),
        // The data plane or its client went away.
        _ => Step::End,
    }
}
