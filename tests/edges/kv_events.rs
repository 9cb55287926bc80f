//! What engines say of their caches reaches the index, whatever happens on the way.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::kv_events::{KvMetrics, Sources, Subscriber};
use kthena_ext_proc::metrics::Metrics;
use prost::bytes::Bytes;
use scheduling::kv::{KvMatch, block_keys};
use scheduling::{Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, PoolName, Profile, Slot};
use serde_json::json;
use tests::client::Client;
use tests::engine::{Engine, EngineConfig, EventForm, KvEvents, KvPorts, Lost, ReplayForm};
use tests::poll;
use tokio::task::JoinHandle;

use crate::running::DEADLINE;

pub(crate) const BLOCK: u32 = 16;

/// Token ids of `blocks` whole blocks and a little more, which differ from others' from the first on.
pub(crate) fn prompt(kind: u32, blocks: u32) -> Vec<u32> {
    (0..blocks * BLOCK + 3).map(|place| kind * 1000 + place).collect()
}

/// Has the engine compute `prompt`, with `more` fields.
pub(crate) async fn compute(engine: &Engine, prompt: &[u32], more: &[(&str, &str)]) -> Result<()> {
    let mut body = json!({"model": engine.model(), "prompt": prompt, "max_tokens": 1});
    let mut call_rank = None;
    for (field, value) in more {
        match *field {
            "rank" => call_rank = Some(*value),
            field => body[field] = (*value).into(),
        }
    }
    let mut call = Client::new(engine.address()).post("/v1/completions", Bytes::from(body.to_string()));
    if let Some(rank) = call_rank {
        call = call.header("x-data-parallel-rank", rank);
    }
    let reply = call.send().await?;
    ensure!(reply.status == 200, "{}", reply.text());
    Ok(())
}

/// A fleet that listens to its engines.
pub(crate) struct Listening {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Metrics,
    subscriber: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.subscriber.abort();
    }
}

impl Listening {
    fn start(engines: &[Engine], ports: KvPorts, replays: bool, ranks: u16) -> Self {
        let replays = replays.then_some(ports.replay);
        let endpoints = engines.iter().map(|engine| (engine.address(), "pod"));
        Self::with(endpoints, ports.events, replays, ranks, |subscriber| subscriber)
    }

    /// A fleet of these endpoints; `vary` says how they are heard.
    pub(crate) fn with<'a>(
        endpoints: impl IntoIterator<Item = (SocketAddr, &'a str)>,
        port: u16,
        replay_port: Option<u16>,
        ranks: u16,
        vary: impl FnOnce(Subscriber) -> Subscriber,
    ) -> Self {
        let fleet = Arc::new(Fleet::new(Profile::default()));
        let metrics = Metrics::new(Arc::clone(&fleet), &Default::default());
        let sources = Sources { port, replay_port, topic: "kv@".into(), ranks };
        sources.check().expect("ports of a test");
        let kv_metrics: Arc<KvMetrics> = Arc::clone(&metrics.kv_events);
        let subscriber = Subscriber::new(Arc::clone(&fleet), sources, kv_metrics, |_| true);
        let listening = Self { fleet, metrics, subscriber: tokio::spawn(vary(subscriber).run()) };
        listening.declare(endpoints);
        listening
    }

    pub(crate) fn declare<'a>(&self, endpoints: impl IntoIterator<Item = (SocketAddr, &'a str)>) {
        let endpoint = |(address, name): (SocketAddr, &str)| DeclaredEndpoint {
            address,
            name: name.into(),
            labels: Arc::default(),
            ready: true,
            engine: EngineKind::Vllm,
        };
        let endpoints = endpoints.into_iter().map(endpoint).collect();
        let pool = DeclaredPool { name: PoolName::new("default", "llama"), picker: None, endpoints };
        self.fleet.apply(Event::Declared(Declared { pools: vec![pool], ..Declared::default() }));
    }

    /// What the first endpoint is believed to hold of a prompt.
    fn matched(&self, prompt: &[u32], lora: Option<&str>, salt: Option<&str>) -> KvMatch {
        let snapshot = self.fleet.snapshot();
        let endpoint = snapshot.pools.values().next().and_then(|pool| pool.endpoints.first());
        let slot = endpoint.map_or(Slot(0), |endpoint| endpoint.slot);
        snapshot.kv.matches(&block_keys(prompt, BLOCK, lora, salt), &[slot])[0]
    }

    /// How many blocks of a prompt each of these endpoints is believed to hold.
    pub(crate) fn held(&self, prompt: &[u32], addresses: &[SocketAddr]) -> Vec<u32> {
        let snapshot = self.fleet.snapshot();
        let endpoints = snapshot.pools.values().flat_map(|pool| pool.endpoints.iter());
        let slots: Vec<(SocketAddr, Slot)> = endpoints.map(|endpoint| (endpoint.address, endpoint.slot)).collect();
        let slot = |address: &SocketAddr| slots.iter().find(|(other, _)| other == address).expect("an endpoint").1;
        let slots: Vec<Slot> = addresses.iter().map(slot).collect();
        let found = snapshot.kv.matches(&block_keys(prompt, BLOCK, None, None), &slots);
        found.into_iter().map(|found| found.blocks).collect()
    }

    pub(crate) fn blocks(&self, prompt: &[u32]) -> u32 {
        self.matched(prompt, None, None).blocks
    }

    pub(crate) async fn until_blocks(&self, prompt: &[u32], blocks: u32) -> Result<()> {
        poll::until(&format!("{blocks} blocks of {}…", prompt[0]), DEADLINE, async || {
            (self.blocks(prompt) == blocks).then_some(())
        })
        .await
        .with_context(|| self.counted("kv_"))
    }

    /// The samples whose names begin so.
    pub(crate) fn counted(&self, name: &str) -> String {
        let text = self.metrics.encode(false);
        let named = |line: &&str| line.starts_with(&format!("kthena_router_{name}"));
        text.lines().filter(named).collect::<Vec<_>>().join("\n")
    }
}

async fn engine() -> Result<Vec<Engine>> {
    Engine::start_many([EngineConfig::instant("tiny").adapters(&["ad1"])]).await
}

#[tokio::test]
async fn a_late_joiner_learns_what_was_before_in_every_form() -> Result<()> {
    for (events, replay) in [
        (EventForm::Array, ReplayForm::Bare),
        (EventForm::Array, ReplayForm::WithTopic),
        (EventForm::Map, ReplayForm::Bare),
        (EventForm::Map, ReplayForm::WithTopic),
    ] {
        let engines = engine().await?;
        let ports = Engine::publish_kv_events(&engines, KvEvents { events, replay }).await?;
        compute(&engines[0], &prompt(1, 3), &[]).await?;
        let listening = Listening::start(&engines, ports, true, 1);
        listening.until_blocks(&prompt(1, 3), 3).await?;

        compute(&engines[0], &[&prompt(1, 3)[..], &prompt(2, 2)].concat(), &[]).await?;
        listening.until_blocks(&[&prompt(1, 3)[..], &prompt(2, 2)].concat(), 5).await?;
        assert!(listening.counted("kv_replays").contains("cause=\"join\",outcome=\"complete\"} 1"));
    }
    Ok(())
}

#[tokio::test]
async fn adapters_and_salts_keep_equal_prompts_apart() -> Result<()> {
    let engines = engine().await?;
    let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
    let listening = Listening::start(&engines, ports, true, 1);
    compute(&engines[0], &prompt(1, 2), &[("model", "ad1")]).await?;
    compute(&engines[0], &prompt(1, 3), &[("cache_salt", "tenant-a")]).await?;
    poll::until("the salted blocks", DEADLINE, async || {
        (listening.matched(&prompt(1, 9), None, Some("tenant-a")).blocks == 3).then_some(())
    })
    .await?;
    assert_eq!(listening.matched(&prompt(1, 9), Some("ad1"), None).blocks, 2);
    assert_eq!(listening.blocks(&prompt(1, 9)), 0);
    Ok(())
}

#[tokio::test]
async fn what_an_engine_drops_is_not_believed_any_more() -> Result<()> {
    let config = EngineConfig { cache_blocks: 4, ..EngineConfig::instant("tiny") };
    let engines = Engine::start_many([config]).await?;
    let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
    let listening = Listening::start(&engines, ports, true, 1);
    // An exact prompt's last block is computed, and stored, again: one removal does not make it leave.
    let exact: Vec<u32> = prompt(1, 3).into_iter().take(3 * BLOCK as usize).collect();
    compute(&engines[0], &exact, &[]).await?;
    compute(&engines[0], &exact, &[]).await?;
    listening.until_blocks(&exact, 3).await?;
    compute(&engines[0], &prompt(2, 3), &[]).await?;
    listening.until_blocks(&prompt(2, 3), 3).await?;
    assert_eq!(listening.blocks(&exact), 1, "the end of the older prompt had to leave");

    engines[0].reset_prefix_cache().await;
    listening.until_blocks(&prompt(2, 3), 0).await?;
    assert_eq!(listening.fleet.snapshot().kv.usage().blocks, 0);
    Ok(())
}

#[tokio::test]
async fn a_gap_is_filled_where_the_engine_remembers_and_costs_all_where_it_does_not() -> Result<()> {
    let engines = engine().await?;
    let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
    let listening = Listening::start(&engines, ports, true, 1);
    compute(&engines[0], &prompt(1, 2), &[]).await?;
    listening.until_blocks(&prompt(1, 2), 2).await?;

    engines[0].lose_kv_events(1, Lost::Remembered).await?;
    compute(&engines[0], &prompt(2, 2), &[]).await?;
    compute(&engines[0], &prompt(3, 2), &[]).await?;
    listening.until_blocks(&prompt(3, 2), 2).await?;
    assert_eq!((listening.blocks(&prompt(1, 2)), listening.blocks(&prompt(2, 2))), (2, 2));

    engines[0].lose_kv_events(1, Lost::Forgotten).await?;
    compute(&engines[0], &prompt(4, 2), &[]).await?;
    compute(&engines[0], &prompt(5, 2), &[]).await?;
    listening.until_blocks(&prompt(5, 2), 2).await?;
    listening.until_blocks(&prompt(1, 2), 0).await?;
    assert_eq!(listening.counted("kv_forgotten"), "kthena_router_kv_forgotten_total 1");
    assert!(listening.counted("kv_replays").contains("cause=\"gap\",outcome=\"complete\"} 2"));
    Ok(())
}

#[tokio::test]
async fn a_restarted_engine_is_known_to_hold_nothing_of_before() -> Result<()> {
    let mut engines = engine().await?;
    let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
    let listening = Listening::start(&engines, ports, true, 1);
    for kind in [1, 2] {
        compute(&engines[0], &prompt(kind, 2), &[]).await?;
    }
    listening.until_blocks(&prompt(2, 2), 2).await?;
    engines[0].kill().await;
    engines[0].revive().await?;
    listening.until_blocks(&prompt(2, 2), 0).await?;
    compute(&engines[0], &prompt(3, 2), &[]).await?;
    listening.until_blocks(&prompt(3, 2), 2).await?;
    assert_eq!(listening.blocks(&prompt(1, 2)), 0);
    Ok(())
}

#[tokio::test]
async fn without_replay_a_late_joiner_believes_what_it_hears_itself() -> Result<()> {
    let engines = engine().await?;
    let config = KvEvents { replay: ReplayForm::Off, ..KvEvents::default() };
    let ports = Engine::publish_kv_events(&engines, config).await?;
    compute(&engines[0], &prompt(1, 2), &[]).await?;
    for replays in [false, true] {
        let listening = Listening::start(&engines, ports, replays, 1);
        let refused = if replays { "outcome=\"failed\"} 1" } else { "outcome=\"refused\"} 1" };
        poll::until(refused, DEADLINE, async || listening.counted("kv_replays").contains(refused).then_some(()))
            .await?;
        let fresh = prompt(if replays { 3 } else { 2 }, 2);
        compute(&engines[0], &fresh, &[]).await?;
        listening.until_blocks(&fresh, 2).await?;
        assert_eq!(listening.blocks(&prompt(1, 2)), 0);
    }
    Ok(())
}

#[tokio::test]
async fn each_data_parallel_rank_has_a_cache_of_its_own() -> Result<()> {
    let config = EngineConfig { ranks: 2, ..EngineConfig::instant("tiny") };
    let engines = Engine::start_many([config]).await?;
    let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
    let listening = Listening::start(&engines, ports, true, 2);
    compute(&engines[0], &prompt(1, 2), &[("rank", "0")]).await?;
    compute(&engines[0], &prompt(1, 3), &[("rank", "1")]).await?;
    listening.until_blocks(&prompt(1, 9), 3).await?;
    assert_eq!(listening.matched(&prompt(1, 9), None, None).rank, 1);
    poll::until("both ranks", DEADLINE, async || {
        (listening.metrics.kv_events.ranks().values().filter(|rank| rank.is_connected() && rank.next() == 1).count()
            == 2)
            .then_some(())
    })
    .await?;
    let lag = listening.counted("kv_events_lag_seconds");
    assert_eq!(lag.lines().count(), 2, "{lag}");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_leaves_takes_its_blocks_with_it() -> Result<()> {
    let engines = engine().await?;
    let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
    let listening = Listening::start(&engines, ports, true, 1);
    compute(&engines[0], &prompt(1, 2), &[]).await?;
    listening.until_blocks(&prompt(1, 2), 2).await?;

    listening.declare([]);
    poll::until("the end of the subscription", DEADLINE, async || {
        listening.metrics.kv_events.ranks().is_empty().then_some(())
    })
    .await?;
    assert_eq!(listening.fleet.snapshot().kv.usage().blocks, 0);

    listening.declare([(engines[0].address(), "another-pod")]);
    listening.until_blocks(&prompt(1, 2), 2).await
}
