//! The real picker: built by the cargo that runs us, run as a child.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::process::Program;
use crate::running::Running;
use crate::{client, own_binary, poll};

/// The path of the picker's binary: of our own profile, in our own target directory, up to date.
/// Built once in a process.
///
/// # Errors
/// When cargo cannot build it.
pub async fn binary() -> Result<&'static Path> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_try_init(|| own_binary::build("kthena-ext-proc")).await.map(PathBuf::as_path)
}

/// How to start a picker.
#[derive(Clone, Debug)]
pub struct PickerOptions {
    fleet: [OsString; 2],
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl PickerOptions {
    /// A picker for the manifests in `config_dir`.
    #[must_use]
    pub fn new(config_dir: &Path) -> Self {
        Self::of(["--config-dir".into(), config_dir.into()])
    }

    /// A picker for the cluster of `kubeconfig`.
    #[must_use]
    pub fn of_cluster(kubeconfig: &Path) -> Self {
        Self::of(["--kubeconfig".into(), kubeconfig.into()])
    }

    fn of(fleet: [OsString; 2]) -> Self {
        Self { fleet, args: Vec::new(), env: Vec::new() }
    }

    /// Adds a flag and its value.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: impl ToString) -> Self {
        self.args.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Has it listen at a pod's address, at the ports of the manifests.
    #[must_use]
    pub fn at(self, ip: Ipv4Addr) -> Self {
        let all = self.flag("--bind-address", ip).flag("--grpc-port", 9002);
        all.flag("--grpc-health-port", 9003).flag("--metrics-port", 9090)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl ToString) -> Self {
        self.env.push((key.to_owned(), value.to_string()));
        self
    }

    /// Exports traces to `endpoint` (`http://ip:port`, OTLP over gRPC) at once.
    #[must_use]
    pub fn traces(self, endpoint: &str) -> Self {
        self.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .env("OTEL_BSP_SCHEDULE_DELAY", 100)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be built or does not become ready, with what it said.
    pub async fn start(self) -> Result<Picker> {
        let picker = self.start_unready().await?;
        picker.wait_until_ready().await?;
        Ok(picker)
    }

    /// Starts it and waits only until its ports are known.
    ///
    /// # Errors
    /// When it cannot be built or ends, with what it said.
    pub async fn start_unready(self) -> Result<Picker> {
        let mut program = Program::new("the picker", binary().await?).args(self.fleet).args(["--log-format", "json"]);
        let ports = [("--grpc-port", "0"), ("--grpc-health-port", "0"), ("--metrics-port", "0"), ("--debug-port", "0")];
        for (flag, value) in [("--bind-address", "127.0.0.1")].into_iter().chain(ports) {
            if !self.args.iter().any(|arg| arg == flag) {
                program = program.args([flag, value]);
            }
        }
        program = program.args(self.args);
        for (key, value) in self.env {
            program = program.env(key, value);
        }
        let (running, [grpc, debug]) = Running::start("the picker", program, ["grpcAddress", "debugAddress"]).await?;
        Ok(Picker { running, grpc, debug })
    }
}

/// A running picker; dropping it kills it. What every program of ours does, [`Running`] does.
#[derive(Debug)]
pub struct Picker {
    running: Running,
    grpc: SocketAddr,
    debug: SocketAddr,
}

impl Deref for Picker {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Picker {
    /// Starts one for the manifests in `config_dir` and waits until it is ready.
    ///
    /// # Errors
    /// As [`PickerOptions::start`].
    pub async fn start(config_dir: &Path) -> Result<Self> {
        PickerOptions::new(config_dir).start().await
    }

    /// Where Envoy asks.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the debug pages and `Explain` are.
    #[must_use]
    pub fn debug_address(&self) -> SocketAddr {
        self.debug
    }

    /// `/debug/decisions`: the newest so many.
    ///
    /// # Errors
    /// When the picker does not answer with JSON.
    pub async fn decisions(&self, limit: usize) -> Result<Vec<Value>> {
        self.decisions_at(&format!("/debug/decisions?limit={limit}")).await
    }

    /// The decision for one request, as soon as it is remembered.
    ///
    /// # Errors
    /// When there is none within five seconds.
    pub async fn decision(&self, request_id: &str) -> Result<Value> {
        let path = format!("/debug/decisions?request-id={request_id}");
        poll::until(&format!("the decision for {request_id}"), Duration::from_secs(5), async || {
            self.decisions_at(&path).await.ok()?.into_iter().next()
        })
        .await
    }

    async fn decisions_at(&self, path: &str) -> Result<Vec<Value>> {
        let answer = client::get(self.debug, path).await?.json()?;
        let list = answer.get("decisions").unwrap_or(&answer).as_array();
        Ok(list.with_context(|| format!("no list of decisions: {answer}"))?.clone())
    }

    /// `/debug/fleet`: the endpoints.
    ///
    /// # Errors
    /// When the picker does not answer with a list of endpoints.
    pub async fn fleet(&self) -> Result<Vec<Value>> {
        let answer = client::get(self.debug, "/debug/fleet").await?.json()?;
        Ok(answer["endpoints"].as_array().with_context(|| format!("no list of endpoints: {answer}"))?.clone())
    }

    /// Requests in flight by endpoint.
    ///
    /// # Errors
    /// As [`Picker::fleet`].
    pub async fn in_flight(&self) -> Result<BTreeMap<SocketAddr, u64>> {
        let endpoint =
            |endpoint: &Value| Some((endpoint["address"].as_str()?.parse().ok()?, endpoint["inFlight"].as_u64()?));
        Ok(self.fleet().await?.iter().filter_map(endpoint).collect())
    }

    /// Waits until the requests in flight, all endpoints together, are `count`.
    ///
    /// # Errors
    /// When they are not within `deadline`.
    pub async fn wait_for_in_flight(&self, count: u64, deadline: Duration) -> Result<()> {
        poll::until(&format!("{count} requests in flight"), deadline, async || {
            (self.in_flight().await.ok()?.values().sum::<u64>() == count).then_some(())
        })
        .await
    }

    /// Waits until the fleet has exactly `count` endpoints: a changed file has been read.
    ///
    /// # Errors
    /// When it has not within five seconds.
    pub async fn wait_for_endpoints(&self, count: usize) -> Result<()> {
        poll::until(&format!("{count} endpoints"), Duration::from_secs(5), async || {
            (self.fleet().await.ok()?.len() == count).then_some(())
        })
        .await
    }
}
