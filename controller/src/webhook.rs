//! The admission webhook: a `ModelServing` that could not be served is refused, and its author told why.
//!
//! The API server calls it over TLS and knows it by the authority in the `ValidatingWebhookConfiguration`. Without
//! certificate files, the replicas share a certificate of their own making in a Secret ([`secret`]).

mod admission;
mod certificate;
mod files;
mod listener;
mod secret;

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::files::FilesError;
use self::listener::TlsListener;

/// How long requests that are being answered get to end.
const DRAIN: Duration = Duration::from_secs(5);

/// What the flags say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest time from a request's head to its answer.
    pub timeout: Duration,
    /// Of the certificate, if both exist: read again when they change, and whoever wrote them sees to the
    /// `caBundle` of the configuration.
    pub certificate_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// The namespace of the Service and of the Secret.
    pub namespace: String,
    /// The Secret of the certificate, if there are no files.
    pub secret: String,
    /// The Service: the name in the certificate.
    pub service: String,
}

/// The TLS settings that the next connection gets; none as long as there is no certificate.
#[derive(Clone, Default)]
struct Certificate(Arc<parking_lot::RwLock<Option<Arc<ServerConfig>>>>);

impl Certificate {
    fn current(&self) -> Option<Arc<ServerConfig>> {
        self.0.read().clone()
    }

    fn install(&self, config: ServerConfig) {
        *self.0.write() = Some(Arc::new(config));
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Certificate").field(&self.current().is_some()).finish()
    }
}

/// Answers on `listener` until `stop`, and then until the running requests are answered. `ready` is called when the API
/// server can call.
///
/// # Errors
/// Certificate files that exist and cannot be used.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    client: Client,
    ready: impl Fn() + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let certificate = Certificate::default();
    let router = admission::router(settings.timeout);
    let server = axum::serve(TlsListener::new(listener, certificate.clone()), router)
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let upkeep = async {
        if settings.certificate_file.exists() && settings.key_file.exists() {
            info!(certificate = %settings.certificate_file.display(), "The webhook's certificate comes from files.");
            let files = files::Files::load(&settings.certificate_file, &settings.key_file, &certificate)?;
            ready();
            files.follow(&certificate).await
        } else {
            secret::Upkeep::new(client, &settings).follow(&certificate, ready).await
        }
    };
    let mut server = pin!(server.into_future());
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        failed = upkeep => return failed,
        () = stop.cancelled() => {}
    }
    if tokio::time::timeout(DRAIN, server).await.is_err() {
        warn!("Connections to the webhook were cut off.");
    }
    Ok(())
}
