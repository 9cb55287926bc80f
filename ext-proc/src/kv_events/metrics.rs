//! What is counted of KV events, and where each rank stands.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use scheduling::kv::{Applied, KvEvent};

use super::decode::Batch;
use super::sequence::Cause;
use crate::metrics::begin;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplayLabels {
    cause: &'static str,
    outcome: &'static str,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Complete,
    /// The engine did not answer, or broke off.
    Failed,
    /// There is no port for it, or there were too many in a short time.
    Refused,
    /// Another was wanted before it ended.
    Superseded,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Complete, Self::Failed, Self::Refused, Self::Superseded];

    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
        }
    }
}

/// Counters of all ranks together, and the state of each.
#[derive(Debug)]
pub struct KvMetrics {
    events: Family<TypeLabels, Counter>,
    blocks_dropped: Family<TypeLabels, Counter>,
    replays: Family<ReplayLabels, Counter>,
    unreadable: Counter,
    forgotten: Counter,
    ranks: RwLock<BTreeMap<(SocketAddr, u32), Arc<RankState>>>,
}

/// Where one rank stands.
#[derive(Debug)]
pub struct RankState {
    connected: AtomicBool,
    next: AtomicU64,
    /// In microseconds; the least value before the first batch.
    lag: AtomicI64,
}

impl Default for RankState {
    fn default() -> Self {
        Self { connected: AtomicBool::new(false), next: AtomicU64::new(0), lag: AtomicI64::new(i64::MIN) }
    }
}

impl RankState {
    pub(super) fn connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn at(&self, next: Option<u64>) {
        self.next.store(next.unwrap_or_default(), Ordering::Relaxed);
    }

    /// A batch was taken in that was so old by then.
    pub fn heard(&self, lag_seconds: f64) {
        self.lag.store((lag_seconds * 1e6) as i64, Ordering::Relaxed);
    }

    /// Whether its events are heard.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// The number of the batch that is expected next.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// How old the last batch was when it was taken in, by the engine's clock and ours, in seconds; `None`
    /// before the first.
    #[must_use]
    pub fn lag_seconds(&self) -> Option<f64> {
        let lag = self.lag.load(Ordering::Relaxed);
        (lag != i64::MIN).then_some(lag.max(0) as f64 / 1e6)
    }
}

impl Default for KvMetrics {
    fn default() -> Self {
        let (events, blocks_dropped, replays) = (Family::default(), Family::default(), Family::default());
        let types = ["stored", "removed", "cleared", "unknown", "partial", "ambiguous"];
        begin(&events, types.map(|r#type| TypeLabels { r#type }));
        begin(&blocks_dropped, ["unknown_parent", "malformed", "over_capacity"].map(|r#type| TypeLabels { r#type }));
        for cause in Cause::ALL.map(Cause::name) {
            begin(&replays, Outcome::ALL.map(|outcome| ReplayLabels { cause, outcome: outcome.name() }));
        }
        Self {
            events,
            blocks_dropped,
            replays,
            unreadable: Counter::default(),
            forgotten: Counter::default(),
            ranks: RwLock::default(),
        }
    }
}

impl KvMetrics {
    /// Puts the counters into the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kv_events",
            "KV events of engines by type; unknown, partial and ambiguous ones were left out",
            self.events.clone(),
        );
        registry.register(
            "kv_blocks_dropped",
            "Stored blocks that were not believed, by what was wrong with them",
            self.blocks_dropped.clone(),
        );
        registry.register(
            "kv_replays",
            "Times that an engine was asked to repeat its KV events, by why and how it ended",
            self.replays.clone(),
        );
        registry.register(
            "kv_batches_unreadable",
            "Batches of KV events that could not be read",
            self.unreadable.clone(),
        );
        registry.register(
            "kv_forgotten",
            "Times that all blocks of a rank were forgotten because it could have dropped some unheard",
            self.forgotten.clone(),
        );
    }

    /// Each followed rank of each endpoint.
    #[must_use]
    pub fn ranks(&self) -> BTreeMap<(SocketAddr, u32), Arc<RankState>> {
        self.ranks.read().clone()
    }

    /// Where this rank stands, from now on among [`ranks`](Self::ranks).
    pub fn follow(&self, address: SocketAddr, rank: u32) -> Arc<RankState> {
        let state = Arc::<RankState>::default();
        self.ranks.write().insert((address, rank), Arc::clone(&state));
        state
    }

    pub(super) fn leave(&self, address: SocketAddr, rank: u32) {
        self.ranks.write().remove(&(address, rank));
    }

    pub(super) fn applied(&self, batch: &Batch, applied: Applied) {
        let count = |family: &Family<TypeLabels, Counter>, name: &'static str, count: usize| {
            if count > 0 {
                family.get_or_create(&TypeLabels { r#type: name }).inc_by(count as u64);
            }
        };
        for event in &batch.events {
            let name = match event {
                KvEvent::Stored { .. } => "stored",
                KvEvent::Removed { .. } => "removed",
                KvEvent::Cleared => "cleared",
            };
            count(&self.events, name, 1);
        }
        let skipped = batch.skipped;
        for (name, number) in
            [("unknown", skipped.unknown), ("partial", skipped.partial), ("ambiguous", skipped.ambiguous)]
        {
            count(&self.events, name, number as usize);
        }
        for (name, number) in [
            ("unknown_parent", applied.unknown_parent),
            ("malformed", applied.malformed),
            ("over_capacity", applied.over_capacity),
        ] {
            count(&self.blocks_dropped, name, number);
        }
    }

    pub(super) fn replayed(&self, cause: Cause, outcome: Outcome) {
        self.replays.get_or_create(&ReplayLabels { cause: cause.name(), outcome: outcome.name() }).inc();
    }

    pub(super) fn unreadable(&self) {
        self.unreadable.inc();
    }

    pub(super) fn forgotten(&self) {
        self.forgotten.inc();
    }
}
