//! The section `disaggregation`: what decides where a ModelServer has a `pdGroup`.
//!
//! ```yaml
//! disaggregation:
//!   minPromptTokens: 0
//!   minUncachedTokens: 256
//!   whenNoPrefill: decode-alone
//!   prefillRetries: 2
//!   prefill:            # as `scheduler`
//!     plugins:
//!       Score: {enabled: [{name: prefix-cache, weight: 1}, {name: least-request, weight: 1}]}
//!   decode: {}          # as `scheduler`
//! ```
//!
//! Each role looks for its scorers, its filters and each plugin's arguments in its own part first.
//! Beyond that both take filters and arguments from `scheduler`, and decode its scorers too: who names
//! scorers means them. Where nothing is named, decode goes by load alone (the chart's scorers without
//! `prefix-cache`: what decode needs of a prompt comes from prefill) and prefill by cache and load.

use serde::{Deserialize, Serialize};

use crate::profile::Profile;
use crate::scorers::PrefixCache;

/// What a prefill request costs beside the computing: the chosen one and so many more are ranked at
/// most, as many as any picker ranks.
const MOST_RETRIES: u32 = 4;

/// When prefill runs apart, and what follows when it cannot.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PairRules {
    /// A prompt of fewer estimated tokens is decode's own. 0, the default, has no say: the next one has.
    pub(crate) min_prompt_tokens: u32,
    /// Where the decode endpoint has to compute fewer prompt tokens than these, it does so itself. By
    /// default 256: 16 ms at the 16,000 tokens/s that `prefix-cache` reckons with, about what a further
    /// HTTP request and the blocks' way between two pods cost. 0 always sends prefill apart.
    pub(crate) min_uncached_tokens: u32,
    /// What happens when no prefill endpoint can be used.
    pub(crate) when_no_prefill: WhenNoPrefill,
    /// Further prefill endpoints to try when the first fails.
    pub(crate) prefill_retries: u32,
}

impl Default for PairRules {
    fn default() -> Self {
        Self {
            min_prompt_tokens: 0,
            min_uncached_tokens: 256,
            when_no_prefill: WhenNoPrefill::DecodeAlone,
            prefill_retries: 2,
        }
    }
}

impl PairRules {
    /// What is wrong with them, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.prefill_retries {
            0..=MOST_RETRIES => Ok(()),
            _ => Err(format!("prefillRetries must be at most {MOST_RETRIES}")),
        }
    }
}

/// What happens when no prefill endpoint can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WhenNoPrefill {
    /// The decode endpoint computes the prompt itself.
    DecodeAlone,
    /// The request is refused.
    Refuse,
}

/// The profile of each role, and the rules.
#[derive(Clone, Debug)]
pub(crate) struct Pairs {
    pub(crate) decode: Profile,
    pub(crate) prefill: Profile,
    pub(crate) rules: PairRules,
}

impl Pairs {
    /// What the prompt is hashed with: both roles speak of the same blocks.
    pub(crate) fn prefix_cache(&self) -> Option<&PrefixCache> {
        self.prefill.prefix_cache().or_else(|| self.decode.prefix_cache())
    }
}
