//! `least-latency`: prefers short times to first token and per output token:
//! `α · least TTFT / TTFT + (1 − α) · least TPOT / TPOT`, α = `TTFTTPOTWeightFactor`.
//!
//! A ratio to the best, not Kthena's place between best and worst: 100 ms against 101 ms is noise
//! and must not be 1 against 0. Where only one of the two was measured, it decides alone; an
//! endpoint without any (or whose gauges are stale) has no measure.

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::candidate::{Candidate, Demand};
use crate::scorers::Scorer;

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LeastLatency {
    /// The weight of the time to first token, 0..=1; the time per output token has the rest.
    #[serde(rename = "TTFTTPOTWeightFactor")]
    weight_factor: f32,
}

impl Default for LeastLatency {
    fn default() -> Self {
        Self { weight_factor: 0.5 }
    }
}

impl Scorer for LeastLatency {
    fn score(&self, _: Demand, candidates: &[Candidate<'_>], _: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        let least_first = least(candidates, |candidate| candidate.first_token);
        let least_next = least(candidates, |candidate| candidate.next_token);
        let factor = self.weight_factor;
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            *score = match (candidate.first_token, candidate.next_token) {
                (Some(first), Some(next)) => Some(factor * least_first / first + (1.0 - factor) * least_next / next),
                (Some(first), None) if factor > 0.0 => Some(least_first / first),
                (None, Some(next)) if factor < 1.0 => Some(least_next / next),
                _ => None,
            };
        }
    }

    fn check(&self) -> Result<(), String> {
        if (0.0..=1.0).contains(&self.weight_factor) {
            Ok(())
        } else {
            Err(format!("TTFTTPOTWeightFactor must be within 0..=1, but is {}", self.weight_factor))
        }
    }
}

fn least(candidates: &[Candidate<'_>], time: fn(&Candidate<'_>) -> Option<f32>) -> f32 {
    candidates.iter().filter_map(time).fold(f32::INFINITY, f32::min)
}
