//! A decision is a value that explains itself: trace, debug page, access log and `explain` print
//! this one value.

use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::prefix::BlockHash;
use crate::snapshot::PoolName;

/// Where a request goes, in order of preference, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Everything that was considered.
    pub report: Report,
    /// Indices into [`Report::candidates`], best first; never empty.
    pub ranked: Vec<usize>,
    /// Why the first was chosen.
    pub reason: Reason,
    /// The name to write over the body's `model`, where a ModelServer demands one.
    pub rewrite_model: Option<Arc<str>>,
    /// The chained block hashes of the prompt, to be learned by whoever serves it.
    pub blocks: Arc<[BlockHash]>,
    /// Estimated prompt tokens that the first endpoint does not hold.
    pub uncached_tokens: u32,
}

impl Decision {
    /// The endpoint chosen.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoints().next()
    }

    /// The endpoints chosen, best first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.ranked.iter().filter_map(|index| self.report.candidates.get(*index)).map(|candidate| &candidate.endpoint)
    }
}

/// What was considered for one request.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pool.
    pub pool: PoolName,
    /// The client's model name, where known.
    pub model: Option<String>,
    /// `namespace/name` of the ModelRoute that matched, and the ModelServer it led to.
    pub route: Option<Arc<str>>,
    /// `namespace/name` of the ModelServer, where a route led to one.
    pub model_server: Option<Arc<str>>,
    /// The filters in the order they ran, by configured name.
    pub filters: Vec<FilterReport>,
    /// The scorers by configured name, in the order of [`CandidateReport::scores`].
    pub scorers: Vec<ScorerReport>,
    /// Every endpoint of the pool.
    pub candidates: Vec<CandidateReport>,
    /// Blocks of the prompt that were hashed.
    pub blocks: u32,
}

/// What one filter did.
#[derive(Clone, Debug)]
pub struct FilterReport {
    /// Its configured name.
    pub name: &'static str,
    /// Candidates before it.
    pub before: usize,
    /// Candidates after it.
    pub after: usize,
}

/// One scorer that took part.
#[derive(Clone, Debug)]
pub struct ScorerReport {
    /// Its configured name.
    pub name: &'static str,
    /// Its weight.
    pub weight: f32,
}

/// One endpoint as the decision saw it.
#[derive(Clone, Debug)]
pub struct CandidateReport {
    /// The endpoint, with the gauges that were used.
    pub endpoint: Arc<Endpoint>,
    /// Index into [`Report::filters`] of the filter that removed it; `None` when it was scored.
    pub removed_by: Option<usize>,
    /// Each scorer's score, 0..=1, or `None` where it had no measure; empty when removed.
    pub scores: Vec<Option<f32>>,
    /// The weighted sum; `None` when removed.
    pub total: Option<f32>,
    /// This picker's in-flight requests at the endpoint when the decision was made.
    pub in_flight: u32,
    /// How old the gauges were; `None` when there are none.
    pub gauges_age: Option<Duration>,
    /// Leading blocks of the prompt that the endpoint probably holds.
    pub matched_blocks: u32,
}

/// Why the first endpoint was chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The filters left only one.
    OnlyCandidate,
    /// It had the highest total; the scorer that made the difference to the runner-up is named.
    HighestTotal {
        /// The scorer with the largest weighted lead over the runner-up.
        scorer: &'static str,
        /// The lead of the total over the runner-up's.
        lead: f32,
    },
    /// Several had the same total and chance chose among them.
    Tie {
        /// How many shared the highest total.
        among: usize,
    },
}
