//! A picker of our own for a folder of manifests: the program itself, which ends with the answer.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// From its start until it has read the manifests.
const READY: Duration = Duration::from_secs(20);
const PROGRAM: &str = "kthena-ext-proc";

/// A running picker; dropping it kills it.
pub(crate) struct OwnPicker {
    address: String,
    _child: Child,
}

impl OwnPicker {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When there is no such program, or it does not come up with this folder, with what it said.
    pub(crate) async fn start(folder: &Path, program: Option<&Path>) -> Result<Self> {
        let program = program.map_or_else(found, Path::to_owned);
        let ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--debug-port=0"];
        let mut child = Command::new(&program)
            .arg("--config-dir")
            .arg(folder)
            .args(["--bind-address=127.0.0.1", "--log-format=json"])
            .args(ports)
            .env("ACCESS_LOG_ENABLED", "false")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}: name it with --picker-program", program.display()))?;
        let lines = BufReader::new(child.stderr.take().context("its log is ours")?).lines();
        let mut said = Vec::new();
        let ready = tokio::time::timeout(READY, ready(lines, &mut said)).await;
        match ready {
            Ok(Ok(address)) => Ok(Self { address, _child: child }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow!("the picker is not ready after {READY:?}")),
        }
        .with_context(|| format!("{} said:\n{}", program.display(), said.join("\n")))
    }

    /// `ip:port`.
    pub(crate) fn debug_address(&self) -> &str {
        &self.address
    }
}

/// Beside this program, as an installation has them; else in the path.
fn found() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM)).filter(|beside| beside.exists());
    beside.unwrap_or_else(|| PROGRAM.into())
}

/// Reads the log until it has said where it listens, and what it thinks of the folder.
async fn ready(mut lines: Lines<BufReader<ChildStderr>>, said: &mut Vec<String>) -> Result<String> {
    let (mut address, mut loaded) = (None, false);
    while let Some(line) = lines.next_line().await? {
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        address = text("debugAddress").map(str::to_owned).or(address);
        match text("message") {
            Some("Loaded the configuration directory.") => loaded = true,
            Some("Keeping the last good configuration.") => {
                bail!("{}", text("error").unwrap_or("the folder cannot be loaded"))
            }
            _ => {}
        }
        said.push(line);
        if let Some(address) = address.take_if(|_| loaded) {
            return Ok(address);
        }
    }
    bail!("the picker ended")
}
