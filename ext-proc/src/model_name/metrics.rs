//! How many requests were given their model's name, and how many had none.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::metrics::begin;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

/// Counts requests of the step before the route.
#[derive(Debug)]
pub struct ModelNameMetrics {
    requests: Family<Labels, Counter>,
}

impl Default for ModelNameMetrics {
    fn default() -> Self {
        let requests = Family::default();
        begin(&requests, ["named", "unnamed", "refused"].map(|result| Labels { result }));
        Self { requests }
    }
}

impl ModelNameMetrics {
    /// Puts the counters into the registry.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests before the route: named, without a name that can be read, or refused as too large or slow";
        registry.register("model_names", help, self.requests.clone());
    }

    pub(super) fn answered(&self, named: bool) {
        self.count(if named { "named" } else { "unnamed" });
    }

    pub(super) fn refused(&self) {
        self.count("refused");
    }

    fn count(&self, result: &'static str) {
        self.requests.get_or_create(&Labels { result }).inc();
    }
}
