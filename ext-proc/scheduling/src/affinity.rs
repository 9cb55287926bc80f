//! When a warm cache is worth waiting for, in milliseconds; one rule for `prefix-cache` and
//! `kvcache-aware`.
//!
//! ```text
//! queue(e) = prompt tokens in flight at e / its prefill rate + busy(e) · its time per output token
//! waits    = queue(warm) − queue(other)
//! saves    = prompt tokens that the warm one holds / prefill rate of the other
//! gate     = clamp(1 − (waits − saves) / patience, 0, 1)
//! ```
//!
//! *Other* is whichever candidate would be through with the prefix first if it held nothing. While the
//! warm endpoint waits no longer than the other one computes, affinity holds in full. Beyond that point
//! it would already be quicker elsewhere, but a second copy costs the fleet cache and work: affinity
//! yields by and by, over the time of `patienceTokens` of prefill. A running request delays others by
//! about a step of decoding; so one or two requests never outweigh a long prefix, and a crowd does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::endpoint::Endpoint;

/// How affinity is weighed against load: the arguments that both scorers have.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Patience {
    /// Tokens of prefill over whose time affinity yields. By default one full prefill batch, vLLM's
    /// usual `max-num-batched-tokens`: half a second at 16,000 tokens/s.
    pub(crate) tokens: u32,
    /// Tokens of prefill that a request in flight counts for; `None`: a step of decoding, as measured.
    pub(crate) per_request: Option<u32>,
}

/// The usual `patienceTokens`.
pub(crate) const PATIENCE_TOKENS: u32 = 8192;

/// Waiting at the warm endpoint against computing at another one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trade {
    /// Milliseconds that the warm endpoint's queue is longer; negative where it is shorter.
    pub waits_ms: f32,
    /// Milliseconds that the other one needs for what the warm one holds.
    pub saves_ms: f32,
}

/// `waits 120 ms more, saves 80 ms`.
impl fmt::Display for Trade {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waits_ms, saves_ms } = self;
        write!(formatter, "waits {waits_ms:.0} ms more, saves {saves_ms:.0} ms")
    }
}

/// The candidates' queues, compared.
#[derive(Debug)]
pub(crate) struct Weighing<'a> {
    patience: Patience,
    /// Those of whom no other has both a shorter queue and a better rate: the rest is nobody's choice.
    others: Vec<Other<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Other<'a> {
    endpoint: &'a Endpoint,
    queue_ms: f32,
    token_ms: f32,
}

impl Other<'_> {
    /// When it would be through with so many tokens.
    fn through_ms(&self, tokens: f32) -> f32 {
        self.queue_ms + self.token_ms * tokens
    }
}

impl<'a> Weighing<'a> {
    pub(crate) fn of<'c>(candidates: impl IntoIterator<Item = &'c Candidate<'a>>, patience: Patience) -> Self
    where
        'a: 'c,
    {
        let mut others: Vec<Other<'a>> = Vec::new();
        for candidate in candidates {
            let Candidate { endpoint, token_ms, .. } = *candidate;
            let new = Other { endpoint, queue_ms: queue_ms(candidate, patience), token_ms };
            let beats =
                |one: &Other<'_>, other: &Other<'_>| one.queue_ms <= other.queue_ms && one.token_ms <= other.token_ms;
            if !others.iter().any(|other| beats(other, &new)) {
                others.retain(|other| !beats(&new, other));
                others.push(new);
            }
        }
        Self { patience, others }
    }

    /// What is won and lost by going where `tokens` of the prompt are held. Nothing, where every other
    /// candidate has both a longer queue and a worse rate.
    pub(crate) fn trade(&self, warm: &Candidate<'_>, tokens: f32) -> Trade {
        let others = self.others.iter().filter(|other| !std::ptr::eq(other.endpoint, warm.endpoint));
        let first = others.min_by(|one, other| one.through_ms(tokens).total_cmp(&other.through_ms(tokens)));
        first.map_or(Trade::default(), |other| Trade {
            waits_ms: queue_ms(warm, self.patience) - other.queue_ms,
            saves_ms: other.token_ms * tokens,
        })
    }

    /// How much of the affinity holds, 0..=1.
    pub(crate) fn gate(&self, warm: &Candidate<'_>, tokens: f32) -> f32 {
        let Trade { waits_ms, saves_ms } = self.trade(warm, tokens);
        (1.0 - (waits_ms - saves_ms) / (warm.token_ms * self.patience.tokens as f32)).clamp(0.0, 1.0)
    }
}

fn queue_ms(candidate: &Candidate<'_>, patience: Patience) -> f32 {
    let Candidate { token_ms, step_ms, uncached_tokens, busy, .. } = *candidate;
    let each = patience.per_request.map_or(step_ms, |tokens| token_ms * tokens as f32);
    token_ms * uncached_tokens as f32 + each * busy
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::endpoint::{EngineKind, Slot};
    use crate::fixtures::address;
    use crate::{Load, Moment};

    const PATIENCE: Patience = Patience { tokens: PATIENCE_TOKENS, per_request: None };

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            address: address(number),
            slot: Slot(number as u32),
            name: format!("default/pod-{number}").into(),
            labels: Arc::default(),
            ready: true,
            engine: EngineKind::Vllm,
            gauges: None,
            load: Arc::new(Load::default()),
        }
    }

    /// One that computes so many tokens a second.
    fn learned(number: usize, prefill: u64) -> Endpoint {
        let endpoint = endpoint(number);
        (0..100).for_each(|_| endpoint.load.rates().observe_prefill(prefill, Duration::from_secs(1)));
        endpoint
    }

    fn trade(endpoints: &[Endpoint], tokens: f32) -> (Trade, f32) {
        let candidates: Vec<_> = endpoints.iter().map(|endpoint| Candidate::new(endpoint, Moment::START, 0)).collect();
        let weighing = Weighing::of(&candidates, PATIENCE);
        (weighing.trade(&candidates[0], tokens), weighing.gate(&candidates[0], tokens))
    }

    #[test]
    fn what_is_queued_and_what_is_saved_are_told_in_milliseconds() {
        let endpoints = [endpoint(0), endpoint(1)];
        let _queued = endpoints[0].load.begin(1_408);
        let (trade, gate) = trade(&endpoints, 1_280.0);
        assert_eq!(trade.to_string(), "waits 120 ms more, saves 80 ms");
        assert!((gate - (1.0 - 40.0 / 512.0)).abs() < 1e-4, "{gate}");
    }

    #[test]
    fn waiting_pays_longer_where_the_cold_endpoint_is_slow() {
        let fast = [endpoint(0), learned(1, 16_000)];
        let slow = [endpoint(0), learned(1, 1_600)];
        for endpoints in [&fast, &slow] {
            let _queued = endpoints[0].load.begin(12_000);
            let (trade, gate) = trade(endpoints, 3_200.0);
            let saves = if std::ptr::eq(endpoints, &slow) { 2_000.0 } else { 200.0 };
            assert!((trade.saves_ms - saves).abs() < 1.0, "{trade}");
            assert_eq!(gate > 0.99, saves > 1_000.0, "{gate}");
        }
    }

    #[test]
    fn the_other_is_the_one_that_would_be_through_first() {
        // One is idle and slow, one is fast and has some work: 1000 ms, or 250 + 32 + 100 ms.
        let endpoints = [endpoint(0), learned(1, 1_600), learned(2, 16_000)];
        let _much = endpoints[0].load.begin(20_000);
        let _some = endpoints[2].load.begin(4_000);
        let (trade, _) = trade(&endpoints, 1_600.0);
        assert!((trade.saves_ms - 100.0).abs() < 1.0 && (trade.waits_ms - 1000.0).abs() < 1.0, "{trade}");
    }

    #[test]
    fn alone_there_is_nothing_to_yield_to() {
        let endpoints = [endpoint(0)];
        let _queued = endpoints[0].load.begin(1_000_000);
        assert_eq!(trade(&endpoints, 16.0).1, 1.0);
    }
}
