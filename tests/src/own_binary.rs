//! Our own programs: built by the cargo that runs us.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::checkout;

const BUILD_DEADLINE: Duration = Duration::from_secs(1200);

/// Has cargo build the binary `name`: of our own profile, in our own target directory, up to date.
///
/// # Errors
/// When cargo cannot build it.
pub async fn build(name: &str) -> Result<PathBuf> {
    let ourselves = std::env::current_exe()?;
    // TARGET/PROFILE/deps/test-hash, or TARGET/PROFILE/demo.
    let profile = ourselves
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_some_and(|name| name != "deps"))
        .context("we are not run from a cargo target directory")?;
    let target = profile.parent().context("we are not run from a cargo target directory")?;
    let profile_name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let start = Instant::now();
    eprintln!("building {name} (cargo build --bin {name}, profile {profile_name})");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    // The whole workspace is selected, so that features are those that our own build has: no crate is
    // compiled twice.
    let build = tokio::process::Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", name, "--profile", profile_name, "--target-dir"])
        .arg(target)
        .current_dir(checkout::path(""))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(BUILD_DEADLINE, build)
        .await
        .with_context(|| format!("cargo did not build {name} within {BUILD_DEADLINE:?}"))?
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo could not build {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    eprintln!("{name} is built ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(profile.join(name))
}
