//! A certificate from files that may change, as a mounted Secret does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use super::Certificate;
use super::certificate::{CertificateError, Material};

/// How often the files are compared with what is served.
const POLL: Duration = Duration::from_secs(1);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// They are not a certificate and its key.
    #[error("{} with {}: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        source: CertificateError,
    },
}

/// The files, and what was read from them last.
#[derive(Debug)]
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    read: Material,
}

impl Files {
    /// Reads the files, and installs what they hold.
    pub(super) fn load(certificate: &Path, key: &Path, installed: &Certificate) -> Result<Self, FilesError> {
        let mut files = Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            read: Material { certificate: Vec::new(), key: Vec::new(), authorities: Vec::new() },
        };
        files.refresh(installed)?;
        Ok(files)
    }

    /// Follows the files, for ever; keeps the last good certificate.
    pub(super) async fn follow(mut self, installed: &Certificate) -> anyhow::Result<()> {
        let mut last_error = String::new();
        loop {
            tokio::time::sleep(POLL).await;
            match self.refresh(installed) {
                Ok(changed) => {
                    last_error.clear();
                    if changed {
                        info!(certificate = %self.certificate.display(), "Serving a new certificate.");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != last_error {
                        warn!(error = text, "Keeping the last good certificate.");
                        last_error = text;
                    }
                }
            }
        }
    }

    /// Installs what the files hold if that is new. Returns whether it was.
    fn refresh(&mut self, installed: &Certificate) -> Result<bool, FilesError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            std::fs::read(&path).map_err(|source| FilesError::Read { path, source })
        };
        let found = Material { certificate: read(&self.certificate)?, key: read(&self.key)?, authorities: Vec::new() };
        if found == self.read {
            return Ok(false);
        }
        let config = found.server_config().map_err(|source| FilesError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })?;
        installed.install(config);
        self.read = found;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// A folder that is gone when this is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kthena-webhook-{test}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, material: &Material) -> (PathBuf, PathBuf) {
            let (certificate, key) = (self.0.join("tls.crt"), self.0.join("tls.key"));
            std::fs::write(&certificate, &material.certificate).unwrap();
            std::fs::write(&key, &material.key).unwrap();
            (certificate, key)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn make() -> Material {
        Material::make(&["webhook.ns.svc".to_owned()], Timestamp::UNIX_EPOCH, None).unwrap()
    }

    #[test]
    fn changed_files_are_served_and_broken_ones_are_not() {
        let (folder, installed) = (Folder::new("changed"), Certificate::default());
        let first = make();
        let (certificate, key) = folder.write(&first);
        let mut files = Files::load(&certificate, &key, &installed).unwrap();
        let served = installed.current().unwrap();
        assert!(!files.refresh(&installed).unwrap(), "nothing changed");

        // As a Secret that is being swapped: the key of one, the certificate of the other.
        let second = make();
        folder.write(&Material { certificate: second.certificate.clone(), ..first });
        assert!(matches!(files.refresh(&installed), Err(FilesError::Unusable { .. })));
        assert!(std::sync::Arc::ptr_eq(&installed.current().unwrap(), &served), "the last good one stays");

        folder.write(&second);
        assert!(files.refresh(&installed).unwrap());
        assert!(!std::sync::Arc::ptr_eq(&installed.current().unwrap(), &served));
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = Folder::new("missing");
        let missing = folder.0.join("none.crt");
        let error = Files::load(&missing, &missing, &Certificate::default()).unwrap_err();
        assert!(error.to_string().contains("none.crt"), "{error}");
    }
}
