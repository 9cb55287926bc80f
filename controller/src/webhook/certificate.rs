//! A certificate of our own making, and whether one is still good.

use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};

/// How long a certificate is good.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long before its end it is replaced.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Why a certificate cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, or not what it should be.
    #[error("no usable PEM {what}: {source}")]
    Pem {
        /// `certificate`, `private key` or `authority`.
        what: &'static str,
        /// The cause.
        source: rustls::pki_types::pem::Error,
    },
    /// No certificate at all.
    #[error("there is no certificate in it")]
    Empty,
    /// The key does not fit, the chain does not lead to the authority, the name or the time is wrong.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
    /// There is no authority to lead to.
    #[error("the authority cannot be used: {0}")]
    Authority(#[from] rustls::client::VerifierBuilderError),
    /// The name cannot stand in a certificate.
    #[error("{0:?} is no DNS name")]
    Name(String),
    /// It could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate, its key, and who vouches for it, each in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Material {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// The newest first; those before it stay until the next renewal, so that replicas which still show the
    /// certificate before are believed.
    pub(super) authorities: Vec<u8>,
}

/// What is to be done about a certificate.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing.
    Good,
    /// It works, but ends soon.
    Renew,
    /// Nobody would believe it.
    Useless(CertificateError),
}

impl Material {
    /// A new authority, and a certificate from it for `names`, the first of which is its common name. The authority's
    /// key is thrown away. `before` is what it replaces.
    ///
    /// P-256: small, and everyone reads it.
    pub(super) fn make(names: &[String], now: Timestamp, before: Option<&Self>) -> Result<Self, CertificateError> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name = subject("kthena-webhook-ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        limit(&mut authority, now);
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;

        let mut server = CertificateParams::new(names.to_vec())?;
        server.distinguished_name = subject(names.first().map(String::as_str).unwrap_or_default());
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        limit(&mut server, now);
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;

        let mut authorities = authority_certificate.pem();
        if let Some(last) = before.and_then(|before| first(str::from_utf8(&before.authorities).ok()?)) {
            authorities.push_str(last);
            authorities.push('\n');
        }
        Ok(Self {
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authorities: authorities.into_bytes(),
        })
    }

    /// What is to be done about it at `now`, if it is to be believed under `name`. Without an authority, which only a
    /// foreign one lacks, that is for others to see to.
    pub(super) fn judge(&self, name: &str, now: Timestamp) -> Verdict {
        if self.authorities.is_empty() {
            return self.server_config().map_or_else(Verdict::Useless, |_| Verdict::Good);
        }
        let believed = |at| self.server_config().and_then(|_| self.believed(name, at));
        match (believed(now), believed(after(now, RENEW_BEFORE))) {
            (Err(error), _) => Verdict::Useless(error),
            (Ok(()), Err(_)) => Verdict::Renew,
            (Ok(()), Ok(())) => Verdict::Good,
        }
    }

    /// Asks as the API server does: is this a chain to the authorities, for this name, at this time?
    fn believed(&self, name: &str, at: Timestamp) -> Result<(), CertificateError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&self.authorities) {
            roots.add(authority.map_err(|source| CertificateError::Pem { what: "authority", source })?)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let chain = self.chain()?;
        let (end, between) = chain.split_first().ok_or(CertificateError::Empty)?;
        let name = ServerName::try_from(name).map_err(|_| CertificateError::Name(name.to_owned()))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0)));
        verifier.verify_server_cert(end, between, &name, &[], at)?;
        Ok(())
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| CertificateError::Pem { what: "certificate", source })?;
        if chain.is_empty() { Err(CertificateError::Empty) } else { Ok(chain) }
    }

    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub(super) fn server_config(&self) -> Result<ServerConfig, CertificateError> {
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| CertificateError::Pem { what: "private key", source })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(self.chain()?, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Kthena");
    subject.push(DnType::CommonName, name);
    subject
}

/// From yesterday, because clocks differ, for [`LIFETIME`].
fn limit(params: &mut CertificateParams, now: Timestamp) {
    let day = Duration::from_secs(24 * 60 * 60);
    let date = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        let [month, day] = [date.month(), date.day()].map(|number| u8::try_from(number).unwrap_or(1));
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    params.not_before = date(now.checked_sub(day).unwrap_or(now));
    params.not_after = date(after(now, LIFETIME));
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    now.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// The first certificate of a PEM text, which is the newest.
fn first(pem: &str) -> Option<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.get(..pem.find(END)? + END.len())
}

#[cfg(test)]
mod tests;
