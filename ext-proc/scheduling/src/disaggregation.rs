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

/// A decode pod with this label, `"true"`, has a routing sidecar in front of its engine: it makes the
/// prefill call itself and needs only to be told where (`x-prefiller-host-port`). Our own name: neither
/// Kthena nor llm-d marks such pods.
pub const SIDECAR_LABEL: &str = "networking.serving.volcano.sh/routing-sidecar";

/// What a pod does for a ModelServer with a [`PdGroup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It computes the prompt.
    Prefill,
    /// It generates the answer.
    Decode,
}

impl Role {
    /// Its name on the debug port and in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl PdGroup {
    /// The role of a pod with these labels. Decode is looked at first; labels that name nothing select
    /// nothing, and a pod without the label of `groupKey` has no role.
    #[must_use]
    pub fn role(&self, labels: &BTreeMap<String, String>) -> Option<Role> {
        let has = |wanted: &BTreeMap<String, String>| {
            !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        if self.group_key.as_ref().is_some_and(|key| !labels.contains_key(&**key)) {
            return None;
        }
        if has(&self.decode_labels) {
            return Some(Role::Decode);
        }
        has(&self.prefill_labels).then_some(Role::Prefill)
    }
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
    /// disaggregate. Those after the first are for further tries, as many as `prefillRetries` allows.
    pub prefills: Vec<Arc<Endpoint>>,
    /// The decode pod has a routing sidecar that makes the prefill call: it needs only to be told
    /// where (`x-prefiller-host-port`).
    pub sidecar: bool,
    /// Estimated prompt tokens that the first prefill endpoint does not hold.
    pub uncached_tokens: u32,
    /// What was considered among the prefill endpoints; `None` where nobody was considered.
    pub report: Option<Box<Report>>,
}

/// The verdict, and which prefill endpoint was chosen among how many.
impl fmt::Display for Disaggregation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.verdict)?;
        match self.prefills.first() {
            Some(first) => write!(formatter, ", at {} ({})", first.address, first.name),
            None => Ok(()),
        }
    }
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
    /// The API at the request's path generates nothing, or takes no transferred blocks: embeddings and such.
    NotGeneration,
    /// No prefill endpoint of the group is ready, or the filters left none.
    NoPrefill,
}

impl Verdict {
    /// Its name on the debug port, in metrics and in traces.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disaggregate { .. } => "disaggregate",
            Self::ShortPrompt { .. } => "short_prompt",
            Self::Cached { .. } => "cached",
            Self::NoPrompt => "no_prompt",
            Self::NotGeneration => "not_generation",
            Self::NoPrefill => "no_prefill",
        }
    }
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
            Self::NotGeneration => write!(formatter, "decode alone: this API takes no transferred blocks"),
            Self::NoPrefill => write!(formatter, "decode alone: no prefill endpoint of the group can be used"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_role_is_that_of_the_labels_and_decode_is_looked_at_first() {
        let mut group =
            PdGroup { group_key: None, prefill_labels: labels(&[("p", "1")]), decode_labels: labels(&[("d", "1")]) };
        assert_eq!(group.role(&labels(&[("p", "1")])), Some(Role::Prefill));
        assert_eq!(group.role(&labels(&[("p", "1"), ("d", "1")])), Some(Role::Decode));
        assert_eq!(group.role(&labels(&[("p", "2")])), None);
        group.group_key = Some("g".into());
        assert_eq!(group.role(&labels(&[("p", "1")])), None, "a pod without the key is in no group");
        assert_eq!(group.role(&labels(&[("p", "1"), ("g", "")])), Some(Role::Prefill), "any value is one");
        assert_eq!(PdGroup::default().role(&labels(&[("p", "1")])), None, "no label names no pod");
    }
}
