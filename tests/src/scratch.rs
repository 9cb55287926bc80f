//! A directory of our own that goes when its value goes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A fresh directory below the system's temporary one, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one whose name begins with `kthena-` and `label`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("kthena-{label}-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it to whoever else removes it.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
