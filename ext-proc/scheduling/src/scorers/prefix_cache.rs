//! `prefix-cache`: prefers endpoints that probably hold the beginning of the prompt in their KV
//! cache, until they are saturated: `matched / blocks · gate`.
//!
//! ```text
//! backlog = uncached prompt tokens in flight + tokensPerRequest · busy
//! extra   = backlog − least backlog among the candidates
//! gate    = clamp(1 − (extra − saved) / patienceTokens, 0, 1)
//! ```
//!
//! All in tokens of prefill work. `saved` is what the endpoint need not compute. While its extra
//! backlog is smaller, waiting there is quicker than computing the prefix elsewhere, and affinity
//! holds in full. Beyond that point it would already be quicker elsewhere, but a second copy costs the
//! fleet cache and work: affinity yields by and by, over one full prefill batch (8192 tokens, vLLM's
//! usual `max-num-batched-tokens`; about half a second at the 16,000 tokens/s that llm-d measured for
//! its "sticky until saturated" filter, which inspired this). From there on the warm endpoint has no
//! advantage, however long the prefix. A running request delays others by about as much as 512 tokens
//! of prefill; so one or two requests never outweigh a long prefix, and a crowd always does.
//!
//! An endpoint that holds nothing scores 0, which is a measure; without any prompt there is none.

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::candidate::{Candidate, Demand};
use crate::scorers::Scorer;

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
    /// Ours: tokens of extra backlog over which affinity yields to load.
    patience_tokens: u32,
    /// Ours: tokens of prefill that a request in flight counts for.
    tokens_per_request: u32,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self {
            block_size_to_hash: 64,
            max_blocks_to_match: 128,
            max_hash_cache_size: 50_000,
            top_k_matches: 5,
            patience_tokens: 8192,
            tokens_per_request: 512,
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

    fn backlog(&self, candidate: &Candidate<'_>) -> f32 {
        candidate.uncached_tokens as f32 + self.tokens_per_request as f32 * candidate.busy
    }
}

impl Scorer for PrefixCache {
    fn score(&self, demand: Demand, candidates: &[Candidate<'_>], _: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        if demand.blocks == 0 {
            return;
        }
        let least = candidates.iter().map(|candidate| self.backlog(candidate)).fold(f32::INFINITY, f32::min);
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            if candidate.matched_blocks == 0 {
                *score = Some(0.0);
                continue;
            }
            let extra = self.backlog(candidate) - least;
            let saved = demand.cached_tokens(candidate.matched_blocks) as f32;
            let gate = (1.0 - (extra - saved) / self.patience_tokens as f32).clamp(0.0, 1.0);
            *score = Some(candidate.matched_blocks as f32 / demand.blocks as f32 * gate);
        }
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
            ("blockSizeToHash", self.block_size_to_hash),
            ("maxBlocksToMatch", self.max_blocks_to_match),
            ("maxHashCacheSize", self.max_hash_cache_size),
            ("patienceTokens", self.patience_tokens as usize),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        if self.max_blocks_to_match > MOST_BLOCKS {
            return Err(format!("maxBlocksToMatch must be at most {MOST_BLOCKS}"));
        }
        Ok(())
    }
}
