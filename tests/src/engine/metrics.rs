//! `/metrics` in the names and types of vLLM 0.32.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::State;
use super::histogram::Histogram;

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const INTER_TOKEN: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];

/// The times of one completion.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) model: String,
    pub(super) arrived: Instant,
    pub(super) scheduled: Option<Instant>,
    pub(super) first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub(super) ended: Option<Instant>,
    pub(super) prompt_tokens: usize,
    pub(super) cached_tokens: usize,
    pub(super) tokens: u64,
    intervals: Vec<Duration>,
    pub(super) reason: &'static str,
}

impl Finished {
    pub(super) fn new(arrived: Instant, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            arrived,
            scheduled: None,
            first_token: None,
            last_token: None,
            ended: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            tokens: 0,
            intervals: Vec::new(),
            reason: "error",
        }
    }

    pub(super) fn scheduled(&mut self) {
        self.scheduled = Some(Instant::now());
    }

    pub(super) fn prompt(&mut self, tokens: usize, cached: usize) {
        (self.prompt_tokens, self.cached_tokens) = (tokens, cached);
    }

    pub(super) fn token(&mut self) {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.intervals.extend(self.last_token.map(|last| now - last));
        self.last_token = Some(now);
        self.tokens += 1;
    }

    pub(super) fn end(&mut self, reason: &'static str) {
        self.reason = reason;
        self.ended = Some(Instant::now());
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) prefix_queries: u64,
    pub(super) prefix_hits: u64,
    prompt_tokens: u64,
    fetched_tokens: u64,
    generation_tokens: u64,
    finished: BTreeMap<&'static str, u64>,
    held_blocks: Arc<AtomicUsize>,
    adapters: BTreeMap<String, Arc<AtomicUsize>>,
    first_token: Histogram,
    inter_token: Histogram,
    queue: Histogram,
    prefill: Histogram,
    request: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            prefix_queries: 0,
            prefix_hits: 0,
            prompt_tokens: 0,
            fetched_tokens: 0,
            generation_tokens: 0,
            finished: ["stop", "length", "abort", "error"].map(|reason| (reason, 0)).into(),
            held_blocks: Arc::default(),
            adapters: BTreeMap::new(),
            first_token: Histogram::new(
                "vllm:time_to_first_token_seconds",
                "Histogram of time to first token in seconds.",
                FIRST_TOKEN,
            ),
            inter_token: Histogram::new(
                "vllm:inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds.",
                INTER_TOKEN,
            ),
            queue: Histogram::new(
                "vllm:request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request.",
                REQUEST,
            ),
            prefill: Histogram::new(
                "vllm:request_prefill_time_seconds",
                "Histogram of time spent in PREFILL phase for request.",
                REQUEST,
            ),
            request: Histogram::new(
                "vllm:e2e_request_latency_seconds",
                "Histogram of e2e request latency in seconds.",
                REQUEST,
            ),
        }
    }
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>, usize);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>, count: usize) -> Self {
        counter.fetch_add(count, Ordering::Relaxed);
        Self(Arc::clone(counter), count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// A prompt came in, of which `cached` tokens were here and `fetched` came from another engine.
    pub(super) fn prompt(&mut self, tokens: usize, cached: usize, fetched: usize) {
        self.fetched_tokens += fetched as u64;
        self.prefix_queries += tokens as u64;
        self.prefix_hits += cached as u64;
        self.prompt_tokens += tokens as u64;
    }

    /// Blocks that a request holds while it is in the batch.
    pub(super) fn hold(&self, blocks: usize) -> Counted {
        Counted::new(&self.held_blocks, blocks)
    }

    /// A request for an adapter.
    pub(super) fn adapter_waits(&mut self, adapter: &str) -> Counted {
        Counted::new(self.adapters.entry(adapter.to_owned()).or_default(), 1)
    }

    pub(super) fn finished(&mut self, finished: &Finished) {
        *self.finished.entry(finished.reason).or_default() += 1;
        self.generation_tokens += finished.tokens;
        if let Some(first) = finished.first_token {
            self.first_token.observe(first - finished.arrived);
            if let Some(scheduled) = finished.scheduled {
                self.prefill.observe(first.saturating_duration_since(scheduled));
            }
        }
        for &interval in &finished.intervals {
            self.inter_token.observe(interval);
        }
        if let (Some(scheduled), Some(ended)) = (finished.scheduled, finished.ended) {
            self.queue.observe(scheduled - finished.arrived);
            self.request.observe(ended - finished.arrived);
        }
    }

    pub(super) fn text(&self, state: &State) -> String {
        let labels = format!("engine=\"0\",model_name=\"{}\"", state.config.model);
        let mut text = String::new();
        let mut one = |kind: &str, name: &str, help: &str, value: f64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value:?}");
        };
        #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
        {
            let held = self.held_blocks.load(Ordering::Relaxed) as f64;
            let usage = (held / state.config.cache_blocks as f64).min(1.0);
            one(
                "gauge",
                "vllm:num_requests_running",
                "Number of requests in model execution batches.",
                state.batch.running() as f64,
            );
            one(
                "gauge",
                "vllm:num_requests_waiting",
                "Number of requests waiting to be processed.",
                state.batch.waiting() as f64,
            );
            one("gauge", "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage);
            one(
                "counter",
                "vllm:prefix_cache_queries_total",
                "Prefix cache queries, in terms of number of queried tokens.",
                self.prefix_queries as f64,
            );
            one(
                "counter",
                "vllm:prefix_cache_hits_total",
                "Prefix cache hits, in terms of number of cached tokens.",
                self.prefix_hits as f64,
            );
            one(
                "counter",
                "vllm:external_prefix_cache_queries_total",
                "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.",
                (self.prefix_queries - self.prefix_hits) as f64,
            );
            one(
                "counter",
                "vllm:external_prefix_cache_hits_total",
                "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.",
                self.fetched_tokens as f64,
            );
            one(
                "counter",
                "vllm:prompt_tokens_total",
                "Number of prefill tokens processed.",
                self.prompt_tokens as f64,
            );
            one(
                "counter",
                "vllm:generation_tokens_total",
                "Number of generation tokens processed.",
                self.generation_tokens as f64,
            );
            one("counter", "vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", 0.0);
        }
        let name = "vllm:prompt_tokens_by_source_total";
        let _ = writeln!(text, "# HELP {name} Number of prompt tokens by source.\n# TYPE {name} counter");
        let computed = self.prompt_tokens - self.prefix_hits - self.fetched_tokens;
        let sources = [
            ("local_compute", computed),
            ("local_cache_hit", self.prefix_hits),
            ("external_kv_transfer", self.fetched_tokens),
        ];
        for (source, tokens) in sources {
            let _ = writeln!(
                text,
                "{name}{{engine=\"0\",model_name=\"{}\",source=\"{source}\"}} {tokens}.0",
                state.config.model
            );
        }
        let name = "vllm:request_success_total";
        let _ = writeln!(text, "# HELP {name} Count of successfully processed requests.\n# TYPE {name} counter");
        for (reason, count) in &self.finished {
            let _ = writeln!(
                text,
                "{name}{{engine=\"0\",finished_reason=\"{reason}\",model_name=\"{}\"}} {count}.0",
                state.config.model
            );
        }
        for histogram in [&self.first_token, &self.inter_token, &self.queue, &self.prefill, &self.request] {
            histogram.write(&labels, &mut text);
        }
        let name = "vllm:cache_config_info";
        let _ = writeln!(
            text,
            "# HELP {name} Information of the LLMEngine CacheConfig\n# TYPE {name} gauge\n\
             {name}{{block_size=\"{}\",engine=\"0\",enable_prefix_caching=\"True\",num_gpu_blocks=\"{}\"}} 1.0",
            state.config.block_tokens, state.config.cache_blocks,
        );
        if !state.config.adapters.is_empty() {
            self.write_adapters(state.config.max_adapters, &mut text);
        }
        text
    }

    /// As vLLM: the value is the time, and neither model nor engine is a label.
    fn write_adapters(&self, max: usize, text: &mut String) {
        let busy = self.adapters.iter().filter(|(_, requests)| requests.load(Ordering::Relaxed) > 0);
        let names = busy.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let name = "vllm:lora_requests_info";
        let _ = writeln!(
            text,
            "# HELP {name} Running stats on lora requests.\n# TYPE {name} gauge\n\
             {name}{{max_lora=\"{max}\",running_lora_adapters=\"{names}\",waiting_lora_adapters=\"\"}} {now:?}",
        );
    }
}
