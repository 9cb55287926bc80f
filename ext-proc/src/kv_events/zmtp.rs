//! As much ZeroMQ as a reader of KV events needs: ZMTP 3.0 (rfc.zeromq.org/spec/23), mechanism NULL,
//! one connection as SUB or as DEALER.
//!
//! Not a library's sockets: those connect, queue and reconnect in tasks of their own, and reserve
//! whatever length a peer announces. Here every wait has a deadline, every frame a cap, and the end of
//! a connection is seen at once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long connecting and greeting may take, and sending a message.
const DEADLINE: Duration = Duration::from_secs(3);

/// The largest message, all frames together, in bytes.
const CAP: usize = 8 << 20;

/// Frames in a message: a replay's answer has four.
const FRAMES: usize = 8;

/// After how much silence the peer is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(10);

const GREETING: usize = 64;
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role<'a> {
    /// Hears messages whose first frame begins with the topic.
    Subscriber { topic: &'a [u8] },
    /// Asks and is answered.
    Dealer,
}

/// Why a connection cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZmtpError {
    #[error("no answer within {} ms", DEADLINE.as_millis())]
    Deadline,
    #[error("no sign of life for {} s", 2 * SILENCE.as_secs())]
    Silent,
    #[error("it has not connected to --kv-events-bind, or has published nothing there")]
    Absent,
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the peer does not speak ZMTP 3 with mechanism NULL: is this the port of the KV events?")]
    Greeting,
    #[error("the peer is a {0} socket; it must be {1}")]
    Peer(String, &'static str),
    #[error("a message has more than {FRAMES} frames or {CAP} bytes")]
    Large,
}

/// The frames of a message.
pub(super) type Message = Vec<Bytes>;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    received: BytesMut,
    /// The frames of a message that has not ended.
    frames: Message,
    frame_bytes: usize,
    /// The peer answers heartbeats: those of ZMTP 3.1 do.
    has_heartbeat: bool,
    /// After how much silence the peer is asked whether it lives.
    silence: Duration,
    /// When the peer was last heard.
    heard: Instant,
    asked: bool,
    /// What is still to be written.
    unsent: BytesMut,
}

#[derive(Debug)]
struct Frame {
    flags: u8,
    body: Bytes,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, role: Role<'_>) -> Result<Self, ZmtpError> {
        let open = async { Self::greet(TcpStream::connect(address).await?, role).await };
        timeout(DEADLINE, open).await.map_err(|_| ZmtpError::Deadline)?
    }

    /// As [`Connection::open`], with a peer that has connected: with mechanism NULL both sides say the same.
    pub(super) async fn accepted(stream: TcpStream, role: Role<'_>) -> Result<Self, ZmtpError> {
        timeout(DEADLINE, Self::greet(stream, role)).await.map_err(|_| ZmtpError::Deadline)?
    }

    async fn greet(stream: TcpStream, role: Role<'_>) -> Result<Self, ZmtpError> {
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            received: BytesMut::new(),
            frames: Vec::new(),
            frame_bytes: 0,
            has_heartbeat: false,
            silence: SILENCE,
            heard: Instant::now(),
            asked: false,
            unsent: BytesMut::new(),
        };
        // Version 3.0, so that subscriptions are messages, which every peer understands.
        let mut greeting = [0; GREETING];
        for (at, bytes) in [(0, &[0xff][..]), (9, &[0x7f, 3, 0]), (12, b"NULL")] {
            if let Some(place) = greeting.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        connection.unsent.extend_from_slice(&greeting);
        connection.flush().await?;
        while connection.received.len() < GREETING {
            connection.read().await?;
        }
        let theirs = connection.received.split_to(GREETING);
        let [0xff, _, _, _, _, _, _, _, _, 0x7f, major, minor, b'N', b'U', b'L', b'L', 0, ..] = *theirs else {
            return Err(ZmtpError::Greeting);
        };
        if major < 3 {
            return Err(ZmtpError::Greeting);
        }
        connection.has_heartbeat = major > 3 || minor >= 1;

        let (ours, peer): (&[u8], _) = match role {
            Role::Subscriber { .. } => (b"SUB", "PUB"),
            Role::Dealer => (b"DEALER", "ROUTER"),
        };
        let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
        ready.push(u8::try_from(ours.len()).unwrap_or_default());
        ready.extend_from_slice(ours);
        connection.queue(COMMAND, &ready);
        connection.flush().await?;
        let theirs = loop {
            if let Some(frame) = connection.frame()? {
                break frame;
            }
            connection.read().await?;
        };
        let theirs = socket_type(&theirs).ok_or(ZmtpError::Greeting)?;
        // An XPUB is a PUB that also hears who subscribes.
        if theirs != peer && !(peer == "PUB" && theirs == "XPUB") {
            return Err(ZmtpError::Peer(theirs, peer));
        }
        if let Role::Subscriber { topic } = role {
            connection.queue(0, &[&[1], topic].concat());
            connection.flush().await?;
        }
        Ok(connection)
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, frames: &[&[u8]]) -> Result<(), ZmtpError> {
        let last = frames.len().saturating_sub(1);
        for (index, frame) in frames.iter().enumerate() {
            self.queue(if index < last { MORE } else { 0 }, frame);
        }
        self.flush().await
    }

    /// The next message. May be dropped while it waits: nothing that was read is lost.
    pub(super) async fn receive(&mut self) -> Result<Message, ZmtpError> {
        loop {
            while let Some(frame) = self.frame()? {
                if frame.flags & COMMAND != 0 {
                    self.command(&frame.body)?;
                    self.flush().await?;
                    continue;
                }
                self.frame_bytes += frame.body.len();
                self.frames.push(frame.body);
                if self.frames.len() > FRAMES || self.frame_bytes > CAP {
                    return Err(ZmtpError::Large);
                }
                if frame.flags & MORE == 0 {
                    self.frame_bytes = 0;
                    return Ok(std::mem::take(&mut self.frames));
                }
            }
            let until = self.heard + if self.asked { 2 * self.silence } else { self.silence };
            match tokio::time::timeout_at(until, self.read()).await {
                Ok(read) => read?,
                Err(_) if self.asked => return Err(ZmtpError::Silent),
                Err(_) if self.has_heartbeat => {
                    self.asked = true;
                    // No time to live: that would end the connection at the peer's side.
                    self.queue(COMMAND, b"\x04PING\0\0");
                    self.flush().await?;
                }
                Err(_) => self.heard = Instant::now(),
            }
        }
    }

    fn command(&mut self, body: &[u8]) -> Result<(), ZmtpError> {
        // PING has two bytes of time to live, then a context that the PONG repeats. It costs less to send than
        // to answer: a peer that does not read the answers is left.
        if let Some(context) = body.strip_prefix(b"\x04PING").and_then(|rest| rest.get(2..)) {
            if self.unsent.len() > GREETING {
                return Err(ZmtpError::Large);
            }
            self.queue(COMMAND, &[b"\x04PONG", context].concat());
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), ZmtpError> {
        self.received.reserve(1 << 14);
        if self.stream.read_buf(&mut self.received).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        self.heard = Instant::now();
        self.asked = false;
        Ok(())
    }

    /// The next frame, if all of it was read.
    fn frame(&mut self) -> Result<Option<Frame>, ZmtpError> {
        let (flags, length, head) = match *self.received {
            [flags, a, b, c, d, e, f, g, h, ..] if flags & LONG != 0 => {
                (flags, u64::from_be_bytes([a, b, c, d, e, f, g, h]), 9)
            }
            [flags, length, ..] if flags & LONG == 0 => (flags, length.into(), 2),
            _ => return Ok(None),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= CAP).ok_or(ZmtpError::Large)?;
        if self.received.len() < head + length {
            return Ok(None);
        }
        self.received.advance(head);
        Ok(Some(Frame { flags, body: self.received.split_to(length).freeze() }))
    }

    fn queue(&mut self, flags: u8, body: &[u8]) {
        match u8::try_from(body.len()) {
            Ok(length) => self.unsent.extend_from_slice(&[flags, length]),
            Err(_) => {
                self.unsent.extend_from_slice(&[flags | LONG]);
                self.unsent.extend_from_slice(&(body.len() as u64).to_be_bytes());
            }
        }
        self.unsent.extend_from_slice(body);
    }

    /// Writes what is queued. May be dropped while it waits.
    async fn flush(&mut self) -> Result<(), ZmtpError> {
        let write = async {
            while !self.unsent.is_empty() {
                self.stream.write_buf(&mut self.unsent).await?;
            }
            Ok(())
        };
        timeout(DEADLINE, write).await.map_err(|_| ZmtpError::Deadline)?
    }
}

/// `Socket-Type` of a READY command: properties are a name behind one byte of length and a value
/// behind four.
fn socket_type(frame: &Frame) -> Option<String> {
    let mut rest = frame.body.strip_prefix(b"\x05READY").filter(|_| frame.flags & COMMAND != 0)?;
    while let Some((length, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        let (length, after) = after.split_first_chunk()?;
        let (value, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    fn greeting(minor: u8) -> Vec<u8> {
        let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, minor];
        greeting.extend(b"NULL");
        greeting.resize(GREETING, 0);
        greeting
    }

    fn ready(kind: &str) -> Vec<u8> {
        let mut body = b"\x05READY\x08Identity\0\0\0\0\x0bSocket-Type\0\0\0".to_vec();
        body.push(u8::try_from(kind.len()).unwrap());
        body.extend(kind.as_bytes());
        let mut frame = vec![COMMAND, u8::try_from(body.len()).unwrap()];
        frame.extend(body);
        frame
    }

    /// A peer that says `words` to whoever connects, and then hears until the end; what it heard.
    async fn peer(words: Vec<u8>) -> (SocketAddr, JoinSet<Vec<u8>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&words).await.unwrap();
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            heard
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn a_subscriber_greets_subscribes_and_hears_messages_of_any_cut() {
        let mut words = [greeting(1), ready("XPUB")].concat();
        words.extend(b"\x01\x02kv\x01\x00\x02\0\0\0\0\0\0\x01\x2c");
        words.extend([7; 300]);
        // A heartbeat between two messages, with a context that comes back.
        words.extend(b"\x04\x09\x04PING\0\x0aab\x00\x01x");
        let (address, mut tasks) = peer(words).await;
        let mut connection = Connection::open(address, Role::Subscriber { topic: b"kv" }).await.unwrap();
        assert_eq!(connection.receive().await.unwrap(), [&b"kv"[..], b"", &[7; 300]]);
        assert_eq!(connection.receive().await.unwrap(), [&b"x"[..]]);
        drop(connection);
        let heard = tasks.join_next().await.unwrap().unwrap();
        assert_eq!(
            heard[..12],
            greeting(0)[..12].iter().enumerate().map(|(at, byte)| if at == 8 { 0 } else { *byte }).collect::<Vec<_>>()
        );
        assert_eq!(
            heard[GREETING..],
            *b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB\x00\x03\x01kv\x04\x07\x04PONGab"
        );
    }

    #[tokio::test]
    async fn a_dealer_asks_in_frames() {
        let (address, mut tasks) = peer([greeting(0), ready("ROUTER")].concat()).await;
        let mut connection = Connection::open(address, Role::Dealer).await.unwrap();
        connection.send(&[b"", &[0, 1]]).await.unwrap();
        drop(connection);
        let heard = tasks.join_next().await.unwrap().unwrap();
        assert!(heard.ends_with(b"\x06DEALER\x01\x00\x00\x02\x00\x01"), "{heard:?}");
    }

    #[tokio::test]
    async fn strangers_are_refused_by_name() {
        for (words, what) in [
            (
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
                "does not speak ZMTP",
            ),
            ([greeting(0), ready("ROUTER")].concat(), "is a ROUTER socket; it must be PUB"),
            ([greeting(0), b"\x00\x01x".to_vec()].concat(), "does not speak ZMTP"),
            // A frame of a terabyte is refused before there is room for it.
            ([greeting(0), b"\x02\0\0\x01\0\0\0\0\0".to_vec()].concat(), "more than"),
        ] {
            let (address, _tasks) = peer(words).await;
            let error = Connection::open(address, Role::Subscriber { topic: b"" }).await.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[tokio::test]
    async fn a_message_without_end_is_cut_off() {
        let mut words = [greeting(0), ready("PUB")].concat();
        words.extend(b"\x01\x01x".repeat(FRAMES + 1));
        let (address, _tasks) = peer(words).await;
        let mut connection = Connection::open(address, Role::Subscriber { topic: b"" }).await.unwrap();
        assert!(matches!(connection.receive().await, Err(ZmtpError::Large)));
    }

    #[tokio::test]
    async fn a_peer_without_a_sign_of_life_is_left() {
        let (address, _tasks) = peer([greeting(1), ready("PUB")].concat()).await;
        let mut connection = Connection::open(address, Role::Subscriber { topic: b"" }).await.unwrap();
        connection.silence = Duration::from_millis(10);
        assert!(matches!(connection.receive().await, Err(ZmtpError::Silent)));
    }
}
