//! One endpoint as the scorers see it: the exact local count joined with the engine's own gauges.
//!
//! ```text
//! stated = max(0, running + waiting − in_flight_then)
//! others = stated · freshness + (the candidates' median of stated) · (1 − freshness)
//! busy   = in_flight + others
//!        + (WAITING_WEIGHT − 1) · min(waiting · freshness, in_flight + stated · freshness)
//! ```
//!
//! `in_flight` is live and exact but knows only this picker; the gauges know everybody's requests
//! but are as old as the last scrape. Counting both would count our own requests twice, so a scrape
//! carries our count at its moment and only the rest is taken for others' work. What a scrape said
//! fades with its age: after a failed scrape an endpoint is neither busy nor idle for ever. In its place
//! comes what is usual among the others, from the beginning for one that was never scraped: not to know
//! of any work is not to be idle, and must not draw requests to an endpoint that does not even answer.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::{Endpoint, Gauges};
use crate::kv::Held;
use crate::moment::Moment;
use crate::prefix::Matched;

/// Up to this age a scrape is taken at its word.
const FRESH: Duration = Duration::from_secs(2);
/// From this age on a scrape says nothing any more.
const STALE: Duration = Duration::from_secs(10);
/// A request in the engine's queue is so many times a request in its batch: an engine batches what
/// it runs, so only a queue tells that it cannot keep up.
const WAITING_WEIGHT: f32 = 4.0;
/// Endpoints that are fetched into the processor's cache together: few enough to stay in its first level.
const FETCHED: usize = 64;

/// One endpoint, all that is live or far away read once.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) endpoint: &'a Endpoint,
    /// Its pod is ready and not being deleted.
    pub(crate) ready: bool,
    /// Requests in the engine's queue by the gauges; 0 where there are none, or stale ones.
    pub(crate) waiting: u32,
    /// The gauges' used share of the KV cache, 0..=1.
    pub(crate) kv_usage: Option<f32>,
    /// The gauges' time to first token in seconds.
    pub(crate) first_token: Option<f32>,
    /// The gauges' time per output token in seconds.
    pub(crate) next_token: Option<f32>,
    /// This picker's requests in flight.
    pub(crate) in_flight: u32,
    /// Everybody's requests, queued ones weighing more; see the module's formula.
    pub(crate) busy: f32,
    /// Others' requests by the last scrape, however old; nothing without one.
    stated: f32,
    /// How much that still says, 0..=1.
    freshness: f32,
    /// It fails what it is sent.
    pub(crate) outlier: bool,
    /// Prompt tokens in flight that the endpoint has to compute.
    pub(crate) uncached_tokens: u64,
    /// Leading blocks of the prompt that the endpoint probably holds.
    pub(crate) matched_blocks: u32,
    /// Leading tokens that it holds by its own account; `None` where there is no exact measure.
    pub(crate) held: Option<Held>,
    /// Milliseconds in which it computes a prompt token.
    pub(crate) token_ms: f32,
    /// Milliseconds of a step of decoding.
    pub(crate) step_ms: f32,
}

impl<'a> Candidate<'a> {
    /// One for each of the endpoints, in their order.
    pub(crate) fn all(endpoints: &'a [Arc<Endpoint>], now: Moment, matched: &Matched) -> Vec<Self> {
        let mut candidates = Vec::with_capacity(endpoints.len());
        for endpoints in endpoints.chunks(FETCHED) {
            // Of a thousand endpoints none is in the first cache. A loop that does nothing else waits for many
            // at once, where a candidate is long enough to wait for each alone.
            black_box(endpoints.iter().fold(0, |any, endpoint| any | endpoint.load.requests()));
            let new = |endpoint: &'a Arc<Endpoint>| Self::new(endpoint, now, matched.of(endpoint.slot));
            candidates.extend(endpoints.iter().map(new));
        }
        candidates
    }

    /// Inlined, so that a thousand are written where they stay.
    #[inline]
    pub(crate) fn new(endpoint: &'a Endpoint, now: Moment, matched_blocks: u32) -> Self {
        let in_flight = endpoint.load.requests();
        let speed = endpoint.load.rates().speed();
        let age = |gauges: &Gauges| now.since(gauges.read_at);
        let gauges = endpoint.gauges.as_ref().filter(|gauges| age(gauges) < STALE);
        let mut busy = in_flight as f32;
        let (mut stated, mut fresh) = (0.0, 0.0);
        if let Some(gauges) = gauges {
            fresh = freshness(age(gauges));
            let reported = gauges.running.saturating_add(gauges.waiting);
            stated = reported.saturating_sub(gauges.in_flight_then) as f32;
            busy += stated * fresh;
            busy += (WAITING_WEIGHT - 1.0) * (gauges.waiting as f32 * fresh).min(busy);
        }
        Self {
            endpoint,
            ready: endpoint.ready,
            waiting: gauges.map_or(0, |gauges| gauges.waiting),
            kv_usage: gauges.and_then(|gauges| gauges.kv_usage).map(|used| used as f32),
            first_token: gauges.and_then(|gauges| seconds(gauges.time_to_first_token)),
            next_token: gauges.and_then(|gauges| seconds(gauges.time_per_output_token)),
            in_flight,
            busy,
            stated,
            freshness: fresh,
            outlier: endpoint.load.is_outlier(now),
            uncached_tokens: endpoint.load.uncached_tokens(),
            matched_blocks,
            held: None,
            token_ms: speed.token_ms(),
            step_ms: speed.step_ms(),
        }
    }
}

/// Adds to each candidate what is not known of it, as much as is usual among those that are known.
pub(crate) fn assume_the_unknown(candidates: &mut [Candidate<'_>]) {
    // Under load every endpoint is scraped so often that this is all.
    if candidates.iter().all(|candidate| candidate.freshness >= 1.0) {
        return;
    }
    let known = candidates.iter().filter(|candidate| candidate.freshness > 0.0);
    let Some(usual) = median(known.map(|candidate| candidate.stated).collect()) else { return };
    for candidate in candidates {
        candidate.busy += usual * (1.0 - candidate.freshness);
    }
}

fn median(mut values: Vec<f32>) -> Option<f32> {
    let (middle, even) = (values.len() / 2, values.len().is_multiple_of(2));
    if values.is_empty() {
        return None;
    }
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let lower = below.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    Some(if even { f32::midpoint(lower, *upper) } else { *upper })
}

/// Zero is no measure: engines report it before their first request.
fn seconds(time: Option<Duration>) -> Option<f32> {
    // Not `as_secs_f32`, which divides: this is asked twice of every endpoint for every request.
    let seconds = |time: Duration| time.as_secs() as f32 + time.subsec_nanos() as f32 * 1e-9;
    time.map(seconds).filter(|seconds| *seconds > 0.0)
}

fn freshness(age: Duration) -> f32 {
    if age <= FRESH {
        return 1.0;
    }
    STALE.saturating_sub(age).as_secs_f32() / (STALE - FRESH).as_secs_f32()
}

/// What a request asks of every endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// Blocks of the prompt that were hashed.
    pub(crate) blocks: u32,
    /// Bytes in a block.
    pub(crate) block_bytes: usize,
    /// Bytes of the whole prompt.
    pub(crate) prompt_bytes: usize,
    /// Tokens of the whole prompt, and how many of them whole blocks were looked up for; `None` where
    /// there is no exact measure.
    pub(crate) tokens: Option<(u32, u32)>,
}

impl Demand {
    /// Estimated prompt tokens in the first `matched` blocks.
    pub(crate) fn cached_tokens(&self, matched: u32) -> u32 {
        tokens(self.cached_bytes(matched))
    }

    /// Estimated prompt tokens after the first `matched` blocks. What was not hashed counts as not
    /// cached: nothing is known of it.
    pub(crate) fn uncached_tokens(&self, matched: u32) -> u32 {
        tokens(self.prompt_bytes - self.cached_bytes(matched))
    }

    /// Prompt tokens that an endpoint has to compute which holds this much: exactly where that is known,
    /// else estimated.
    pub(crate) fn missing_tokens(&self, matched_blocks: u32, held_tokens: Option<u32>) -> u32 {
        match (self.tokens, held_tokens) {
            (Some((tokens, _)), Some(held)) => tokens.saturating_sub(held),
            (Some((tokens, _)), None) => tokens,
            (None, _) => self.uncached_tokens(matched_blocks),
        }
    }

    fn cached_bytes(&self, matched: u32) -> usize {
        (matched as usize).saturating_mul(self.block_bytes).min(self.prompt_bytes)
    }
}

/// Four bytes a token, rounded up, as [`crate::Prompt::estimated_tokens`].
fn tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{EngineKind, Slot};
    use crate::load::Load;

    fn endpoint(gauges: Gauges) -> Endpoint {
        Endpoint {
            address: "10.0.0.1:8000".parse().unwrap(),
            slot: Slot(0),
            name: "default/a".into(),
            labels: Arc::default(),
            ready: true,
            engine: EngineKind::Vllm,
            gauges: Some(gauges),
            load: Arc::new(Load::default()),
        }
    }

    fn busy(endpoint: &Endpoint, seconds: u64) -> f32 {
        Candidate::new(endpoint, Moment::after(Duration::from_secs(seconds)), 0).busy
    }

    fn busy_together(endpoints: &[Endpoint], seconds: u64) -> Vec<f32> {
        let now = Moment::after(Duration::from_secs(seconds));
        let mut candidates: Vec<_> = endpoints.iter().map(|endpoint| Candidate::new(endpoint, now, 0)).collect();
        assume_the_unknown(&mut candidates);
        candidates.iter().map(|candidate| candidate.busy).collect()
    }

    #[test]
    fn an_endpoint_that_was_never_scraped_is_as_busy_as_is_usual() {
        let running = |running| endpoint(Gauges { running, ..Gauges::default() });
        let never = || Endpoint { gauges: None, ..running(0) };
        let own = never();
        let _own = own.load.begin(0);
        assert_eq!(busy_together(&[running(1), running(9), running(2), never(), own], 0), [1.0, 9.0, 2.0, 2.0, 3.0]);
        assert_eq!(busy_together(&[running(1), never(), running(4)], 0), [1.0, 2.5, 4.0]);
        assert_eq!(busy_together(&[never(), never()], 0), [0.0, 0.0], "nothing is known of anybody");
    }

    #[test]
    fn what_fades_gives_way_to_what_is_usual() {
        let at = |read_at, running| {
            let read_at = Moment::after(Duration::from_secs(read_at));
            endpoint(Gauges { read_at, running, ..Gauges::default() })
        };
        let fleet = [at(10, 4), at(10, 4), at(4, 0), at(4, 8), at(0, 50)];
        assert_eq!(busy_together(&fleet, 10), [4.0, 4.0, 2.0, 6.0, 4.0]);
    }

    #[test]
    fn our_own_requests_are_not_counted_twice() {
        let endpoint = endpoint(Gauges { running: 5, in_flight_then: 3, ..Gauges::default() });
        let _own: Vec<_> = (0..3).map(|_| endpoint.load.begin(0)).collect();
        assert_eq!(busy(&endpoint, 0), 5.0);
    }

    #[test]
    fn a_request_that_has_ended_since_the_scrape_no_longer_counts() {
        let endpoint = endpoint(Gauges { running: 2, waiting: 2, in_flight_then: 4, ..Gauges::default() });
        assert_eq!(busy(&endpoint, 0), 0.0);
    }

    #[test]
    fn waiting_weighs_more_than_running() {
        let running = endpoint(Gauges { running: 2, ..Gauges::default() });
        let waiting = endpoint(Gauges { running: 1, waiting: 1, ..Gauges::default() });
        assert!(busy(&waiting, 0) > busy(&running, 0));
    }

    #[test]
    fn what_a_scrape_said_fades_and_is_forgotten() {
        let endpoint = endpoint(Gauges { running: 8, ..Gauges::default() });
        assert_eq!(busy(&endpoint, 2), 8.0);
        assert_eq!(busy(&endpoint, 6), 4.0);
        assert_eq!(busy(&endpoint, 10), 0.0);
        let full = self::endpoint(Gauges { waiting: 10, kv_usage: Some(0.5), ..Gauges::default() });
        let read = |now| {
            let candidate = Candidate::new(&full, now, 0);
            (candidate.waiting, candidate.kv_usage)
        };
        assert_eq!((read(Moment::START), read(Moment::after(STALE))), ((10, Some(0.5)), (0, None)));
    }
}
