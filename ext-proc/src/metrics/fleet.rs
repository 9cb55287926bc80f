//! What is read from the fleet at every scrape, and counters that live as long as their endpoint.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use scheduling::{Endpoint, Pool, PoolName};

use crate::fleet::Fleet;
use crate::kv_events::KvMetrics;

/// Counters by endpoint. An endpoint's counters leave with it.
#[derive(Debug, Default)]
pub(super) struct EndpointCounters {
    decisions: RwLock<HashMap<(PoolName, SocketAddr), AtomicU64>>,
    scrape_failures: RwLock<HashMap<SocketAddr, AtomicU64>>,
}

impl EndpointCounters {
    pub(super) fn decided(&self, fleet: &Fleet, pool: &PoolName, address: SocketAddr) {
        count(&self.decisions, (pool.clone(), address), |(pool, address)| has(fleet, Some(pool), *address));
    }

    pub(super) fn scrape_failed(&self, fleet: &Fleet, address: SocketAddr) {
        count(&self.scrape_failures, address, |address| has(fleet, None, *address));
    }
}

/// Counts under `key`. A new key is the moment to let go of the departed ones.
fn count<K: Eq + Hash>(counters: &RwLock<HashMap<K, AtomicU64>>, key: K, lives: impl Fn(&K) -> bool) {
    if let Some(counter) = counters.read().get(&key) {
        counter.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut counters = counters.write();
    counters.retain(|key, _| lives(key));
    counters.entry(key).or_default().fetch_add(1, Ordering::Relaxed);
}

fn has(fleet: &Fleet, pool: Option<&PoolName>, address: SocketAddr) -> bool {
    let snapshot = fleet.snapshot();
    let holds = |pool: &Arc<Pool>| pool.endpoint(address).is_some();
    match pool {
        Some(pool) => snapshot.pools.get(pool).is_some_and(holds),
        None => snapshot.pools.values().any(holds),
    }
}

/// Encodes what the fleet knows at the moment of the scrape.
#[derive(Debug)]
pub(super) struct FleetCollector {
    fleet: Arc<Fleet>,
    counters: Arc<EndpointCounters>,
    kv_events: Arc<KvMetrics>,
}

impl FleetCollector {
    pub(super) fn new(fleet: Arc<Fleet>, counters: Arc<EndpointCounters>, kv_events: Arc<KvMetrics>) -> Self {
        Self { fleet, counters, kv_events }
    }

    /// What is believed of the engines' caches; nothing where nobody asks.
    fn caches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ranks = self.kv_events.ranks();
        if ranks.is_empty() {
            return Ok(());
        }
        let usage = self.fleet.snapshot().kv.usage();
        for (name, help, value) in [
            ("kv_blocks", "Blocks that ranks of endpoints are believed to hold, as their KV events say.", usage.blocks),
            ("kv_index_bytes", "Memory of the index of the blocks that ranks are believed to hold.", usage.bytes),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(u64::try_from(value).unwrap_or(u64::MAX)).encode(family)?;
        }
        let labels =
            |(address, rank): &(SocketAddr, u32)| [("endpoint", address.to_string()), ("rank", rank.to_string())];
        let help = "1 while the KV events of the endpoint's rank are heard, else 0.";
        let mut family = encoder.encode_descriptor("kv_events_connected", help, None, MetricType::Gauge)?;
        for (key, state) in &ranks {
            ConstGauge::new(u64::from(state.is_connected())).encode(family.encode_family(&labels(key))?)?;
        }
        let help = "Age of the last batch of KV events when it was taken in, by the engine's clock and ours.";
        let mut family = encoder.encode_descriptor("kv_events_lag_seconds", help, None, MetricType::Gauge)?;
        for (key, state) in &ranks {
            if let Some(lag) = state.lag_seconds() {
                ConstGauge::new(lag).encode(family.encode_family(&labels(key))?)?;
            }
        }
        Ok(())
    }

    /// One gauge for each endpoint of each pool that has the measure.
    fn gauge<V: EncodeGaugeValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        measure: impl Fn(&Endpoint) -> Option<V>,
    ) -> fmt::Result
    where
        ConstGauge<V>: EncodeMetric,
    {
        let snapshot = self.fleet.snapshot();
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (pool, endpoint) in endpoints(&snapshot) {
            if let Some(value) = measure(endpoint) {
                let labels = [("pool", pool.to_string()), ("endpoint", endpoint.address.to_string())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.fleet.snapshot();
        let decisions = self.counters.decisions.read();
        let help = "Requests that the endpoint was picked for.";
        let mut family = encoder.encode_descriptor("decisions", help, None, MetricType::Counter)?;
        for (pool, endpoint) in endpoints(&snapshot) {
            let count =
                decisions.get(&(pool.clone(), endpoint.address)).map_or(0, |count| count.load(Ordering::Relaxed));
            let labels = [("pool", pool.to_string()), ("endpoint", endpoint.address.to_string())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let failures = self.counters.scrape_failures.read();
        let help = "Scrapes of the engine's own metrics that failed.";
        let mut family = encoder.encode_descriptor("scrape_failures", help, None, MetricType::Counter)?;
        for (pool, endpoint) in endpoints(&snapshot) {
            let count = failures.get(&endpoint.address).map_or(0, |count| count.load(Ordering::Relaxed));
            let labels = [("pool", pool.to_string()), ("endpoint", endpoint.address.to_string())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn pools(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.fleet.snapshot();
        let help = "Endpoints of the pool that are ready, and that are not.";
        let mut family = encoder.encode_descriptor("pool_endpoints", help, None, MetricType::Gauge)?;
        for pool in snapshot.pools.values() {
            let ready = pool.endpoints.iter().filter(|endpoint| endpoint.ready).count();
            for (name, count) in [("true", ready), ("false", pool.endpoints.len() - ready)] {
                let labels = [("pool", pool.name.to_string()), ("ready", name.to_owned())];
                ConstGauge::new(u64::try_from(count).unwrap_or(u64::MAX)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn endpoints(snapshot: &scheduling::Snapshot) -> impl Iterator<Item = (&PoolName, &Arc<Endpoint>)> {
    snapshot.pools.values().flat_map(|pool| pool.all_endpoints().map(move |endpoint| (&pool.name, endpoint)))
}

impl Collector for FleetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let now = self.fleet.now();
        let help = "The version that runs; always 1.";
        let mut build = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_u64).encode(build.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)?;
        self.pools(encoder)?;
        self.counters(encoder)?;
        self.caches(encoder)?;
        self.gauge(
            encoder,
            "endpoint_in_flight_requests",
            "This picker's requests at the endpoint that have not ended.",
            |endpoint| Some(endpoint.load.requests()),
        )?;
        self.gauge(
            encoder,
            "scrape_age_seconds",
            "Time since the engine's own metrics were last read; absent before the first time.",
            |endpoint| endpoint.gauges.as_ref().map(|gauges| now.since(gauges.read_at).as_secs_f64()),
        )?;
        self.gauge(
            encoder,
            "endpoint_waiting_requests",
            "Requests that wait in the engine's queue, as last scraped.",
            |endpoint| endpoint.gauges.as_ref().map(|gauges| gauges.waiting),
        )?;
        self.gauge(
            encoder,
            "endpoint_running_requests",
            "Requests in the engine's batch, as last scraped.",
            |endpoint| endpoint.gauges.as_ref().map(|gauges| gauges.running),
        )?;
        self.gauge(
            encoder,
            "endpoint_kv_cache_usage_ratio",
            "Used share of the engine's KV cache, as last scraped.",
            |endpoint| endpoint.gauges.as_ref()?.kv_usage.filter(|usage| usage.is_finite()),
        )
    }
}
