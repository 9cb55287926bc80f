//! A host with a pool of engines and pickers behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::select_ok;
use serde_json::{Value, json};
use tests::client::{Client, Reply};
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::engine::{Engine, EngineConfig};
use tests::gateways::installed::act_as;
pub(crate) use tests::gateways::{SOON, tail};
use tests::otlp_sink::OtlpSink;
use tests::picker::{Picker, PickerOptions};
use tests::poll;
use tests::scratch::Scratch;

use crate::host::{Host, Setting};
use crate::objects::{NAMESPACE, Objects};
use crate::sandbox::address;

/// A client waits this long at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// The model, the pool's name, and the beginning of its pods' names.
pub(crate) const MODEL: &str = "llama";

/// Where engines listen, as the pools say.
pub(crate) const ENGINE_PORT: u16 = 8000;

/// A picker and its pod.
pub(crate) struct Replica {
    pub(crate) pod: String,
    pub(crate) address: SocketAddr,
    /// `None` while its process is gone.
    pub(crate) picker: Option<Picker>,
}

/// What is running, in the order of its end.
pub(crate) struct Stage<H> {
    pub(crate) host: H,
    pub(crate) client: Client,
    pub(crate) replicas: Vec<Replica>,
    /// The next replica's number; the first is 0.
    next: u8,
    /// Engines with a pod in the pool.
    pub(crate) engines: Vec<Engine>,
    /// An engine that belongs to no pool.
    pub(crate) outsider: Engine,
    pub(crate) objects: Objects,
    /// Where gateway, pickers and engines tell their spans.
    pub(crate) sink: OtlpSink,
    kubeconfig: PathBuf,
    /// A scheduler's configuration by which every endpoint is as likely as any other.
    pub(crate) by_chance: PathBuf,
    pub(crate) plane: ControlPlane,
    scratch: Scratch,
}

impl<H: Host> Stage<H> {
    /// Two engines, one picker, the host with its example's manifests; all of it answers.
    ///
    /// # Errors
    /// When something does not start, with what it said.
    pub(crate) async fn start() -> Result<Self> {
        let options = ControlPlaneOptions::default().with_garbage_collection().with_endpoint_slices();
        let plane = options.with_kinds(H::KINDS).at(address(30).into()).start().await?;
        let scratch = Scratch::new("host")?;
        // With the rights that the example gives it.
        let kubeconfig = act_as(&plane, scratch.path(), &format!("{MODEL}-epp"))?;

        // Every endpoint is as likely as any other, so that a gateway which does not obey is found out.
        let by_chance = scratch.file("scheduler.yaml");
        let profile = json!({"scheduler": {"plugins": {
            "Filter": {"enabled": ["least-request"]},
            "Score": {"enabled": [{"name": "random", "weight": 1}]},
        }}});
        std::fs::write(&by_chance, profile.to_string())?;

        let objects = Objects::new(plane.client().await?);
        let sink = OtlpSink::start().await?;
        let mut host = H::start(&plane, &objects, sink.address()).await?;
        objects.apply_example(H::NAME).await?;

        let mut stage = Self {
            client: Client::new(host.address()),
            engines: Vec::new(),
            outsider: engine(9, sink.address()).await?,
            replicas: Vec::new(),
            next: 0,
            host: {
                host.attach(&objects).await?;
                host
            },
            objects,
            sink,
            kubeconfig,
            by_chance,
            plane,
            scratch,
        };
        stage.add_engine().await?;
        stage.add_engine().await?;
        stage.add_replica().await?;
        stage.host.wait_for(H::SETTINGS[0]).await?;
        stage.wait_until_picked().await.with_context(|| stage.said())?;
        Ok(stage)
    }

    /// A kubeconfig with the rights of a service account of [`NAMESPACE`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn act_as(&self, account: &str) -> Result<PathBuf> {
        act_as(&self.plane, self.scratch.path(), account)
    }

    /// Has the host set so, and waits until requests are treated so.
    ///
    /// A picker sees how bodies come, and not what becomes of requests without it: so from a setting with the same bodies
    /// there is a step between, from which the picker can tell this one.
    ///
    /// # Errors
    /// When it refuses, or does not come to it.
    pub(crate) async fn set(&mut self, setting: Setting) -> Result<()> {
        let between = H::SETTINGS.iter().find(|other| other.seen_by_picker() != setting.seen_by_picker());
        if let Some(between) = between {
            self.set_and_wait(*between).await?;
        }
        self.set_and_wait(setting).await
    }

    async fn set_and_wait(&mut self, setting: Setting) -> Result<()> {
        self.host.set(&self.objects, setting).await?;
        self.host.wait_for(setting).await?;
        // Connections keep what was in force when they were opened, and Envoy's threads hear of a change after its admin
        // interface tells it: so until a new one is treated so.
        let mut last = String::new();
        let what = format!("a request that is treated as {setting}");
        let client = poll::until(&what, SOON, async || {
            let client = Client::new(self.host.address());
            let decision = async { self.picked(&ask(&client, &[]).await?).await };
            match decision.await {
                Ok(decision) if decision["bodyMode"] == setting.seen_by_picker() => Some(client),
                Ok(decision) => {
                    last = decision["bodyMode"].to_string();
                    None
                }
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            }
        });
        self.client = client.await.with_context(|| format!("the last: {last}\n{}", self.said()))?;
        Ok(())
    }

    /// A pool more: its manifests, an engine and a picker of its own.
    ///
    /// # Errors
    /// When something of it cannot be started.
    pub(crate) async fn second_pool(&self, name: &str, manifests: &str) -> Result<(Engine, Picker)> {
        let (engine, picker) = (engine(12, self.sink.address()).await?, self.picker(address(20), name).await?);
        self.objects.apply(manifests).await?;
        self.objects.create_pod(name, &json!({"app": name}), address(12)).await?;
        let epp = format!("{name}-epp");
        self.objects.create_pod(&epp, &json!({"app": epp}), address(20)).await?;
        Ok((engine, picker))
    }

    /// One engine more, and its pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) async fn add_engine(&mut self) -> Result<()> {
        let number = self.engines.len();
        let engine = engine(u8::try_from(number)? + 1, self.sink.address()).await?;
        let name = format!("{MODEL}-{number}");
        let Some(ip) = ipv4(engine.address()) else { unreachable!("our addresses are IPv4") };
        self.objects.create_pod(&name, &json!({"app": "vllm-llama"}), ip).await?;
        self.engines.push(engine);
        Ok(())
    }

    /// One picker more, and its pod.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn add_replica(&mut self) -> Result<()> {
        let number = self.next;
        self.next += 1;
        let ip = address(21 + number % 8);
        let picker = self.picker(ip, MODEL).await?;
        let pod = format!("{MODEL}-epp-{number}");
        self.objects.create_pod(&pod, &json!({"app": "llama-epp"}), ip).await?;
        self.replicas.push(Replica { pod, address: (ip, 9002).into(), picker: Some(picker) });
        Ok(())
    }

    /// Kills the first picker; its pod stays as it is.
    pub(crate) fn kill_picker(&mut self) {
        self.replicas[0].picker = None;
    }

    /// Starts the first picker again, in the same pod, which is ready then.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) async fn restart_picker(&mut self) -> Result<()> {
        let Some(ip) = ipv4(self.replicas[0].address) else { unreachable!("our addresses are IPv4") };
        self.replicas[0].picker = Some(self.picker(ip, MODEL).await?);
        self.objects.set_ready(&self.replicas[0].pod, true).await?;
        self.wait_until_picked().await
    }

    /// Has the first picker's pod not ready, and waits until Envoy knows.
    ///
    /// # Errors
    /// When Envoy does not learn it.
    pub(crate) async fn unready_picker(&self) -> Result<()> {
        self.objects.set_ready(&self.replicas[0].pod, false).await?;
        if H::PICKERS_BY_POD {
            self.wait_until_unhealthy(self.replicas[0].address).await?;
        }
        Ok(())
    }

    /// The pickers that run.
    pub(crate) fn pickers(&self) -> impl Iterator<Item = &Picker> {
        self.replicas.iter().filter_map(|replica| replica.picker.as_ref())
    }

    /// Starts a picker at an address, with the arguments of the example's Deployment.
    ///
    /// # Errors
    /// When it does not become ready.
    async fn picker(&self, ip: std::net::Ipv4Addr, pool: &str) -> Result<Picker> {
        PickerOptions::of_cluster(&self.kubeconfig)
            .flag("--pool-name", pool)
            .flag("--pool-namespace", NAMESPACE)
            .at(ip)
            .flag("--scheduler-config", self.by_chance.display())
            .traces(&self.sink.endpoint())
            .start()
            .await
    }

    /// A completion whose prompt no other has.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub(crate) async fn ask(&self) -> Result<Reply> {
        ask(&self.client, &[]).await
    }

    /// That the request was answered by the endpoint that its decision names. Returns the decision.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) async fn picked(&self, reply: &Reply) -> Result<Value> {
        ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
        let served = reply.engine().context("no engine answered")?;
        let id = reply.request_id().context("an answer without a request id")?;
        let decisions: Vec<_> = self.pickers().map(|picker| Box::pin(picker.decision(&id))).collect();
        ensure!(!decisions.is_empty(), "{served} answered, and there is no picker");
        let (decision, _) = select_ok(decisions).await?;
        ensure!(decision["endpoint"] == served.to_string(), "{served} served, the decision is {decision:#}");
        Ok(decision)
    }

    /// Waits until requests go where the picker says.
    ///
    /// # Errors
    /// When they do not in time.
    pub(crate) async fn wait_until_picked(&self) -> Result<()> {
        let mut last = String::new();
        let found = poll::until("an answer from a picked endpoint", SOON, async || {
            match async { self.picked(&self.ask().await?).await }.await {
                Ok(_) => Some(()),
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            }
        });
        found.await.with_context(|| format!("the last answer: {last}"))
    }

    /// Waits until Envoy no longer takes the address of a picker for healthy.
    async fn wait_until_unhealthy(&self, picker: SocketAddr) -> Result<()> {
        poll::until(&format!("the picker at {picker} to be out of Envoy's sight"), SOON, async || {
            let clusters = tests::client::get(self.host.admin(), "/clusters").await.ok()?.text();
            (!clusters.contains(&format!("::{picker}::health_flags::healthy"))).then_some(())
        })
        .await
    }

    /// What everybody said lately.
    pub(crate) fn said(&self) -> String {
        let pickers = self.pickers().map(|picker| tail(&picker.log(), 15));
        format!("{}\npickers:\n{}", self.host.said(), pickers.collect::<String>())
    }
}

async fn engine(host: u8, traces: SocketAddr) -> Result<Engine> {
    let config = EngineConfig { address: (address(host), ENGINE_PORT).into(), ..EngineConfig::instant(MODEL) };
    let config = config.traces(traces);
    Engine::start(config).await
}

fn ipv4(address: SocketAddr) -> Option<std::net::Ipv4Addr> {
    match address.ip() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

/// A completion whose prompt no other has, with headers.
///
/// # Errors
/// When there is no answer in time.
pub(crate) async fn ask(client: &Client, headers: &[(&str, &str)]) -> Result<Reply> {
    let prompt = format!("{:032x}", rand::random::<u128>());
    let call = client.chat(MODEL, &[("user", &prompt)]);
    let call = headers.iter().fold(call, |call, (name, value)| call.header(name, value));
    tokio::time::timeout(PATIENCE, call.send()).await.context("no answer")?
}

/// How long something took, for a person.
pub(crate) fn seconds(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f64())
}
