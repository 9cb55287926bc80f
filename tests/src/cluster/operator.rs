//! The real operator: built by the cargo that runs us, run as a child.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::OnceCell;

use crate::picker::Samples;
use crate::process::{Process, Program};
use crate::{client, own_binary, poll};

const START_DEADLINE: Duration = Duration::from_secs(30);

/// The path of the operator's binary; built once in a process.
///
/// # Errors
/// When cargo cannot build it.
pub async fn binary() -> Result<&'static Path> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_try_init(|| own_binary::build("kthena-controller-manager")).await.map(PathBuf::as_path)
}

/// How to start an operator.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    kubeconfig: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl OperatorOptions {
    /// An operator that connects as `kubeconfig` says; alone, and without its webhook.
    #[must_use]
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        let args = ["--enable-webhook=false", "--leader-elect=false", "--kube-api-qps=1000", "--kube-api-burst=2000"];
        Self { kubeconfig: kubeconfig.into(), args: args.map(str::to_owned).into(), env: Vec::new() }
    }

    /// Sets a flag, in place of the one that is there.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: impl ToString) -> Self {
        self.args.retain(|arg| arg.split('=').next() != Some(flag));
        self.args.push(format!("{flag}={}", value.to_string()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl ToString) -> Self {
        self.env.push((key.to_owned(), value.to_string()));
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be built or does not become ready, with what it said.
    pub async fn start(self) -> Result<Operator> {
        let operator = self.start_unready().await?;
        operator.wait_until_ready().await?;
        Ok(operator)
    }

    /// Starts it and waits only until its port is known.
    ///
    /// # Errors
    /// When it cannot be built or ends, with what it said.
    pub async fn start_unready(self) -> Result<Operator> {
        let mut program = Program::new("the operator", binary().await?)
            .args(["--kubeconfig".as_ref(), self.kubeconfig.as_os_str()])
            .args(["--bind-address=127.0.0.1", "--metrics-port=0", "--log-format=json"])
            .args(self.args);
        for (key, value) in self.env {
            program = program.env(key, value);
        }
        let process = program.start()?;
        let address = |line: &str| -> Option<SocketAddr> {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields").unwrap_or(&line);
            fields.get("metricsAddress")?.as_str()?.parse().ok()
        };
        let metrics = process.find_line("its metrics' address", START_DEADLINE, address).await?;
        Ok(Operator { process, metrics })
    }
}

/// A running operator; dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    metrics: SocketAddr,
}

impl Operator {
    /// Starts one that connects as `kubeconfig` says, and waits until it is ready.
    ///
    /// # Errors
    /// As [`OperatorOptions::start`].
    pub async fn start(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        OperatorOptions::new(kubeconfig).start().await
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When it does not within 30 seconds, with what the operator said.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let ready = poll::until("the operator's readiness", START_DEADLINE, async || {
            let reply = client::get(self.metrics, "/readyz").await.ok()?;
            (reply.status == 200).then_some(())
        });
        ready.await.with_context(|| format!("the operator said:\n{}", self.log()))
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// The process, to be signalled or measured.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output().join("\n")
    }

    /// `/metrics`.
    ///
    /// # Errors
    /// When the operator does not answer.
    pub async fn metrics(&self) -> Result<Samples> {
        Ok(Samples::parse(&client::get(self.metrics, "/metrics").await?.text()))
    }
}
