//! `least-request`: prefers few requests, counted live: `(4 + least) / (4 + busy)`.
//!
//! `busy` joins our exact in-flight count with the engine's gauges (see `candidate.rs`); `least` is
//! the lowest among the candidates, which scores 1. The curve is relative and flattens: 0 against 5
//! requests is 1 against 0.44, but 50 against 51 is 1 against 0.98, so among busy endpoints a
//! difference of one leaves the choice to what else is known. It is strict: alone it always picks
//! the least busy endpoint, and equal endpoints never differ by more than one request.

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::candidate::{Candidate, Demand};
use crate::scorers::Scorer;

/// Requests from which a doubling about halves the score. An engine's step takes about as long for
/// a batch of four as for a batch of one.
const FLAT: f32 = 4.0;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LeastRequest {}

impl Scorer for LeastRequest {
    fn score(&self, _: Demand, candidates: &[Candidate<'_>], _: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        let least = candidates.iter().map(|candidate| candidate.busy).fold(f32::INFINITY, f32::min);
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            *score = Some((FLAT + least) / (FLAT + candidate.busy));
        }
    }
}
