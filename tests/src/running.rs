//! A program of ours that runs: where it listens, whether it is ready, what it says and what it measures.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{Process, Program};
use crate::{client, poll};

/// From the start until it is ready, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running picker or operator; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    process: Process,
    metrics: SocketAddr,
}

impl Running {
    /// Starts it and waits until it has told its addresses: that of its metrics, and `others` by their names in its
    /// first line of JSON.
    pub(crate) async fn start<const N: usize>(
        name: &'static str,
        program: Program,
        others: [&str; N],
    ) -> Result<(Self, [SocketAddr; N])> {
        let process = program.start()?;
        let addresses = |line: &str| {
            let others = others.iter().map(|other| address(line, other)).collect::<Option<Vec<_>>>()?;
            Some((address(line, "metricsAddress")?, others.try_into().ok()?))
        };
        let (metrics, others) = process.find_line("its addresses", START_DEADLINE, addresses).await?;
        Ok((Self { name, process, metrics }, others))
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When it does not within 30 seconds, with what the program said.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let what = format!("the readiness of {}", self.name);
        let ready = poll::until(&what, START_DEADLINE, async || {
            let reply = client::get(self.metrics, "/readyz").await.ok()?;
            (reply.status == 200).then_some(())
        });
        ready.await.with_context(|| format!("{} said:\n{}", self.name, self.log()))
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

    /// An address that it has logged by this name.
    #[must_use]
    pub fn logged_address(&self, name: &str) -> Option<SocketAddr> {
        self.process.output().iter().find_map(|line| address(line, name))
    }

    /// `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Samples> {
        Ok(Samples::parse(&client::get(self.metrics, "/metrics").await?.text()))
    }
}

/// The address of this name in a line of JSON.
fn address(line: &str, name: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str()?.parse().ok()
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
