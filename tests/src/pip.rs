//! Python packages, by the pip of the `python3` on the path: whoever has one has an index, a mirror
//! and a proxy set as the machine needs them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// The pip of the `python3` on the path.
#[must_use]
pub fn pip() -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]);
    pip
}

/// Has `pip` install `what` into the folder `target`: wheels only, and nothing that they depend on.
/// `packages` are its last arguments, `NAME==VERSION` or `--requirement FILE`.
///
/// # Errors
/// Says what to install or to change.
pub async fn install(mut pip: Command, what: &str, packages: &[&str], target: &Path, deadline: Duration) -> Result<()> {
    let installing = pip
        .args(["install", "--no-deps", "--only-binary=:all:", "--no-compile", "--quiet"])
        .args(["--disable-pip-version-check", "--no-input", "--target"])
        .arg(target)
        .args(packages)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(deadline, installing)
        .await
        .with_context(|| {
            format!("pip did not fetch {what} within {deadline:?}: is a package index reachable? pip's usual settings (PIP_INDEX_URL, pip.conf, HTTPS_PROXY) apply")
        })?
        .context("cannot run python3: install Python 3 with pip (on Debian and Ubuntu: apt install python3-pip)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            bail!("python3 has no pip: install it (on Debian and Ubuntu: apt install python3-pip)");
        }
        bail!(
            "pip could not fetch {what}; its usual settings (PIP_INDEX_URL, pip.conf, HTTPS_PROXY) apply. It said:\n{said}"
        );
    }
    Ok(())
}
