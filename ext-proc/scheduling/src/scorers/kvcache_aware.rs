//! `kvcache-aware`: prefers endpoints that hold the beginning of the prompt in their KV cache, by their
//! own account, until they are saturated: `weighted tokens held / tokens · gate`, the gate as in
//! `affinity.rs`.
//!
//! Without an exact measure (no token ids, or no engine of the pool sends events) the approximate one of
//! `prefix-cache` takes over, and the report says so and why.

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::affinity::{PATIENCE_TOKENS, Patience, Weighing};
use crate::candidate::{Candidate, Demand};
use crate::scorers::{PrefixCache, Scorer, positive};

/// Tokens that may be hashed for one prompt: bounds the work and memory of a decision.
const MOST_TOKENS: usize = 1 << 20;

/// The arguments of `kvcache-aware`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct KvcacheAware {
    /// With the next one: how many leading tokens are looked at. The size of blocks is not configured:
    /// engines say it, and it may differ between them.
    block_size_to_hash: usize,
    /// Times the one above. By default 1024 (Kthena: 128), together 131,072 tokens: a long
    /// conversation is known to its end, for 12 ns a block.
    max_blocks_to_match: usize,
    /// Accepted for Kthena's sake: prompts are tokenised here, not by an engine's port.
    vllm_tokenizer_port: u16,
    /// As `vllmTokenizerPort`.
    sglang_tokenizer_port: u16,
    /// Ours: tokens of prefill over whose time affinity yields to load.
    patience_tokens: u32,
    /// Ours: tokens of prefill that a request in flight counts for; absent: a step of decoding.
    tokens_per_request: Option<u32>,
}

impl Default for KvcacheAware {
    fn default() -> Self {
        Self {
            block_size_to_hash: 128,
            max_blocks_to_match: 1024,
            vllm_tokenizer_port: 8000,
            sglang_tokenizer_port: 30_000,
            patience_tokens: PATIENCE_TOKENS,
            tokens_per_request: None,
        }
    }
}

impl KvcacheAware {
    /// Leading tokens of a prompt that are looked at.
    pub(crate) fn most_tokens(&self) -> usize {
        self.block_size_to_hash.saturating_mul(self.max_blocks_to_match)
    }

    fn weighed(&self) -> Patience {
        Patience { tokens: self.patience_tokens, per_request: self.tokens_per_request }
    }
}

impl Scorer for KvcacheAware {
    fn score(&self, demand: Demand, candidates: &[Candidate<'_>], rng: &mut dyn RngCore, scores: &mut [Option<f32>]) {
        let Some((_, tokens)) = demand.tokens else {
            let approximate = PrefixCache::with_patience(self.weighed());
            return approximate.score(demand, candidates, rng, scores);
        };
        let weighing = Weighing::of(candidates, self.weighed());
        for (score, candidate) in scores.iter_mut().zip(candidates) {
            let saved = candidate.held.map_or(0.0, |held| held.weighted);
            *score = Some(if saved > 0.0 { saved / tokens as f32 * weighing.gate(candidate, saved) } else { 0.0 });
        }
    }

    fn patience(&self) -> Option<Patience> {
        Some(self.weighed())
    }

    fn check(&self) -> Result<(), String> {
        positive(&[
            ("blockSizeToHash", self.block_size_to_hash),
            ("maxBlocksToMatch", self.max_blocks_to_match),
            ("patienceTokens", self.patience_tokens as usize),
        ])?;
        if self.most_tokens() > MOST_TOKENS {
            return Err(format!("blockSizeToHash times maxBlocksToMatch must be at most {MOST_TOKENS}"));
        }
        Ok(())
    }
}
