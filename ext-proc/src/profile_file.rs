//! Filters and scorers from a file (`--scheduler-config`), read again when it changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use scheduling::{Profile, ProfileError};
use tracing::{info, warn};

use crate::fleet::Fleet;

/// How often the file is compared with what is in use.
const POLL: Duration = Duration::from_millis(500);

/// The largest file that is read, in bytes.
const FILE_CAP: usize = 1 << 20;

/// Why a scheduler configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is too large to be a scheduler configuration.
    #[error("{} has more than {FILE_CAP} bytes", .0.display())]
    TooLarge(PathBuf),
    /// It is not YAML; the cause says line and column.
    #[error("{}: {cause}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
    /// It says something that cannot be done.
    #[error("{}: {source}", path.display())]
    Profile {
        /// The file.
        path: PathBuf,
        /// The cause, with the place and the fix.
        source: ProfileError,
    },
}

/// The file that decides who decides.
#[derive(Debug)]
pub struct ProfileFile {
    path: PathBuf,
    read: Vec<u8>,
}

impl ProfileFile {
    /// The profile in the file at `path`, or the default one when there is no file.
    ///
    /// # Errors
    /// [`ProfileFileError`] with file and place.
    pub fn open(path: Option<PathBuf>) -> Result<(Profile, Option<Self>), ProfileFileError> {
        let Some(path) = path else {
            return Ok((Profile::default(), None));
        };
        let mut file = Self { path, read: Vec::new() };
        let text = file.text()?;
        let profile = file.parse(&text)?;
        file.read = text;
        Ok((profile, Some(file)))
    }

    /// Follows the file, for ever; keeps the last good profile. `failed` is called once for each
    /// different content that cannot be used.
    pub async fn follow(mut self, fleet: Arc<Fleet>, failed: impl Fn() + Send) {
        let mut last_error = String::new();
        loop {
            tokio::time::sleep(POLL).await;
            match self.changed() {
                Ok(None) => last_error.clear(),
                Ok(Some(profile)) => {
                    fleet.set_profile(profile);
                    last_error.clear();
                    info!(file = %self.path.display(), "Loaded the scheduler configuration.");
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != last_error {
                        warn!(error = text, "Keeping the last good scheduler configuration.");
                        failed();
                        last_error = text;
                    }
                }
            }
        }
    }

    /// The new profile when the content is another than the last good one's.
    fn changed(&mut self) -> Result<Option<Profile>, ProfileFileError> {
        let text = self.text()?;
        if text == self.read {
            return Ok(None);
        }
        let profile = self.parse(&text)?;
        self.read = text;
        Ok(Some(profile))
    }

    fn text(&self) -> Result<Vec<u8>, ProfileFileError> {
        let text =
            std::fs::read(&self.path).map_err(|source| ProfileFileError::Read { path: self.path.clone(), source })?;
        if text.len() > FILE_CAP { Err(ProfileFileError::TooLarge(self.path.clone())) } else { Ok(text) }
    }

    fn parse(&self, text: &[u8]) -> Result<Profile, ProfileFileError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let value: serde_json::Value = serde_saphyr::from_slice_with_options(text, options)
            .map_err(|error| ProfileFileError::Yaml { path: self.path.clone(), cause: error.to_string() })?;
        let profile = Profile::from_value(&value)
            .map_err(|source| ProfileFileError::Profile { path: self.path.clone(), source })?;
        for note in profile.notes() {
            info!(file = %self.path.display(), note, "The scheduler configuration says something without effect.");
        }
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is removed when the test ends.
    struct Written(PathBuf);

    impl Written {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kthena-profile-{}-{name}.yaml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const RANDOM: &str = "scheduler:\n  plugins:\n    Score: {enabled: [{name: random, weight: 1}]}\n";

    #[test]
    fn without_a_file_the_profile_is_the_default_one() {
        let (profile, file) = ProfileFile::open(None).unwrap();
        assert!(file.is_none() && profile.scorer_weights().count() > 1);
    }

    #[test]
    fn a_change_is_taken_once_and_an_error_keeps_the_last_good() {
        let written = Written::new("change", RANDOM);
        let (profile, file) = ProfileFile::open(Some(written.0.clone())).unwrap();
        assert_eq!(profile.scorer_weights().map(|(name, _)| name).collect::<Vec<_>>(), ["random"]);
        let mut file = file.unwrap();
        assert!(file.changed().unwrap().is_none());
        std::fs::write(&written.0, RANDOM.replace("random", "least-request")).unwrap();
        assert!(file.changed().unwrap().is_some());
        std::fs::write(&written.0, RANDOM.replace("random", "least-requests")).unwrap();
        let error = file.changed().unwrap_err().to_string();
        assert!(error.contains("did you mean `least-request`"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_or_no_yaml_is_an_error_with_its_place() {
        let error = ProfileFile::open(Some("no-such-file.yaml".into())).unwrap_err().to_string();
        assert!(error.contains("no-such-file.yaml"), "{error}");
        let written = Written::new("yaml", "scheduler:\n  plugins: [\n");
        let error = ProfileFile::open(Some(written.0.clone())).unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
    }
}
