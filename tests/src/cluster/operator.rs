//! The real operator: built by the cargo that runs us, run as a child.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::own_binary;
use crate::process::Program;
use crate::running::Running;

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
        let (running, []) = Running::start("the operator", program, []).await?;
        Ok(Operator { running })
    }
}

/// A running operator; dropping it kills it. What every program of ours does, [`Running`] does.
#[derive(Debug)]
pub struct Operator {
    running: Running,
}

impl Deref for Operator {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Operator {
    /// Starts one that connects as `kubeconfig` says, and waits until it is ready.
    ///
    /// # Errors
    /// As [`OperatorOptions::start`].
    pub async fn start(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        OperatorOptions::new(kubeconfig).start().await
    }
}
