//! `kthena`, the program: built once, run with words, and what it said.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::OnceCell;

use crate::own_binary;

/// A command that hangs is a failure.
const DEADLINE: Duration = Duration::from_secs(90);

/// What a command did.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub out: String,
    /// What it wrote to its standard error.
    pub err: String,
}

/// The path of the program; built once in a process.
///
/// # Errors
/// When cargo cannot build it.
pub async fn binary() -> Result<&'static Path> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_try_init(|| own_binary::build("kthena")).await.map(PathBuf::as_path)
}

/// Runs `kthena` with these words, and no kubeconfig but one that they name.
///
/// # Errors
/// When it cannot be built or run, or does not end in time.
pub async fn kthena(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Said> {
    let mut command = tokio::process::Command::new(binary().await?);
    command.args(words).env_remove("KUBECONFIG").stdin(Stdio::null()).kill_on_drop(true);
    let run = command.output();
    let output = tokio::time::timeout(DEADLINE, run).await.context("the command does not end")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

impl Said {
    /// All that it said, which must have these words, as its exit code must be this.
    ///
    /// # Panics
    /// When they are not there, or the code is another.
    #[track_caller]
    pub fn says(self, code: i32, words: &[&str]) -> String {
        let text = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, Some(code), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in: {text}");
        }
        text
    }
}
