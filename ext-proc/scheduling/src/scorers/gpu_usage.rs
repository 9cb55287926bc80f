//! `gpu-usage`: prefers room in the KV cache: `1 − used share`.
//!
//! No measure where the engine does not report it, or where its gauges are stale.

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::candidate::{Candidate, Demand};
use crate::scorers::Scorer;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GpuUsage {}

impl Scorer for GpuUsage {
    fn score(&self, _: Demand, candidates: &[Candidate<'_>], _: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            *score = candidate.kv_usage.map(|used| 1.0 - used);
        }
    }
}
