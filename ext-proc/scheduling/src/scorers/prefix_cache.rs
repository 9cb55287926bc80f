//! `prefix-cache`: prefers endpoints that probably hold the beginning of the prompt in their KV
//! cache, until they are saturated: `matched / blocks · gate`, the gate as in `affinity.rs`.
//!
//! An endpoint that holds nothing scores 0, which is a measure; without any prompt there is none.

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::affinity::{PATIENCE_TOKENS, Patience, Weighing};
use crate::candidate::{Candidate, Demand};
use crate::scorers::{Scorer, positive};

/// Blocks that may be hashed for one prompt: bounds the work and memory of a decision.
const MOST_BLOCKS: usize = 65_536;

/// The arguments of `prefix-cache`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PrefixCache {
    /// Bytes in a block of the prompt.
    block_size_to_hash: usize,
    /// Leading blocks of a prompt that are looked at.
    max_blocks_to_match: usize,
    /// Blocks remembered for each endpoint.
    max_hash_cache_size: usize,
    /// Accepted for Kthena's sake: every candidate is looked up, so there is nothing to limit.
    top_k_matches: u32,
    /// Ours: tokens of prefill over whose time affinity yields to load.
    patience_tokens: u32,
    /// Ours: tokens of prefill that a request in flight counts for; absent: a step of decoding.
    tokens_per_request: Option<u32>,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self {
            block_size_to_hash: 64,
            max_blocks_to_match: 128,
            max_hash_cache_size: 50_000,
            top_k_matches: 5,
            patience_tokens: PATIENCE_TOKENS,
            tokens_per_request: None,
        }
    }
}

impl PrefixCache {
    /// Bytes in a block of the prompt (`blockSizeToHash`).
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_size_to_hash
    }

    /// Leading blocks of a prompt that are looked at (`maxBlocksToMatch`).
    #[must_use]
    pub fn max_blocks(&self) -> usize {
        self.max_blocks_to_match
    }

    /// Blocks remembered for each endpoint (`maxHashCacheSize`): the capacity to learn with.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.max_hash_cache_size
    }

    /// The usual one, with another's patience.
    pub(crate) fn with_patience(patience: Patience) -> Self {
        let Patience { tokens, per_request } = patience;
        Self { patience_tokens: tokens, tokens_per_request: per_request, ..Self::default() }
    }

    fn weighed(&self) -> Patience {
        Patience { tokens: self.patience_tokens, per_request: self.tokens_per_request }
    }
}

impl Scorer for PrefixCache {
    fn score(&self, demand: Demand, candidates: &[Candidate<'_>], _: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        if demand.blocks == 0 {
            return;
        }
        let weighing = Weighing::of(candidates, self.weighed());
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            let share = candidate.matched_blocks as f32 / demand.blocks as f32;
            let saved = demand.cached_tokens(candidate.matched_blocks) as f32;
            *score = Some(if share > 0.0 { share * weighing.gate(candidate, saved) } else { 0.0 });
        }
    }

    fn patience(&self) -> Option<Patience> {
        Some(self.weighed())
    }

    fn check(&self) -> Result<(), String> {
        positive(&[
            ("blockSizeToHash", self.block_size_to_hash),
            ("maxBlocksToMatch", self.max_blocks_to_match),
            ("maxHashCacheSize", self.max_hash_cache_size),
            ("patienceTokens", self.patience_tokens as usize),
        ])?;
        if self.max_blocks_to_match > MOST_BLOCKS {
            return Err(format!("maxBlocksToMatch must be at most {MOST_BLOCKS}"));
        }
        Ok(())
    }
}
