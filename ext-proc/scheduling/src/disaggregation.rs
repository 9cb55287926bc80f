//! Prefill and decode in different pods: what a ModelServer says about it, and what was decided.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::decision::Report;
use crate::endpoint::Endpoint;

/// `spec.workloadSelector.pdGroup` of a ModelServer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PdGroup {
    /// The label whose value a prefill and a decode pod must share (`groupKey`); `None` pairs all.
    pub group_key: Option<Arc<str>>,
    /// The labels of prefill pods.
    pub prefill_labels: BTreeMap<String, String>,
    /// The labels of decode pods.
    pub decode_labels: BTreeMap<String, String>,
}

/// How KV blocks travel from prefill to decode (`spec.kvConnector.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvConnector {
    /// The engines share a store; the prefill's answer says nothing.
    #[default]
    Http,
    /// As [`KvConnector::Http`], through LMCache.
    Lmcache,
    /// The prefill's answer holds `kv_transfer_params` for decode.
    Nixl,
    /// As [`KvConnector::Nixl`], through Mooncake.
    Mooncake,
    /// Both at once, and they find each other by a bootstrap room. SGLang's, where no other is named.
    Sglang,
}

impl KvConnector {
    /// Its name in a ModelServer, in metrics and in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Lmcache => "lmcache",
            Self::Nixl => "nixl",
            Self::Mooncake => "mooncake",
            Self::Sglang => "sglang",
        }
    }
}

/// What was decided about prefill, for a decision whose ModelServer has a [`PdGroup`].
#[derive(Clone, Debug)]
pub struct Disaggregation {
    /// How the blocks travel.
    pub connector: KvConnector,
    /// What is done, and why.
    pub verdict: Verdict,
    /// Prefill endpoints of the decode endpoint's group, best first; empty unless the verdict is to
    /// disaggregate. Those after the first are for further tries.
    pub prefills: Vec<Arc<Endpoint>>,
    /// The decode pod has a routing sidecar that makes the prefill call: it needs only to be told
    /// where (`x-prefiller-host-port`).
    pub sidecar: bool,
    /// Estimated prompt tokens that the first prefill endpoint does not hold.
    pub uncached_tokens: u32,
    /// What was considered among the prefill endpoints; `None` where nobody was considered.
    pub report: Option<Box<Report>>,
}

/// Whether prefill runs apart, and why (not).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does: so many prompt tokens have to be computed.
    Disaggregate {
        /// Estimated prompt tokens that the decode endpoint does not hold.
        uncached_tokens: u32,
    },
    /// The prompt is too short to be worth a transfer.
    ShortPrompt {
        /// Estimated prompt tokens.
        tokens: u32,
        /// From how many on it would be.
        least: u32,
    },
    /// The decode endpoint holds nearly all of it.
    Cached {
        /// Estimated prompt tokens that it does not hold.
        uncached_tokens: u32,
        /// From how many on a transfer would be worth it.
        least: u32,
    },
    /// Nothing is known of the prompt: no body, or a hidden one.
    NoPrompt,
    /// No prefill endpoint of the group is ready, or the filters left none.
    NoPrefill,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disaggregate { uncached_tokens } => {
                write!(formatter, "prefill apart: {uncached_tokens} prompt tokens to compute")
            }
            Self::ShortPrompt { tokens, least } => {
                write!(formatter, "decode alone: a prompt of {tokens} tokens, prefill apart pays from {least}")
            }
            Self::Cached { uncached_tokens, least } => {
                write!(formatter, "decode alone: {uncached_tokens} tokens not cached, prefill apart pays from {least}")
            }
            Self::NoPrompt => write!(formatter, "decode alone: nothing is known of the prompt"),
            Self::NoPrefill => write!(formatter, "decode alone: no prefill endpoint of the group can be used"),
        }
    }
}
