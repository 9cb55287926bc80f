//! What an exchange wants done.

use scheduling::RefusalKind;

use super::input::ProtocolError;
use super::message::Message;

/// What to do next, in this order.
#[derive(Debug)]
pub enum Step {
    /// Decide, then call [`super::Exchange::answer`] or [`super::Exchange::refuse`].
    Pick(Seen),
    /// Refuse for a cause that the protocol itself found, then call [`super::Exchange::refuse`].
    Refuse(RefusalKind),
    /// Send this.
    Send(Message),
    /// Finish the stream cleanly.
    End,
    /// Finish the stream with a status: the data plane broke the protocol.
    Fail(ProtocolError),
}

/// How much of the request's body is there when it is time to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The request has none.
    Absent,
    /// The data plane does not show it.
    Hidden,
    /// All of it: [`super::Exchange::body`].
    Whole,
    /// Perhaps only its beginning (`BUFFERED_PARTIAL` without end of stream).
    Beginning,
}
