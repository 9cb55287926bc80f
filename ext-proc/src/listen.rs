//! One port for TLS and for plain HTTP/2: the first byte of a connection tells which it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::args::TlsMode;
use crate::istio_authority::Rewriter;
use crate::tls::Certificate;

/// How long a client may take to send its first byte and to finish its handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// How many connections may be in their handshakes at once; more wait in the kernel's queue.
const HANDSHAKES: usize = 512;

/// The pause after an accept that failed, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The first byte of every TLS connection: a handshake record. An HTTP/2 preface begins with `P`.
const TLS_HANDSHAKE: u8 = 0x16;

/// Binds a TCP port. `[::]` takes IPv4 too, and becomes `0.0.0.0` on a host without IPv6.
///
/// # Errors
/// The system's, with the address.
pub async fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((address, port)).await {
        Err(error) if address == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
    .map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", SocketAddr::new(address, port)))
    })
}

/// The connections of a port, each after its handshake. Never ends; handshakes run side by side,
/// so that a slow client delays nobody.
pub fn connections(
    listener: TcpListener,
    certificate: Option<Certificate>,
    mode: TlsMode,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let handshakes = FuturesUnordered::new();
    futures_util::stream::unfold((listener, handshakes), move |(listener, mut handshakes)| {
        let certificate = certificate.clone();
        async move {
            loop {
                tokio::select! {
                    accepted = listener.accept(), if handshakes.len() < HANDSHAKES => match accepted {
                        Ok((stream, peer)) => handshakes.push(greet(stream, peer, certificate.clone(), mode)),
                        Err(error) => {
                            warn!(%error, "Cannot accept a connection.");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                    Some(greeted) = handshakes.next() => match greeted {
                        Ok(connection) => return Some((Ok(connection), (listener, handshakes))),
                        Err((peer, error)) => debug!(%error, %peer, "Dropped a connection before its first request."),
                    },
                }
            }
        }
    })
}

async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    certificate: Option<Certificate>,
    mode: TlsMode,
) -> Result<Connection, (SocketAddr, io::Error)> {
    let greeting = async {
        stream.set_nodelay(true)?;
        let tls = match mode {
            TlsMode::Auto => is_tls(&stream).await?,
            TlsMode::Required => true,
            TlsMode::Off => false,
        };
        let io = match certificate.filter(|_| tls) {
            Some(certificate) => Either::Right(TlsAcceptor::from(certificate.current()).accept(stream).await?),
            None => Either::Left(stream),
        };
        Ok(Connection { io, authorities: Rewriter::new() })
    };
    let deadline = tokio::time::timeout(HANDSHAKE_DEADLINE, greeting).await;
    deadline.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| (peer, error))
}

async fn is_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == [TLS_HANDSHAKE]),
    }
}

/// A connection, plain or TLS.
#[derive(Debug)]
pub struct Connection {
    io: Either<TcpStream, TlsStream<TcpStream>>,
    authorities: Rewriter,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.authorities.deliver(buffer) {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
            let fresh = buffer.filled_mut().get_mut(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let whole = this.authorities.pass(fresh);
            buffer.set_filled(before + whole);
            // Nothing read means the end to our reader: then it is not time to return.
            if whole > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
