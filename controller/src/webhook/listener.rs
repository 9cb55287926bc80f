//! Connections over TLS, for `axum`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::Listener;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::Certificate;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at a time; more wait in the kernel's queue.
const HANDSHAKES: usize = 64;

/// How long to wait when the process has no file descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Connections whose handshake is done. A slow client does not hold up the others.
pub(super) struct TlsListener {
    tcp: TcpListener,
    certificate: Certificate,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Accepted>>>,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, certificate: Certificate) -> Self {
        Self { tcp, certificate, handshakes: FuturesUnordered::new() }
    }

    /// Begins the handshake. Without a certificate the client is sent away.
    fn begin(&self, stream: TcpStream, client: SocketAddr) {
        let Some(config) = self.certificate.current() else {
            debug!(%client, "There is no certificate yet.");
            return;
        };
        self.handshakes.push(Box::pin(async move {
            match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => Some((stream, client)),
                Ok(Err(error)) => {
                    // The API server's own view is in its log; a probe of the port is no news.
                    debug!(%client, %error, "A handshake failed.");
                    None
                }
                Err(_) => None,
            }
        }));
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.next() => if let Some(accepted) = done { return accepted },
                accepted = self.tcp.accept(), if self.handshakes.len() < HANDSHAKES => match accepted {
                    Ok((stream, client)) => self.begin(stream, client),
                    Err(error) if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
                    ) => {}
                    Err(error) => {
                        warn!(%error, "Cannot accept a connection.");
                        tokio::time::sleep(EXHAUSTED).await;
                    }
                },
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
