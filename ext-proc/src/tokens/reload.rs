//! The files of `--tokenizer-dir`, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::files::{self, Files, FilesError, Looked};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(1);

/// The tokenizers in use: the last good ones.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    directory: Option<PathBuf>,
    files: ArcSwap<Files>,
    /// What was found the last time, whether it could be used or not.
    looked: Mutex<Looked>,
    status: ArcSwap<TokenizerStatus>,
}

/// How the last reading of the tokenizers went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerStatus {
    /// The models that have one in this process.
    pub models: Vec<String>,
    /// Why the last change was not taken into use; the last good state stays.
    pub last_error: Option<String>,
}

impl Reloaded {
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, FilesError> {
        let Some(directory) = directory else { return Ok(Self::default()) };
        let looked = files::look(directory)?;
        let files = Files::read(&looked, &Files::default())?;
        let directory = Some(directory.to_owned());
        let reloaded = Self { directory, looked: Mutex::new(looked), ..Self::default() };
        reloaded.take(files);
        Ok(reloaded)
    }

    pub(super) fn files(&self) -> arc_swap::Guard<Arc<Files>> {
        self.files.load()
    }

    pub(super) fn status(&self) -> Arc<TokenizerStatus> {
        self.status.load_full()
    }

    /// Follows the directory, for ever. `failed` is called once for each different error.
    pub(super) async fn follow(self: Arc<Self>, failed: impl Fn() + Send + Sync + 'static) {
        if self.directory.is_none() {
            return std::future::pending().await;
        }
        let failed = Arc::new(failed);
        loop {
            tokio::time::sleep(POLL).await;
            let (reloaded, failed) = (Arc::clone(&self), Arc::clone(&failed));
            // On a thread of its own: a large tokenizer takes seconds. A panic in it would be the library's
            // and leaves the last good state.
            let _ = tokio::task::spawn_blocking(move || reloaded.poll(&*failed)).await;
        }
    }

    /// Looks at the files once, and reads them if they changed: also bad ones are read only once.
    pub(super) fn poll(&self, failed: &dyn Fn()) {
        let Some(directory) = &self.directory else { return };
        let mut seen = self.looked.lock();
        let read = files::look(directory).and_then(|looked| {
            if looked == *seen {
                return Ok(None);
            }
            // Found before it is read: what changes in between is read anew the next time.
            seen.clone_from(&looked);
            Files::read(&looked, &self.files.load()).map(Some)
        });
        match read {
            Ok(None) => {}
            Ok(Some(files)) => {
                self.take(files);
                info!(directory = %directory.display(), "Loaded the tokenizers.");
            }
            Err(error) => {
                if !matches!(error, FilesError::Content { .. }) {
                    // May pass without any file being another.
                    seen.clear();
                }
                let (error, status) = (error.to_string(), self.status.load_full());
                if status.last_error.as_ref() != Some(&error) {
                    warn!(error, "Keeping the last good tokenizers.");
                    let models = status.models.clone();
                    self.status.store(Arc::new(TokenizerStatus { models, last_error: Some(error) }));
                    failed();
                }
            }
        }
    }

    fn take(&self, files: Files) {
        let models = files.names().map(str::to_owned).collect();
        self.files.store(Arc::new(files));
        self.status.store(Arc::new(TokenizerStatus { models, last_error: None }));
    }
}
