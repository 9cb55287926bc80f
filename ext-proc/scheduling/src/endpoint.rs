//! One engine port of one pod, as the picker knows it at one moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::load::Load;
use crate::moment::Moment;

/// A small dense number for an endpoint, so that sets of endpoints can be bit sets.
///
/// Given by [`crate::State`], and given again to a newcomer once an endpoint has left and its
/// traces in the prefix index are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Which engine's metric names and API an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// `vLLM`, also what an endpoint is taken for that no ModelServer names.
    #[default]
    Vllm,
    /// `SGLang`.
    Sglang,
}

/// One (pod, port). Immutable: a change makes a new value in the next snapshot; only
/// [`Endpoint::load`] is live and shared between snapshots.
///
/// Every decision reads a thousand of these: what it reads comes first, in two cache lines.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Endpoint {
    /// What this picker has sent there and not yet seen finished.
    pub load: Arc<Load>,
    /// The dense number of this endpoint.
    pub slot: Slot,
    /// Whether the pod is ready and not being deleted.
    pub ready: bool,
    /// Which engine runs there.
    pub engine: EngineKind,
    /// The last successful reading of the engine's own metrics; `None` before the first.
    pub gauges: Option<Gauges>,
    /// Where Envoy sends the request.
    pub address: SocketAddr,
    /// `namespace/pod`.
    pub name: Arc<str>,
    /// The pod's labels.
    pub labels: Arc<BTreeMap<String, String>>,
}

/// What an engine said about itself in one scrape. In the order in which a decision wants it, as in
/// [`Endpoint`].
#[derive(Clone, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Gauges {
    /// When the scrape was answered.
    pub read_at: Moment,
    /// Requests in the engine's queue (`vllm:num_requests_waiting`, `sglang:num_queue_reqs`).
    pub waiting: u32,
    /// Requests in the engine's batch (`vllm:num_requests_running`, `sglang:num_running_reqs`).
    pub running: u32,
    /// This picker's own in-flight count at the moment of the scrape. What the engine reported
    /// beyond it is other pickers' work.
    pub in_flight_then: u32,
    /// Used share of the KV cache, 0..=1 (`vllm:kv_cache_usage_perc`, `sglang:token_usage`).
    pub kv_usage: Option<f64>,
    /// Mean time to first token between the last two scrapes that saw one.
    pub time_to_first_token: Option<Duration>,
    /// Mean time per output token between the last two scrapes that saw one.
    pub time_per_output_token: Option<Duration>,
    /// Prompt tokens computed between the last two scrapes, and the time that their requests spent in
    /// prefill (`vllm:prompt_tokens_total` without cache hits, `vllm:request_prefill_time_seconds`).
    pub prefilled: Option<(u64, Duration)>,
    /// Model ids that the engine serves (`/v1/models`), adapters included; `None` when unknown.
    pub models: Option<Arc<[Arc<str>]>>,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_a_decision_reads_of_an_endpoint_is_in_its_first_two_cache_lines() {
        let last = offset_of!(Endpoint, gauges) + offset_of!(Gauges, time_per_output_token);
        assert!(last + size_of::<Option<Duration>>() <= 128, "{last}");
    }
}
