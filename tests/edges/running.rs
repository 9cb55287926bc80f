//! A picker in this process.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use kthena_ext_proc::args::Args;
use kthena_ext_proc::run::{Addresses, Instruments, Picker};
use tests::client;
use tests::config_dir::ConfigDir;
use tests::poll;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Within this everything here must have happened.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A picker on loopback; dropping it ends it.
pub(crate) struct Running {
    pub(crate) addresses: Addresses,
    pub(crate) config: ConfigDir,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<()>>,
}

impl Running {
    /// Starts one over `config` at ports chosen by the system.
    pub(crate) async fn start(config: ConfigDir, flags: &[&str]) -> Result<Self> {
        let path = config.path().to_str().context("a path that is text")?.to_owned();
        let ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--debug-port=0"];
        let fixed = ["kthena-ext-proc", "--bind-address=127.0.0.1", "--config-dir", &path];
        let args = Args::try_parse_from(fixed.iter().chain(&ports).chain(flags))?;
        let picker = Picker::bind(args, Instruments::default()).await?;
        let addresses = picker.addresses().clone();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(picker.serve(async { drop(stopped.await) }));
        Ok(Self { addresses, config, stop: Some(stop), served })
    }

    /// Starts one that serves the pool `llama`, whose only endpoint does not exist, and waits until
    /// it is ready.
    pub(crate) async fn ready(flags: &[&str]) -> Result<Self> {
        let config = ConfigDir::new()?;
        config.pool("llama", &["127.0.0.1:1".parse()?])?;
        let running = Self::start(config, flags).await?;
        running.until_ready(200).await?;
        Ok(running)
    }

    /// Waits until `/readyz` answers `status`.
    pub(crate) async fn until_ready(&self, status: u16) -> Result<()> {
        poll::until("the status of /readyz", DEADLINE, async || {
            let reply = client::get(self.addresses.metrics, "/readyz").await.ok()?;
            (reply.status == status).then_some(())
        })
        .await
    }

    /// What the debug port says at `path`, as text.
    pub(crate) async fn debug(&self, path: &str) -> Result<String> {
        Ok(client::get(self.addresses.debug, path).await?.text())
    }

    /// Waits until a sample of `/metrics` whose name and labels contain `text` is above 0.
    pub(crate) async fn until_counted(&self, text: &str) -> Result<()> {
        poll::until(text, DEADLINE, async || {
            let page = client::get(self.addresses.metrics, "/metrics").await.ok()?.text();
            let counted = |line: &&str| {
                let (sample, value) = line.rsplit_once(' ').unwrap_or_default();
                sample.contains(text) && value.parse::<f64>().is_ok_and(|value| value > 0.0)
            };
            page.lines().filter(|line| !line.starts_with('#')).find(counted).map(|_| ())
        })
        .await
    }

    /// Asks it to end, as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has ended, and says how.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        tokio::time::timeout(DEADLINE, &mut self.served).await.context("the picker did not end")??
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.served.abort();
    }
}
