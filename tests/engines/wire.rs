//! The way of an engine's KV events, on which messages get lost and connections break.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What both sides say first, in bytes, and the flags of a frame (ZMTP 3.0).
const GREETING: usize = 64;
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Passes on what an engine publishes; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Wire {
    port: u16,
    whole: watch::Sender<bool>,
    lost: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Wire {
    /// A port at `host` that leads to `port` there.
    pub(crate) async fn before(host: IpAddr, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let own = listener.local_addr()?.port();
        let (whole, state) = watch::channel(true);
        let lost = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(listener, SocketAddr::new(host, port), state, Arc::clone(&lost)));
        Ok(Self { port: own, whole, lost, task })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next so many messages do not arrive.
    pub(crate) fn lose(&self, messages: usize) {
        self.lost.store(messages, Ordering::Release);
    }

    /// Breaks all connections, and every new one.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// New connections hold again.
    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, engine: SocketAddr, mut whole: watch::Receiver<bool>, lost: Arc<AtomicUsize>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let is_whole = *whole.borrow();
                if let (Ok((stream, _)), true) = (accepted, is_whole) {
                    relays.spawn(relay(stream, engine, Arc::clone(&lost)));
                }
            }
            changed = whole.changed() => match changed {
                Ok(()) => relays.abort_all(),
                Err(_) => return,
            },
        }
    }
}

async fn relay(mut picker: TcpStream, engine: SocketAddr, lost: Arc<AtomicUsize>) -> io::Result<()> {
    let mut engine = TcpStream::connect(engine).await?;
    let (mut from_picker, mut to_picker) = picker.split();
    let (mut from_engine, mut to_engine) = engine.split();
    let there = async { tokio::io::copy(&mut from_picker, &mut to_engine).await.map(drop) };
    let here = async {
        let mut greeting = [0; GREETING];
        from_engine.read_exact(&mut greeting).await?;
        to_picker.write_all(&greeting).await?;
        let mut message = Vec::new();
        loop {
            let flags = from_engine.read_u8().await?;
            message.push(flags);
            let length = if flags & LONG == 0 {
                let length = from_engine.read_u8().await?;
                message.push(length);
                length.into()
            } else {
                let length = from_engine.read_u64().await?;
                message.extend(length.to_be_bytes());
                usize::try_from(length).map_err(io::Error::other)?
            };
            let begin = message.len();
            message.resize(begin + length, 0);
            from_engine.read_exact(&mut message[begin..]).await?;
            if flags & MORE != 0 {
                continue;
            }
            let is_lost = flags & COMMAND == 0
                && lost.fetch_update(Ordering::AcqRel, Ordering::Acquire, |lost| lost.checked_sub(1)).is_ok();
            if !is_lost {
                to_picker.write_all(&message).await?;
            }
            message.clear();
        }
    };
    tokio::select! {
        ended = there => ended,
        ended = here => ended,
    }
}
