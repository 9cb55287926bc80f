//! An authority of our own, and what it signs for loopback.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A certificate and its key in PEM, and the authority that signed it.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Whom clients trust.
    pub authority: String,
    /// For 127.0.0.1.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Certificates {
    /// Fresh ones.
    ///
    /// # Errors
    /// When the cryptographic library refuses.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(["kthena-tests-authority".to_owned()])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?.signed_by(&key, &authority)?;
        Ok(Self { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
