//! Where the files of this repository are.

use std::path::PathBuf;

/// A file or a folder of this repository, by its path from the top.
///
/// Cargo says where we are when it runs us, not when it built us: checkouts may share what was built, and each is
/// tested by its own files.
#[must_use]
pub fn path(path: &str) -> PathBuf {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    let tests: PathBuf = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(built, PathBuf::from);
    tests.parent().unwrap_or(&tests).join(path)
}
