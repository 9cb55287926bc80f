//! The real picker: built by the cargo that runs us, run as a child.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::process::{Process, Program};
use crate::{client, own_binary, poll};

const START_DEADLINE: Duration = Duration::from_secs(20);

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
        let process = program.start()?;
        let ports = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = |name: &str| -> Option<SocketAddr> {
                line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str()?.parse().ok()
            };
            Some([address("grpcAddress")?, address("metricsAddress")?, address("debugAddress")?])
        };
        let [grpc, metrics, debug] = process.find_line("its ports", START_DEADLINE, ports).await?;
        Ok(Picker { process, grpc, metrics, debug })
    }
}

/// A running picker; dropping it kills it.
#[derive(Debug)]
pub struct Picker {
    process: Process,
    grpc: SocketAddr,
    metrics: SocketAddr,
    debug: SocketAddr,
}

impl Picker {
    /// Starts one for the manifests in `config_dir` and waits until it is ready.
    ///
    /// # Errors
    /// As [`PickerOptions::start`].
    pub async fn start(config_dir: &Path) -> Result<Self> {
        PickerOptions::new(config_dir).start().await
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When it does not within 20 seconds, with what the picker said.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let ready = poll::until("the picker's readiness", START_DEADLINE, async || {
            let reply = client::get(self.metrics, "/readyz").await.ok()?;
            (reply.status == 200).then_some(())
        });
        ready.await.with_context(|| format!("the picker said:\n{}", self.log()))
    }

    /// Where Envoy asks.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Where the debug pages and `Explain` are.
    #[must_use]
    pub fn debug_address(&self) -> SocketAddr {
        self.debug
    }

    /// The process, to be signalled.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output().join("\n")
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

    /// `/metrics`.
    ///
    /// # Errors
    /// When the picker does not answer.
    pub async fn metrics(&self) -> Result<Samples> {
        Ok(Samples::parse(&client::get(self.metrics, "/metrics").await?.text()))
    }
}

/// The samples of a Prometheus text.
#[derive(Clone, Debug)]
pub struct Samples(Vec<(String, f64)>);

impl Samples {
    /// Reads them; comments and exemplars are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            // An exemplar follows ` # `; labels may hold spaces.
            let line = line.split(" # ").next().unwrap_or(line);
            let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
            let (name, value) = line.split_at(end);
            Some((name.to_owned(), value.split_whitespace().next()?.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The sum of all samples of `name` whose labels contain each of `labels` (as `key="value"`);
    /// `None` when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let matching = self.0.iter().filter(|(series, _)| {
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            series_name == name && labels.iter().all(|label| series_labels.contains(label))
        });
        matching.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    /// All samples: series with labels, value.
    #[must_use]
    pub fn all(&self) -> &[(String, f64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let text = "# TYPE a counter\na{x=\"1 } 2\",y=\"2\"} 3 # {trace_id=\"0\"} 1\na{x=\"2\"} 4.5\nb 7\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.sum("a", &[]), Some(7.5));
        assert_eq!(samples.sum("a", &["x=\"2\""]), Some(4.5));
        assert_eq!(samples.sum("b", &[]), Some(7.0));
        assert_eq!(samples.sum("c", &[]), None);
    }
}
