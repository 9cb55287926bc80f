//! How many prompts got token ids, from where, and why others did not.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Source, Why};
use crate::metrics::begin;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    source: &'static str,
    reason: &'static str,
}

/// Counts prompts by where their ids came from.
#[derive(Debug)]
pub struct TokenMetrics {
    prompts: Family<Labels, Counter>,
}

impl Default for TokenMetrics {
    fn default() -> Self {
        let prompts = Family::default();
        begin(&prompts, Source::ALL.map(|source| Labels { source: source.name(), reason: "" }));
        begin(&prompts, Why::NAMES.map(|reason| Labels { source: "none", reason }));
        Self { prompts }
    }
}

impl TokenMetrics {
    /// Puts the counters into the registry.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Prompts by where their token ids came from; of source none, by the reason: compared approximately";
        registry.register("tokens", help, self.prompts.clone());
    }

    pub(super) fn found(&self, source: Source) {
        self.prompts.get_or_create(&Labels { source: source.name(), reason: "" }).inc();
    }

    pub(super) fn missing(&self, why: &Why) {
        self.prompts.get_or_create(&Labels { source: "none", reason: why.name() }).inc();
    }
}
