//! Where downloads and their like are kept: outside the checkout, shared by all checkouts.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::poll;

/// The cache: `$KTHENA_CACHE`, else `$XDG_CACHE_HOME/kthena-for-envoy`, else `~/.cache/kthena-for-envoy`.
///
/// # Errors
/// When none of the three variables is set, or the folder cannot be made.
pub fn folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("KTHENA_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|caches| caches.join("kthena-for-envoy")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/kthena-for-envoy")))
        .context("no place for the cache: set KTHENA_CACHE to a folder, or HOME")?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the cache {}: set KTHENA_CACHE to another folder", folder.display()))?;
    Ok(folder)
}

/// Keeps other processes from fetching the same thing, until it is dropped or we end.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Locks `name` in the cache at `folder`, waiting for whoever holds it.
///
/// # Errors
/// When another process holds it for longer than `deadline`.
pub async fn lock(folder: &Path, name: &str, deadline: Duration) -> Result<Lock> {
    let path = folder.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let what = format!("another process holds {}; once it is done, start again", path.display());
    poll::until(&what, deadline, async || match file.try_lock() {
        Ok(()) => Some(Ok(())),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => Some(Err(error)),
    })
    .await??;
    Ok(Lock { _file: file })
}
