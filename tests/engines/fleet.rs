//! Real engines, started together from one import of vLLM.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tests::checkout;
use tests::client::{self, Client};
use tests::poll;
use tests::process::{Process, Program};
use tests::running::Samples;
use tests::scratch::Scratch;

use crate::install::Installation;

/// The model that every engine serves, and the folder with its files.
pub(crate) const MODEL: &str = "tiny";

/// Tokens in a block of the KV cache.
pub(crate) const BLOCK: usize = 16;

/// Adapters of engines that have any.
pub(crate) const ADAPTERS: [&str; 2] = ["ad1", "ad2"];

/// The import alone takes 15 s, and a minute when the machine is busy.
const START_DEADLINE: Duration = Duration::from_secs(300);

/// For what an engine does within a step or two.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What an engine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Prefill and decode.
    Whole,
    /// The same, and started anew when it ends.
    Restarted,
    /// Prefill and decode with the adapters [`ADAPTERS`].
    Adapted,
    /// Computes prompts and lets NIXL fetch their blocks.
    Prefill,
    /// Fetches blocks with NIXL.
    Decode,
}

/// Ports that are free at every engine's address: as in pods, all engines have the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) events: u16,
    pub(crate) replay: u16,
    side_channel: u16,
}

/// A real engine.
#[derive(Debug)]
pub(crate) struct Engine {
    name: String,
    address: SocketAddr,
    /// Leads the group of its processes.
    pid: u32,
}

/// Real engines; dropping it kills them.
#[derive(Debug)]
pub(crate) struct Fleet {
    process: Process,
    engines: Vec<Engine>,
    pub(crate) ports: Ports,
    installation: Installation,
    _scratch: Scratch,
}

impl Fleet {
    /// Starts an engine for each role and waits until all answer.
    ///
    /// # Errors
    /// When they cannot be installed or one does not start, with what they said.
    pub(crate) async fn start(roles: &[Role]) -> Result<Self> {
        let installation = Installation::get().await?;
        let start = Instant::now();
        eprintln!("starting {} vLLM engines: half a minute, or minutes on a busy machine", roles.len());
        let (hosts, ports) = addresses(roles.len())?;
        let scratch = Scratch::new("vllm")?;
        let model = installation.models().join(MODEL);
        if roles.contains(&Role::Adapted) {
            for (seed, adapter) in ADAPTERS.into_iter().enumerate() {
                installation.write_adapter(&scratch.file(adapter), seed).await?;
            }
        }
        let engines: Vec<Value> = std::iter::zip(roles, &hosts)
            .enumerate()
            .map(|(index, (role, host))| {
                json!({
                    "name": index.to_string(),
                    "host": host,
                    "args": args(*role, *host, ports, &model.to_string_lossy(), &scratch),
                    "again": *role == Role::Restarted,
                    "env": {"VLLM_NIXL_SIDE_CHANNEL_HOST": host, "VLLM_NIXL_SIDE_CHANNEL_PORT": ports.side_channel.to_string()},
                })
            })
            .collect();
        let process = Program::new("vLLM", "python3")
            .args(["-s".as_ref(), checkout::path("tests/engines/fleet.py").as_os_str()])
            .args([json!({"engines": engines}).to_string()])
            .env("PYTHONPATH", installation.packages())
            // One thread for each engine, and little memory: there are several.
            .env("OMP_NUM_THREADS", "1")
            .env("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            .env("VLLM_CPU_KVCACHE_SPACE", "1")
            .env("VLLM_TARGET_DEVICE", "cpu")
            // Blocks have the same hashes in every run.
            .env("PYTHONHASHSEED", "0")
            // NIXL's transport by loopback alone.
            .env("UCX_TLS", "cma,self,posix,sysv,tcp")
            .env("UCX_NET_DEVICES", "lo")
            // Nothing is fetched, nothing is told, nothing is left behind.
            .env("HF_HUB_OFFLINE", "1")
            .env("TRANSFORMERS_OFFLINE", "1")
            .env("VLLM_NO_USAGE_STATS", "1")
            .env("DO_NOT_TRACK", "1")
            .env("TMPDIR", scratch.path())
            .env("VLLM_CACHE_ROOT", scratch.file("cache"))
            .start()?;
        let mut fleet = Self { process, engines: Vec::new(), ports, installation, _scratch: scratch };
        for (index, host) in hosts.iter().enumerate() {
            let name = index.to_string();
            let forked = |line: &str| line.strip_prefix(&format!("engine {name} "))?.parse().ok();
            let pid = fleet.process.find_line("its fork", START_DEADLINE, forked).await?;
            fleet.engines.push(Engine { name, address: SocketAddr::from((*host, ports.http)), pid });
        }
        for engine in &fleet.engines {
            fleet.wait_until_ready(engine).await?;
        }
        eprintln!("{} engines answer ({:.0} s)", roles.len(), start.elapsed().as_secs_f64());
        Ok(fleet)
    }

    /// Waits until an engine that was killed, and is one that starts anew, answers again.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) async fn wait_until_restarted(&self, engine: &Engine) -> Result<()> {
        let again = format!("again {} ", engine.name);
        self.process.find_line("its restart", SOON, |line| line.starts_with(&again).then_some(())).await?;
        poll::until("the restarted engine", START_DEADLINE, async || {
            client::get(engine.address, "/health").await.ok().filter(|reply| reply.status == 200)
        })
        .await
        .with_context(|| self.log())?;
        Ok(())
    }

    async fn wait_until_ready(&self, engine: &Engine) -> Result<()> {
        let ended = format!("ended {} ", engine.name);
        let ready = poll::until("an engine's readiness", START_DEADLINE, async || {
            let gone = self.process.output().iter().any(|line| line.starts_with(&ended));
            let healthy = client::get(engine.address, "/health").await.is_ok_and(|reply| reply.status == 200);
            if healthy { Some(true) } else { gone.then_some(false) }
        });
        if !ready.await.with_context(|| self.log())? {
            bail!("an engine ended:\n{}", self.log());
        }
        Ok(())
    }

    /// The end of what all of them said.
    fn log(&self) -> String {
        let lines = self.process.output();
        lines.iter().skip(lines.len().saturating_sub(60)).fold(String::new(), |all, line| all + line + "\n")
    }

    /// In the order of their roles.
    pub(crate) fn engines(&self) -> &[Engine] {
        &self.engines
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.engines.iter().map(|engine| engine.address).collect()
    }

    /// The engine at this address.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn at(&self, address: SocketAddr) -> &Engine {
        self.engines.iter().find(|engine| engine.address == address).expect("an engine of this fleet")
    }

    /// The models' tokenizers: what `--tokenizer-dir` takes.
    pub(crate) fn tokenizers(&self) -> PathBuf {
        self.installation.models()
    }

    /// Kills all processes of `engine` at once, as a node that dies does.
    ///
    /// # Errors
    /// When it is gone already, or does not go.
    pub(crate) async fn kill(&self, engine: &Engine) -> Result<()> {
        let script = format!("kill -s KILL -- -{}", engine.pid);
        if !Command::new("sh").args(["-c", &script]).status()?.success() {
            bail!("engine {} is gone", engine.name);
        }
        let ended = format!("ended {} ", engine.name);
        self.process.find_line("the engine's end", SOON, |line| line.starts_with(&ended).then_some(())).await
    }
}

impl Engine {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks it past Envoy.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The sum of a counter or gauge of its own.
    ///
    /// # Errors
    /// When it does not answer or has no such metric.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let samples = Samples::parse(&client::get(self.address, "/metrics").await?.text());
        samples.sum(name, labels).with_context(|| format!("engine {} has no {name} {labels:?}", self.name))
    }
}

/// `vllm serve …`, as in a pod whose address is `host`.
fn args(role: Role, host: Ipv4Addr, ports: Ports, model: &str, scratch: &Scratch) -> Vec<String> {
    let events = json!({
        "enable_kv_cache_events": true,
        "publisher": "zmq",
        "endpoint": format!("tcp://*:{}", ports.events),
        "replay_endpoint": format!("tcp://*:{}", ports.replay),
        "topic": format!("kv@{host}:{}@{MODEL}", ports.http),
    });
    let http = ports.http.to_string();
    let host = host.to_string();
    let block = BLOCK.to_string();
    let mut args = vec!["serve", model, "--served-model-name", MODEL, "--host", &host, "--port", &http]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let fixed = "--dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 16 \
                 --max-num-batched-tokens 2048 --enable-prefix-caching --num-gpu-blocks-override 256 \
                 --enable-prompt-tokens-details --disable-uvicorn-access-log --block-size";
    args.extend(fixed.split_whitespace().chain([block.as_str()]).map(str::to_owned));
    args.extend(["--kv-events-config".to_owned(), events.to_string()]);
    let kv_role = match role {
        Role::Whole | Role::Restarted => return args,
        Role::Adapted => {
            let adapters = "--enable-lora --max-loras 2 --max-lora-rank 8 --lora-modules";
            args.extend(adapters.split_whitespace().map(str::to_owned));
            args.extend(ADAPTERS.map(|adapter| format!("{adapter}={}", scratch.file(adapter).display())));
            return args;
        }
        Role::Prefill => "kv_producer",
        Role::Decode => "kv_consumer",
    };
    let transfer = json!({
        "kv_connector": "NixlConnector",
        "kv_role": kv_role,
        "kv_buffer_device": "cpu",
        // Blocks whose engine is gone are computed anew; by default the request fails.
        "kv_load_failure_policy": "recompute",
    });
    args.extend(["--kv-transfer-config".to_owned(), transfer.to_string()]);
    args
}

/// Loopback addresses of our own, and ports that are free at each of them.
fn addresses(count: usize) -> Result<(Vec<Ipv4Addr>, Ports)> {
    for _ in 0..20 {
        let [x, y] = [rand::random_range(1..255), rand::random_range(0..255)];
        let count = u8::try_from(count)?;
        let hosts: Vec<Ipv4Addr> = (1..=count).map(|host| Ipv4Addr::new(127, x, y, host)).collect();
        // Held together, so that they differ.
        let held: Vec<_> = (0..4).map_while(|_| side_by_side(&hosts)).collect();
        if let [http, events, replay, side_channel] = &held[..] {
            let [http, events, replay, side_channel] = [http.0, events.0, replay.0, side_channel.0];
            return Ok((hosts, Ports { http, events, replay, side_channel }));
        }
    }
    bail!("no free loopback addresses in 127.0.0.0/8")
}

fn side_by_side(hosts: &[Ipv4Addr]) -> Option<(u16, Vec<TcpListener>)> {
    let mut port = 0;
    let mut listeners = Vec::new();
    for host in hosts {
        let listener = TcpListener::bind((*host, port)).ok()?;
        port = listener.local_addr().ok()?.port();
        listeners.push(listener);
    }
    Some((port, listeners))
}
