//! The certificate of the ext_proc ports: self-signed, or from files that may change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{info, warn};

/// How often certificate files are compared with what is served.
const POLL: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; --cert-path needs tls.crt and tls.key in PEM", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no usable PEM {what}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// The cause.
        source: rustls::pki_types::pem::Error,
    },
    /// `tls.crt` without any certificate in it.
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// The key does not fit the certificate, or is of an unknown kind.
    #[error("the certificate cannot be used with its key: {0}")]
    Unusable(#[from] rustls::Error),
    /// The self-signed certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// The TLS settings that new connections get; changes do not touch the ones that are open.
#[derive(Clone, Debug)]
pub struct Certificate {
    config: Arc<ArcSwap<ServerConfig>>,
    files: Option<Files>,
}

#[derive(Clone, Debug)]
struct Files {
    directory: PathBuf,
    read: Pair,
}

/// The bytes of `tls.crt` and `tls.key`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// A certificate that nobody vouches for: data planes do not verify the picker's.
    ///
    /// P-256, because Envoy refuses P-384 and Ed25519 with its default settings.
    ///
    /// # Errors
    /// [`TlsError::SelfSigned`] or [`TlsError::Unusable`]: the cryptographic library refused.
    pub fn self_signed() -> Result<Self, TlsError> {
        let made = rcgen::generate_simple_self_signed(["kthena-ext-proc".to_owned(), "localhost".to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = server_config(vec![made.cert.der().clone()], key.into())?;
        Ok(Self { config: Arc::new(ArcSwap::from_pointee(config)), files: None })
    }

    /// The certificate in `tls.crt` and `tls.key` of `directory`.
    ///
    /// # Errors
    /// [`TlsError`] that names the file.
    pub fn from_files(directory: &Path) -> Result<Self, TlsError> {
        let read = Pair::read(directory)?;
        let config = Arc::new(ArcSwap::from_pointee(read.parse(directory)?));
        Ok(Self { config, files: Some(Files { directory: directory.to_owned(), read }) })
    }

    /// What the next connection gets.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Follows the files, for ever; keeps the last good certificate. `failed` is called for each
    /// content that cannot be used. Returns at once, never, when the certificate is self-signed.
    pub async fn follow(self, failed: impl Fn(&TlsError) + Send) {
        let Self { config, files } = self;
        let Some(Files { directory, mut read }) = files else {
            return std::future::pending().await;
        };
        let mut last_error = String::new();
        loop {
            tokio::time::sleep(POLL).await;
            let changed = Pair::read(&directory).and_then(|pair| {
                if pair == read {
                    return Ok(None);
                }
                let parsed = pair.parse(&directory)?;
                Ok(Some((pair, parsed)))
            });
            match changed {
                Ok(None) => last_error.clear(),
                Ok(Some((pair, parsed))) => {
                    config.store(Arc::new(parsed));
                    read = pair;
                    last_error.clear();
                    info!(directory = %directory.display(), "Serving a new certificate.");
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != last_error {
                        warn!(%error, "Keeping the last good certificate.");
                        failed(&error);
                        last_error = text;
                    }
                }
            }
        }
    }
}

impl Pair {
    fn read(directory: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|source| TlsError::Read { path, source })
        };
        Ok(Self { certificate: read("tls.crt")?, key: read("tls.key")? })
    }

    fn parse(&self, directory: &Path) -> Result<ServerConfig, TlsError> {
        let path = directory.join("tls.crt");
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| TlsError::Pem { path: path.clone(), what: "certificate", source })?;
        if chain.is_empty() {
            return Err(TlsError::Empty(path));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem {
            path: directory.join("tls.key"),
            what: "private key",
            source,
        })?;
        Ok(server_config(chain, key)?)
    }
}

/// TLS 1.2 and 1.3: Envoy's clients stop at 1.2 by default. One certificate for every name,
/// because they send none.
fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let error = Certificate::from_files(Path::new("no-such-directory")).unwrap_err();
        assert!(error.to_string().contains("tls.crt"), "{error}");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let one = rcgen::generate_simple_self_signed(["one".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(["two".to_owned()]).unwrap();
        let pair = Pair { certificate: one.cert.pem().into_bytes(), key: two.signing_key.serialize_pem().into_bytes() };
        assert!(matches!(pair.parse(Path::new("")), Err(TlsError::Unusable(_))));
        let empty = Pair { certificate: Vec::new(), key: one.signing_key.serialize_pem().into_bytes() };
        assert!(matches!(empty.parse(Path::new("")), Err(TlsError::Empty(_))));
    }
}
