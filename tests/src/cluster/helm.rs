//! The real helm, with a home of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::binaries::Binary;
use crate::checkout;
use crate::scratch::Scratch;

/// How long one command may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// The chart in this repository.
#[must_use]
pub fn chart() -> PathBuf {
    checkout::path("deploy/chart")
}

/// A helm that knows one cluster, or none.
#[derive(Debug)]
pub struct Helm {
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: Scratch,
}

impl Helm {
    /// For the cluster of `kubeconfig`; without one it can only render.
    ///
    /// # Errors
    /// When helm cannot be built.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self> {
        let home = Scratch::new("helm")?;
        let kubeconfig = kubeconfig.map_or_else(|| home.file("none"), Path::to_owned);
        Ok(Self { binary: Binary::Helm.path().await?, kubeconfig, home })
    }

    /// What a command writes.
    ///
    /// # Errors
    /// When it fails, with what it said; or when it does not end.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        for (key, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data"), ("HOME", "home")]
        {
            command.env(key, self.home.file(folder));
        }
        command.env("KUBECONFIG", &self.kubeconfig);
        let what = || format!("helm {}", args.join(" "));
        let output = tokio::time::timeout(DEADLINE, command.output())
            .await
            .with_context(|| format!("{} did not end within {DEADLINE:?}", what()))??;
        if !output.status.success() {
            bail!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// `deploy/kthena.yaml`: what the chart installs where nobody has said otherwise, for `kubectl apply`.
///
/// # Errors
/// When the chart cannot be rendered.
pub async fn plain_manifests() -> Result<String> {
    let chart = chart();
    let args = ["template", "kthena", &*chart.to_string_lossy(), "--namespace", "kthena-system", "--set"];
    let rendered = Helm::new(None).await?.run(&[&args[..], &["crds.install=false"]].concat()).await?;
    let lines = rendered.lines().filter(|line| !line.starts_with("# Source: ")).map(str::trim_end);
    let rendered = lines.collect::<Vec<_>>().join("\n");
    Ok(format!("{HEADER}{}\n", rendered.trim_end()))
}

/// What the chart leaves to whoever installs it.
const HEADER: &str = "\
# The operator and the picker, rendered from deploy/chart by `cargo gen manifests`; do not edit.
#
# kubectl apply --server-side -f deploy/crds -f deploy/kthena.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: kthena-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
";
