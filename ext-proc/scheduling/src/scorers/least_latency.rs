//! `least-latency`: prefers short times to first token and per output token:
//! `α · least TTFT / TTFT + (1 − α) · least TPOT / TPOT`, α = `TTFTTPOTWeightFactor`.
//!
//! A ratio to the best, not Kthena's place between best and worst: 100 ms against 101 ms is noise
//! and must not be 1 against 0. Where only one of the two was measured, it decides alone; an
//! endpoint without any (or whose gauges are stale) has no measure.

use std::time::Duration;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::candidate::{Candidate, Demand};
use crate::endpoint::Gauges;
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
        let least_first = least(candidates, first_token);
        let least_next = least(candidates, next_token);
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            let first = first_token(candidate).map(|seconds| (least_first / seconds, self.weight_factor));
            let next = next_token(candidate).map(|seconds| (least_next / seconds, 1.0 - self.weight_factor));
            let measured = [first, next];
            let weight: f32 = measured.iter().flatten().map(|(_, weight)| weight).sum();
            let sum: f32 = measured.iter().flatten().map(|(ratio, weight)| ratio * weight).sum();
            *score = (weight > 0.0).then(|| sum / weight);
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

fn first_token(candidate: &Candidate<'_>) -> Option<f32> {
    seconds(candidate.gauges.and_then(|gauges: &Gauges| gauges.time_to_first_token))
}

fn next_token(candidate: &Candidate<'_>) -> Option<f32> {
    seconds(candidate.gauges.and_then(|gauges: &Gauges| gauges.time_per_output_token))
}

/// Zero is no measure: engines report it before their first request.
fn seconds(time: Option<Duration>) -> Option<f32> {
    time.map(|time| time.as_secs_f32()).filter(|seconds| *seconds > 0.0)
}

fn least(candidates: &[Candidate<'_>], time: fn(&Candidate<'_>) -> Option<f32>) -> f32 {
    candidates.iter().filter_map(time).fold(f32::INFINITY, f32::min)
}
