//! How fast an endpoint works, learned while it works: what turns queued tokens into milliseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Prompt tokens a second before anything was observed: what llm-d measured for its "sticky until
/// saturated" filter.
const PRIOR_PREFILL: f32 = 16_000.0;
/// Seconds for an output token before anything was observed. As long as 512 tokens of prefill by the
/// other prior.
const PRIOR_STEP: f32 = 0.032;
/// Tokens a second that are believed: from a small model on a processor to a large one's best prefill.
const PREFILL: std::ops::RangeInclusive<f32> = 200.0..=400_000.0;
/// Seconds for an output token that are believed.
const STEP: std::ops::RangeInclusive<f32> = 0.001..=1.0;
/// What an observation adds to the mean: after ten, the prior has a ninth of its say.
const WEIGHT: f32 = 0.2;
/// Prefills of fewer tokens are no measure: their time is the request's way, not the computing.
const LEAST_TOKENS: u64 = 256;

/// The rates of one endpoint, as exponentially weighted means. Live; readers and writers never wait.
#[derive(Debug, Default)]
pub struct Rates {
    /// Two `f32`, tokens a second of prefill and seconds for an output token; 0 before an observation.
    both: AtomicU64,
}

/// The rates at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Prompt tokens computed in a second.
    pub prefill: f32,
    /// Seconds for an output token: as long as a step takes in which all running requests have one.
    pub step: f32,
}

impl Default for Speed {
    fn default() -> Self {
        Self { prefill: PRIOR_PREFILL, step: PRIOR_STEP }
    }
}

impl Speed {
    /// Milliseconds to compute a prompt token.
    #[must_use]
    pub fn token_ms(&self) -> f32 {
        1000.0 / self.prefill
    }

    /// Milliseconds of a step.
    #[must_use]
    pub fn step_ms(&self) -> f32 {
        1000.0 * self.step
    }
}

impl Rates {
    /// What was learned; the prior where nothing was.
    #[must_use]
    pub fn speed(&self) -> Speed {
        let (prefill, step) = unpack(self.both.load(Ordering::Relaxed));
        let prior = Speed::default();
        Speed {
            prefill: if prefill > 0.0 { prefill } else { prior.prefill },
            step: if step > 0.0 { step } else { prior.step },
        }
    }

    /// The endpoint computed `tokens` prompt tokens, and their requests spent `took` in prefill.
    pub fn observe_prefill(&self, tokens: u64, took: Duration) {
        let rate = tokens as f32 / took.as_secs_f32();
        if tokens >= LEAST_TOKENS && rate.is_finite() {
            self.update(|speed| Speed { prefill: mean(speed.prefill, rate, &PREFILL), ..speed }, true, false);
        }
    }

    /// An output token took so long.
    pub fn observe_decode(&self, step: Duration) {
        if !step.is_zero() {
            self.update(|speed| Speed { step: mean(speed.step, step.as_secs_f32(), &STEP), ..speed }, false, true);
        }
    }

    /// Another process answers there now.
    pub(crate) fn forget(&self) {
        self.both.store(0, Ordering::Relaxed);
    }

    fn update(&self, change: impl Fn(Speed) -> Speed, prefill: bool, step: bool) {
        let changed = |both: u64| {
            let (old_prefill, old_step) = unpack(both);
            let prior = Speed::default();
            let of = |old: f32, prior: f32| if old > 0.0 { old } else { prior };
            let speed = change(Speed { prefill: of(old_prefill, prior.prefill), step: of(old_step, prior.step) });
            let pick = |new: f32, old: f32, wanted: bool| if wanted { new } else { old };
            Some(pack(pick(speed.prefill, old_prefill, prefill), pick(speed.step, old_step, step)))
        };
        // Always succeeds: the closure never declines.
        let _ = self.both.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

fn mean(old: f32, new: f32, believed: &std::ops::RangeInclusive<f32>) -> f32 {
    old + WEIGHT * (new.clamp(*believed.start(), *believed.end()) - old)
}

fn pack(prefill: f32, step: f32) -> u64 {
    u64::from(prefill.to_bits()) << 32 | u64::from(step.to_bits())
}

fn unpack(both: u64) -> (f32, f32) {
    (f32::from_bits((both >> 32) as u32), f32::from_bits(both as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_prior_holds_before_there_is_data_and_each_rate_is_learned_alone() {
        let rates = Rates::default();
        assert_eq!(rates.speed(), Speed { prefill: 16_000.0, step: 0.032 });
        rates.observe_prefill(6_000, SECOND);
        assert_eq!(rates.speed(), Speed { prefill: 14_000.0, step: 0.032 });
        rates.observe_decode(Duration::from_millis(132));
        assert_eq!(rates.speed().prefill, 14_000.0);
        assert!((rates.speed().step - 0.052).abs() < 1e-6);
        rates.forget();
        assert_eq!(rates.speed(), Speed::default());
    }

    #[test]
    fn a_steady_rate_is_found_within_thirty_observations() {
        let rates = Rates::default();
        for _ in 0..30 {
            rates.observe_prefill(3_000, SECOND);
        }
        assert!((rates.speed().prefill - 3_000.0).abs() < 30.0, "{:?}", rates.speed());
    }

    #[test]
    fn what_cannot_be_is_bounded_or_ignored() {
        let rates = Rates::default();
        rates.observe_prefill(255, Duration::from_nanos(1));
        rates.observe_prefill(1_000, Duration::ZERO);
        rates.observe_decode(Duration::ZERO);
        assert_eq!(rates.speed(), Speed::default());
        for _ in 0..200 {
            rates.observe_prefill(u64::MAX, Duration::from_nanos(1));
            rates.observe_decode(Duration::from_secs(3600));
        }
        assert!(rates.speed().prefill <= 400_000.0 && rates.speed().step <= 1.0);
        for _ in 0..200 {
            rates.observe_prefill(256, Duration::from_secs(3600));
        }
        assert!(rates.speed().prefill >= 200.0);
    }
}
