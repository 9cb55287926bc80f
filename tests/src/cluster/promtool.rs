//! The real promtool: what Prometheus makes of rules.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::binaries::Binary;

/// How long one command may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A promtool that looks at one folder.
#[derive(Debug)]
pub struct Promtool {
    binary: PathBuf,
    folder: PathBuf,
}

impl Promtool {
    /// For the files of `folder`.
    ///
    /// # Errors
    /// When promtool cannot be built.
    pub async fn new(folder: &Path) -> Result<Self> {
        Ok(Self { binary: Binary::Promtool.path().await?, folder: folder.to_owned() })
    }

    /// What a command writes.
    ///
    /// # Errors
    /// When it fails, with what it said; or when it does not end.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        let what = || format!("promtool {}", args.join(" "));
        let output = tokio::time::timeout(DEADLINE, command.output())
            .await
            .with_context(|| format!("{} did not end within {DEADLINE:?}", what()))??;
        let said = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            bail!("{}: {said}{}", what(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(said)
    }
}
