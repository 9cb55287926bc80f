//! What a simulated engine is like.

use std::net::SocketAddr;
use std::time::Duration;

/// What a simulated engine is like.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where to listen; port 0 is chosen by the system.
    pub address: SocketAddr,
    /// The model it serves.
    pub model: String,
    /// LoRA adapters on top of the model.
    pub adapters: Vec<String>,
    /// Adapters that fit into one batch (`max_lora`).
    pub max_adapters: usize,
    /// Tokens in a block of the prefix cache.
    pub block_tokens: usize,
    /// Blocks in the prefix cache, the least recently used leave first.
    pub cache_blocks: usize,
    /// Data-parallel ranks, each with a prefix cache of its own; `X-data-parallel-rank` chooses one.
    pub ranks: u16,
    /// Tokens of an answer when the request names no maximum.
    pub default_max_tokens: u32,
    /// How long things take.
    pub timing: Timing,
    /// How long blocks are kept for a decode engine (vLLM's `kv_lease_duration`).
    pub kv_lease: Duration,
    /// Where spans are exported to (OTLP over gRPC); nowhere by default.
    pub traces: Option<SocketAddr>,
}

impl EngineConfig {
    /// An engine for `model` that takes no time, on a port of 127.0.0.1 that the system chooses.
    #[must_use]
    pub fn instant(model: &str) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: model.to_owned(),
            adapters: Vec::new(),
            max_adapters: 4,
            block_tokens: 16,
            cache_blocks: 4096,
            ranks: 1,
            default_max_tokens: 8,
            timing: Timing { scale: 0.0, ..Timing::default() },
            kv_lease: Duration::from_secs(30),
            traces: None,
        }
    }

    /// An engine for `model` with the times of a middling GPU, each multiplied by `scale`.
    #[must_use]
    pub fn timed(model: &str, scale: f64) -> Self {
        Self { timing: Timing { scale, ..Timing::default() }, ..Self::instant(model) }
    }

    /// Adds LoRA adapters.
    #[must_use]
    pub fn adapters(mut self, adapters: &[&str]) -> Self {
        self.adapters = adapters.iter().map(|&adapter| adapter.to_owned()).collect();
        self
    }

    /// Exports spans to the sink at `address`.
    #[must_use]
    pub fn traces(mut self, address: SocketAddr) -> Self {
        self.traces = Some(address);
        self
    }
}

/// How long things take: prefills one after the other, decodes together in a batch.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Prompt tokens, not in the cache, that are computed in a second.
    pub prefill_tokens_per_second: f64,
    /// Between two tokens of a request that is alone in the batch.
    pub token_interval: Duration,
    /// What each further request in the batch adds to that.
    pub interval_per_request: Duration,
    /// Requests in the batch; more wait in the queue.
    pub max_running: usize,
    /// All times are multiplied by this; 0 takes no time.
    pub scale: f64,
}

impl Default for Timing {
    /// Roughly an 8B model on a data-centre GPU.
    fn default() -> Self {
        Self {
            prefill_tokens_per_second: 8_000.0,
            token_interval: Duration::from_millis(12),
            interval_per_request: Duration::from_micros(300),
            max_running: 64,
            scale: 1.0,
        }
    }
}
