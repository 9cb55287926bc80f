//! `random`: chance alone, uniform over 0..1. Beside other scorers it is dropped, as in Kthena.

use rand::RngCore;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::candidate::{Candidate, Demand};
use crate::scorers::Scorer;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Random {}

impl Scorer for Random {
    fn score(&self, _: Demand, candidates: &[Candidate<'_>], rng: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        // One draw for all, so that a candidate's score does not depend on its place in the list.
        let draw = rng.next_u64();
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            let hash = xxh3_64_with_seed(&candidate.endpoint.slot.0.to_le_bytes(), draw);
            // The upper 24 bits: as many as an f32 holds exactly.
            *score = Some((hash >> 40) as f32 / (1_u32 << 24) as f32);
        }
    }
}
