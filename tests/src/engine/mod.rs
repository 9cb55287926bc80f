//! A simulated vLLM engine. **A test fixture, not an engine**: it speaks vLLM's API and metric names
//! and keeps its times by a model, but its answers are made-up words. Every response says so in
//! [`HEADER`], and so does its log line.
//!
//! Runs in process on a loopback address.

mod api;
mod batch;
mod cache;
mod config;
mod fault;
mod histogram;
mod kv_events;
mod metrics;
mod record;
mod server;
mod span;
mod transfer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use config::{EngineConfig, Timing};
pub use fault::Fault;
pub use kv_events::{EventForm, KvCall, KvEvents, KvPorts, Lost, ReplayForm};
pub use record::Received;
pub use transfer::Transfers;

use batch::Batch;
use cache::PrefixCache;
use kv_events::{Command, Event, Publisher};
use metrics::Metrics;
use record::Record;
use span::Spans;
use transfer::Transfer;

/// The response header that names the engine's address, `ip:port`.
pub const HEADER: &str = "x-sim-engine";

/// What the requests of one engine share.
#[derive(Debug)]
struct State {
    address: SocketAddr,
    config: EngineConfig,
    batch: Batch,
    /// One for each data-parallel rank.
    caches: Vec<Mutex<PrefixCache>>,
    publisher: Mutex<Option<Publisher>>,
    metrics: Mutex<Metrics>,
    record: Record,
    fault: Mutex<Option<Fault>>,
    spans: Option<Spans>,
    transfer: Transfer,
}

/// A running simulated engine; dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
    /// What published KV events before the engine was killed.
    published: Option<(KvEvents, KvPorts, Option<KvCall>)>,
}

impl State {
    /// Tells what happened in the cache of a rank, if anybody publishes it.
    async fn publish(&self, rank: usize, events: Vec<Event>) {
        let queue = self.publisher.lock().as_ref().and_then(|publisher| publisher.rank(rank));
        if let Some(queue) = queue.filter(|_| !events.is_empty()) {
            // A publisher that has ended was stopped with its engine.
            let _ = queue.send(Command::Publish(events)).await;
        }
    }
}

impl Engine {
    /// Starts one at `config.address`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(config: EngineConfig) -> Result<Self> {
        let listener = bind(config.address).await?;
        Self::serve(config, listener)
    }

    /// Starts engines that can be endpoints of one pool: on addresses 127.x.y.1, .2, … that no other
    /// call gets, all on one port.
    ///
    /// # Errors
    /// When no free addresses are found.
    pub async fn start_many(configs: impl IntoIterator<Item = EngineConfig>) -> Result<Vec<Self>> {
        let configs: Vec<EngineConfig> = configs.into_iter().collect();
        for _ in 0..20 {
            if let Some(listeners) = bind_side_by_side(configs.len()).await {
                return configs
                    .into_iter()
                    .zip(listeners)
                    .map(|(config, listener)| Self::serve(config, listener))
                    .collect();
            }
        }
        bail!("no free loopback addresses in 127.0.0.0/8: on other systems than Linux they must be added first")
    }

    fn serve(config: EngineConfig, listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        tracing::info!(%address, model = config.model, "simulated engine started: a test fixture");
        let state = Arc::new(State {
            address,
            batch: Batch::new(config.timing.clone()),
            caches: (0..config.ranks).map(|_| Mutex::new(PrefixCache::new(config.cache_blocks))).collect(),
            publisher: Mutex::default(),
            metrics: Mutex::default(),
            record: Record::default(),
            fault: Mutex::default(),
            spans: config.traces.map(|sink| Spans::new(sink, address)),
            transfer: Transfer::default(),
            config,
        });
        transfer::join(&state);
        let server = tokio::spawn(server::serve(listener, Arc::clone(&state)));
        Ok(Self { state, server: Some(server), published: None })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// The model that it says it serves.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.state.config.model
    }

    /// Makes it misbehave, or behave again.
    pub fn set_fault(&self, fault: impl Into<Option<Fault>>) {
        *self.state.fault.lock() = fault.into();
    }

    /// Stops listening and breaks all connections. What it had cached is gone.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        let publisher = self.state.publisher.lock().take();
        if let Some(publisher) = publisher {
            self.published = Some(publisher.stop().await);
        }
        self.state.caches.iter().for_each(|cache| cache.lock().clear());
        transfer::leave(&self.state);
    }

    /// Listens again at the same address.
    ///
    /// # Errors
    /// When somebody else has taken it.
    pub async fn revive(&mut self) -> Result<()> {
        if self.server.is_none() {
            let listener = bind(self.state.address).await?;
            self.server = Some(tokio::spawn(server::serve(listener, Arc::clone(&self.state))));
            transfer::join(&self.state);
        }
        if let Some((config, ports, call)) = self.published.take() {
            // The last connections may still be closing.
            let listeners = crate::poll::until("the ports of the KV events", Duration::from_secs(5), async || {
                kv_events::listen(&[self.address().ip()], self.state.config.ranks, Some(ports)).ok()?.pop()
            });
            let publisher = Publisher::start(config, self.address().ip(), listeners.await?, call).await?;
            *self.state.publisher.lock() = Some(publisher);
        }
        Ok(())
    }

    /// Publishes the KV events of `engines` from now on, all on the same ports of their addresses. What they
    /// hold already is not told.
    ///
    /// # Errors
    /// When no such ports are found.
    pub async fn publish_kv_events(engines: impl IntoIterator<Item = &Self>, config: KvEvents) -> Result<KvPorts> {
        Self::tell(engines.into_iter().map(|engine| (engine, None)).collect(), config).await
    }

    /// As [`Engine::publish_kv_events`], of engines that connect to a subscriber.
    ///
    /// # Errors
    /// When no ports for replays are found, or the subscriber does not listen.
    pub async fn call_with_kv_events(
        engines: impl IntoIterator<Item = (&Self, KvCall)>,
        config: KvEvents,
    ) -> Result<KvPorts> {
        Self::tell(engines.into_iter().map(|(engine, call)| (engine, Some(call))).collect(), config).await
    }

    async fn tell(engines: Vec<(&Self, Option<KvCall>)>, config: KvEvents) -> Result<KvPorts> {
        let hosts: Vec<_> = engines.iter().map(|(engine, _)| engine.address().ip()).collect();
        let ranks = engines.iter().map(|(engine, _)| engine.state.config.ranks).max().unwrap_or(1);
        let mut ports = None;
        for ((engine, call), listeners) in engines.into_iter().zip(kv_events::listen(&hosts, ranks, None)?) {
            let publisher = Publisher::start(config, engine.address().ip(), listeners, call).await?;
            ports = Some(publisher.ports());
            *engine.state.publisher.lock() = Some(publisher);
        }
        ports.context("no engines")
    }

    /// The next so many batches of KV events of rank 0 do not reach subscribers.
    ///
    /// # Errors
    /// When KV events are not published.
    pub async fn lose_kv_events(&self, batches: usize, lost: Lost) -> Result<()> {
        let rank = self.state.publisher.lock().as_ref().and_then(|publisher| publisher.rank(0));
        rank.context("KV events are not published")?.send(Command::Lose(batches, lost)).await?;
        Ok(())
    }

    /// Empties the prefix cache, as `/reset_prefix_cache` does; unlike vLLM, which tells with its next step, at once.
    pub async fn reset_prefix_cache(&self) {
        for rank in 0..self.state.caches.len() {
            self.state.caches[rank].lock().clear();
            self.state.publish(rank, vec![Event::Cleared]).await;
        }
    }

    /// The requests that came through a gateway (those carry an `x-request-id`), oldest first; the last
    /// thousand.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.record.all()
    }

    /// How many requests have come through a gateway in all.
    #[must_use]
    pub fn received_count(&self) -> u64 {
        self.state.record.count()
    }

    /// The request with this `x-request-id`, once it has come.
    ///
    /// # Errors
    /// When it does not come within `deadline`.
    pub async fn wait_for_request(&self, id: &str, deadline: Duration) -> Result<Received> {
        let what = format!("the request {id} at the engine {}", self.address());
        crate::poll::until(&what, deadline, async || {
            self.received().into_iter().find(|request| request.header("x-request-id") == Some(id))
        })
        .await
    }

    /// Requests in the batch, and requests in the queue before it.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.state.batch.running(), self.state.batch.waiting())
    }

    /// What has become of the transfers that it took part in.
    #[must_use]
    pub fn transfers(&self) -> Transfers {
        self.state.transfer.totals()
    }

    /// Prompt tokens asked of the prefix cache, and found in it.
    #[must_use]
    pub fn prefix_tokens(&self) -> (u64, u64) {
        let metrics = self.state.metrics.lock();
        (metrics.prefix_queries, metrics.prefix_hits)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn bind_side_by_side(count: usize) -> Option<Vec<TcpListener>> {
    let [x, y] = [rand::random_range(1..255), rand::random_range(0..255)];
    let mut port = 0;
    let mut listeners = Vec::new();
    for host in 1..=u8::try_from(count).ok()? {
        let listener = TcpListener::bind(SocketAddr::from(([127, x, y, host], port))).await.ok()?;
        port = listener.local_addr().ok()?.port();
        listeners.push(listener);
    }
    Some(listeners)
}
