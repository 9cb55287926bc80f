//! The demo's stage: simulated engines, the picker in file mode, Envoy in front, a sink for spans.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::config_dir::{ConfigDir, Group, NAMESPACE};
use crate::engine::{Engine, EngineConfig, KvEvents};
use crate::envoy::Envoy;
use crate::otlp_sink::OtlpSink;
use crate::picker::{Picker, PickerOptions};
use crate::shapes::{self, Pool};

/// The adapter that two of the four engines of the first pool have.
const ADAPTER: &str = "sql-adapter";

/// Blocks in each engine's prefix cache, of 16 tokens: less than all conversations need together.
const CACHE_BLOCKS: usize = 700;

/// Six engines for two models, four and two; two of the first have an adapter.
#[derive(Debug)]
pub struct Engines {
    /// `llama-3.1-8b`; the first two have the adapter.
    pub llama: Vec<Engine>,
    /// `qwen2.5-7b`.
    pub qwen: Vec<Engine>,
}

impl Engines {
    /// Starts them, with empty caches.
    ///
    /// # Errors
    /// When no free loopback addresses are found.
    pub async fn start(sink: SocketAddr) -> Result<Self> {
        let engine =
            |model: &str| EngineConfig { cache_blocks: CACHE_BLOCKS, ..EngineConfig::timed(model, 1.0).traces(sink) };
        let llama = (0..4).map(|index| {
            let config = engine("llama-3.1-8b");
            if index < 2 { config.adapters(&[ADAPTER]) } else { config }
        });
        let qwen = (0..2).map(|_| engine("qwen2.5-7b"));
        Ok(Self { llama: Engine::start_many(llama).await?, qwen: Engine::start_many(qwen).await? })
    }

    /// The pod's name by address, as the picker will call it.
    #[must_use]
    pub fn pods(&self) -> BTreeMap<String, String> {
        let named = |pool: &'static str, engines: &[Engine]| -> Vec<(String, String)> {
            let addresses = engines.iter().map(|engine| engine.address().to_string());
            addresses.enumerate().map(|(index, address)| (address, format!("{pool}-{index}"))).collect()
        };
        named("llama", &self.llama).into_iter().chain(named("qwen", &self.qwen)).collect()
    }
}

/// A third model, of which two groups of one prefill and one decode engine each are served.
pub const PAIRED: &str = "deepseek-r1-8b";

/// Engines that share the work of a request.
#[derive(Debug)]
struct Pairs {
    prefills: Vec<Engine>,
    decodes: Vec<Engine>,
}

impl Pairs {
    async fn start(sink: SocketAddr) -> Result<Self> {
        let mut engines = Engine::start_many((0..4).map(|_| EngineConfig::timed(PAIRED, 1.0).traces(sink))).await?;
        let decodes = engines.split_off(2);
        Ok(Self { prefills: engines, decodes })
    }

    fn groups(&self) -> Vec<Group> {
        let group = |(prefill, decode): (&Engine, &Engine)| Group {
            prefills: vec![prefill.address()],
            decodes: vec![decode.address()],
        };
        std::iter::zip(&self.prefills, &self.decodes).map(group).collect()
    }
}

fn addresses(engines: &[Engine]) -> Vec<SocketAddr> {
    engines.iter().map(Engine::address).collect()
}

/// All that runs.
#[derive(Debug)]
pub struct Stage {
    /// In front; its listeners are `llama`, `qwen`, `deepseek`, `round-robin-llama` and `round-robin-qwen`.
    pub envoy: Envoy,
    /// Decides.
    pub picker: Picker,
    /// Behind the picker.
    pub engines: Engines,
    _baseline: Engines,
    _pairs: Pairs,
    /// Where everybody's spans go.
    pub sink: OtlpSink,
    _config_dir: ConfigDir,
}

impl Stage {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a part does not start, with what it said.
    pub async fn start() -> Result<Self> {
        let sink = OtlpSink::start().await?;
        let engines = Engines::start(sink.address()).await?;
        // The baseline's spans would only be in the way.
        let baseline_sink = OtlpSink::start().await?;
        let baseline = Engines::start(baseline_sink.address()).await?;

        let config_dir = ConfigDir::new()?;
        config_dir.pool("llama", &addresses(&engines.llama))?;
        config_dir.pool("qwen", &addresses(&engines.qwen))?;
        let port = |engines: &[Engine]| engines.first().map(|engine| engine.address().port()).context("no engine");
        config_dir.model_server("llama", "llama", port(&engines.llama)?, Some("llama-3.1-8b"))?;
        config_dir.model_server("qwen", "qwen", port(&engines.qwen)?, None)?;
        config_dir.model_route("llama", "llama-3.1-8b", &[ADAPTER], "llama")?;
        config_dir.model_route("support", "support-assistant", &[], "llama")?;
        config_dir.model_route("qwen", "qwen2.5-7b", &[], "qwen")?;
        let pairs = Pairs::start(sink.address()).await?;
        config_dir.pairs("deepseek", PAIRED, &pairs.groups(), &json!({}), |_| {})?;
        config_dir.write_text("scheduler.conf", SCHEDULER)?;
        let all = [&engines.llama, &engines.qwen, &pairs.prefills, &pairs.decodes].into_iter().flatten();
        let kv = Engine::publish_kv_events(all, KvEvents::default()).await?;
        let picker = PickerOptions::new(config_dir.path())
            .flag("--kv-events-port", kv.events)
            .flag("--kv-replay-port", kv.replay)
            .flag("--scheduler-config", config_dir.path().join("scheduler.conf").display())
            .traces(&sink.endpoint())
            .env("ACCESS_LOG_ENABLED", false)
            .start()
            .await?;

        let pool = |name: &str, engines: &[Engine]| Pool::new(name, &addresses(engines), picker.grpc_address());
        let pools = [
            (pool("llama", &engines.llama), Some(&baseline.llama)),
            (pool("qwen", &engines.qwen), Some(&baseline.qwen)),
            (pool("deepseek", &pairs.decodes), None),
        ];
        let envoy = in_front(&pools, sink.address()).await?;
        Ok(Self { envoy, picker, engines, sink, _baseline: baseline, _pairs: pairs, _config_dir: config_dir })
    }
}

/// Kthena's configuration format: its chart's plugins, with the LoRA filter switched on, and with what the
/// engines themselves say of their caches in place of what the picker guesses.
const SCHEDULER: &str = "\
scheduler:
  plugins:
    Filter:
      enabled: [least-request, lora-affinity]
    Score:
      enabled:
      - {name: least-request, weight: 1}
      - {name: gpu-usage, weight: 1}
      - {name: least-latency, weight: 1}
      - {name: kvcache-aware, weight: 1}
";

/// `deploy/envoy/standalone.yaml` with a listener for each pool, and the same without the picker before
/// the baseline's engines, where there are any.
async fn in_front(pools: &[(Pool, Option<&Vec<Engine>>); 3], sink: SocketAddr) -> Result<Envoy> {
    let [(first, _), ..] = pools;
    let mut shape = shapes::standalone::config(first)?.traces(sink);
    shape.manager()["access_log"] = json!([]);
    let template = shape.listener().clone();
    let engines = shape.clusters().iter().find(|cluster| cluster["name"] == "engines").context("no engines")?.clone();
    shape.clusters().retain(|cluster| cluster["name"] != "engines");
    shape.listeners().clear();
    for (pool, baseline) in pools {
        let mut cluster = engines.clone();
        cluster["name"] = pool.name.as_str().into();
        cluster["eds_cluster_config"]["service_name"] = format!("{NAMESPACE}/{}", pool.name).into();
        shape.clusters().push(cluster);
        let mut listener = named(&template, &pool.name);
        let manager = manager_of(&mut listener);
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = pool.name.as_str().into();
        // The picker knows the pool by the stream's authority, as gateways program it.
        manager["http_filters"][0]["typed_config"]["grpc_service"]["envoy_grpc"]["authority"] =
            format!("{}-epp.default:9002", pool.name).into();
        shape.listeners().push(listener);

        let Some(plain) = baseline else { continue };
        let name = format!("round-robin-{}", pool.name);
        let adapters = format!("{name}-adapters");
        let all = addresses(plain);
        // The adapter is on the first two: round robin must be told, or half of it would be errors.
        for (name, endpoints) in [(&name, all.as_slice()), (&adapters, all.get(..2).unwrap_or_default())] {
            shape.clusters().push(json!({
                "name": name,
                "type": "STATIC",
                "connect_timeout": "1s",
                "lb_policy": "ROUND_ROBIN",
                "load_assignment": shapes::load_assignment(name, endpoints),
            }));
        }
        let mut listener = named(&template, &name);
        let manager = manager_of(&mut listener);
        manager["http_filters"].as_array_mut().context("filters")?.remove(0);
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        let mut adapter = routes[0].clone();
        routes[0]["route"]["cluster"] = name.as_str().into();
        adapter["route"]["cluster"] = adapters.as_str().into();
        adapter["match"]["headers"] = json!([{"name": "x-demo-adapter", "present_match": true}]);
        routes.as_array_mut().context("routes")?.insert(0, adapter);
        if let Some(manager) = manager.as_object_mut() {
            manager.remove("tracing");
        }
        shape.listeners().push(listener);
    }
    shape.start().await
}

fn named(listener: &Value, name: &str) -> Value {
    let mut listener = listener.clone();
    listener["name"] = name.into();
    listener
}

fn manager_of(listener: &mut Value) -> &mut Value {
    &mut listener["filter_chains"][0]["filters"][0]["typed_config"]
}
