//! An authority of our own, and what it signs for loopback.

use std::net::IpAddr;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A certificate and its key in PEM, and the authority that signed it.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Whom clients trust.
    pub authority: String,
    /// For the server's address.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Certificates {
    /// Fresh ones for a server at `address`.
    ///
    /// # Errors
    /// When the cryptographic library refuses.
    pub fn new(address: IpAddr) -> Result<Self> {
        let mut params = CertificateParams::new(["kthena-tests-authority".to_owned()])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = [address.to_string(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        Ok(Self { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
