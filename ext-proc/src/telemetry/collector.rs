//! How a collector is reached: over gRPC or HTTP, in the clear or over TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::TlsFiles;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectorError {
    #[error("{}: {source}", path.display())]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("{}: no usable PEM in it: {source}", path.display())]
    Pem { path: std::path::PathBuf, source: rustls::pki_types::pem::Error },
    #[error("a client's certificate and its key are of use only together: set both variables or none")]
    HalfIdentity,
    #[error("the TLS settings cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// An exporter over gRPC.
pub(super) fn grpc(endpoint: &str, timeout: Duration, files: &TlsFiles) -> Result<SpanExporter, CollectorError> {
    let mut builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(timeout);
    if is_https(endpoint) {
        let mut tls = match &files.authority {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = identity(files)? {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        builder = builder.with_tls_config(tls);
    }
    Ok(builder.build()?)
}

/// An exporter over HTTP.
pub(super) fn http(endpoint: &str, timeout: Duration, files: &TlsFiles) -> Result<SpanExporter, CollectorError> {
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(timeout);
    if is_https(endpoint) {
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(client(files)?).https_only().enable_http1();
        builder = builder.with_http_client(HyperClient::new(connector.build(), timeout, None));
    }
    Ok(builder.build()?)
}

fn is_https(endpoint: &str) -> bool {
    endpoint.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

fn client(files: &TlsFiles) -> Result<ClientConfig, CollectorError> {
    let mut roots = RootCertStore::empty();
    match &files.authority {
        Some(path) => roots.add_parsable_certificates(certificates(path)?),
        // What the system trusts; where it has nothing, the handshake says so.
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match identity(files)? {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| pem(key, source))?;
            config.with_client_auth_cert(certificates(certificate)?, key)?
        }
    })
}

fn identity(files: &TlsFiles) -> Result<Option<(&Path, &Path)>, CollectorError> {
    match (&files.client_certificate, &files.client_key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        _ => Err(CollectorError::HalfIdentity),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CollectorError> {
    CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|source| pem(path, source))
}

fn read(path: &Path) -> Result<Vec<u8>, CollectorError> {
    std::fs::read(path).map_err(|source| CollectorError::Read { path: path.to_owned(), source })
}

fn pem(path: &Path, source: rustls::pki_types::pem::Error) -> CollectorError {
    CollectorError::Pem { path: path.to_owned(), source }
}
