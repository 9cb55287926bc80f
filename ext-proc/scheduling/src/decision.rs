//! A decision is a value that explains itself: trace, debug page, access log and `explain` print
//! this one value.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::affinity::Trade;
use crate::candidate::Demand;
use crate::disaggregation::Disaggregation;
use crate::endpoint::Endpoint;
use crate::moment::Moment;
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
    /// Estimated prompt tokens that the first endpoint has to compute: those that it does not hold, or
    /// none where prefill runs apart.
    pub uncached_tokens: u32,
    /// What was decided about prefill; `None` unless the ModelServer has a `pdGroup`.
    pub disaggregation: Option<Disaggregation>,
}

impl Decision {
    /// The endpoint chosen.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoints().next()
    }

    /// The endpoints chosen, best first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.rows().map(|row| row.endpoint)
    }

    /// The candidates chosen, best first.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.ranked.iter().filter_map(|index| self.report.row(*index))
    }
}

impl Decision {
    /// The place of a candidate among the chosen ones: 0 is the first; `None` when it is not among
    /// them. `index` is into [`Report::candidates`].
    #[must_use]
    pub fn rank(&self, index: usize) -> Option<usize> {
        self.ranked.iter().position(|ranked| *ranked == index)
    }

    /// A candidate that probably holds more of the prompt than the chosen one, and was left because
    /// of its load.
    #[must_use]
    pub fn yielded(&self) -> Option<Row<'_>> {
        let chosen = self.rows().next()?.candidate.warmth();
        let scored = self.report.rows().filter(|row| row.candidate.removed_by.is_none());
        let warmest = scored.max_by_key(|row| row.candidate.warmth())?;
        (warmest.candidate.warmth() > chosen && (self.uses("prefix-cache") || self.uses("kvcache-aware")))
            .then_some(warmest)
    }

    fn uses(&self, scorer: &str) -> bool {
        self.report.scorers.iter().any(|report| report.name == scorer)
    }
}

/// The decision in a sentence: who, why, over whom, and where affinity yielded to load.
impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranked = self.rows();
        let Some(first) = ranked.next() else { return write!(formatter, "no endpoint") };
        write!(formatter, "{}: {}", first.label(), self.reason)?;
        // Of a pair, endpoints of other groups are no fallbacks: the runner-up may be missing here.
        let behind = |row: &Row<'_>| first.candidate.total.zip(row.candidate.total).map(|(first, row)| first - row);
        if let (Reason::HighestTotal { scorer, lead }, Some(second)) = (&self.reason, ranked.next())
            && behind(&second) == Some(*lead)
        {
            write!(formatter, "; the runner-up is {}", second.label())?;
            let decisive = self.report.scorers.iter().find(|report| report.name == *scorer);
            let score = |row: &Row<'_>| decisive.and_then(|scorer| scorer.score(row.index));
            if let (Some(own), Some(other)) = (score(&first), score(&second)) {
                write!(formatter, " ({scorer} {own:.2} against {other:.2})")?;
            }
        }
        if let Some(warm) = self.yielded() {
            let (label, in_flight) = (warm.label(), warm.candidate.in_flight);
            write!(formatter, "; affinity yielded to load: {label} holds ")?;
            match (self.report.kv, warm.candidate.held_tokens) {
                (Some(KvMeasure::Exact { tokens }), Some(held)) => write!(formatter, "{held} of {tokens} tokens")?,
                _ => write!(formatter, "{} of {} blocks", warm.candidate.matched_blocks, self.report.blocks)?,
            }
            write!(formatter, " and has {in_flight} in flight")?;
            if let Some((_, trade)) = self.report.trade.filter(|(index, _)| *index == warm.index) {
                write!(formatter, ": {trade}")?;
            }
        }
        if let Some(measure) = self.report.kv.filter(|measure| !matches!(measure, KvMeasure::Exact { .. })) {
            write!(formatter, "; kvcache-aware is {measure}")?;
        }
        match &self.disaggregation {
            Some(disaggregation) => write!(formatter, "; {disaggregation}"),
            None => Ok(()),
        }
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
    /// The scorers by configured name, with what each gave.
    pub scorers: Vec<ScorerReport>,
    /// Every endpoint of the pool, with the gauges that were used. Shared with the snapshot: a
    /// decision must not touch a thousand counters.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// What was found of each, in the order of `endpoints`.
    pub candidates: Vec<CandidateReport>,
    /// Blocks of the prompt that were hashed.
    pub blocks: u32,
    /// Which measure the scorer `kvcache-aware` had; `None` where it does not take part.
    pub kv: Option<KvMeasure>,
    /// The index of the candidate that holds most of the prompt, of those that the filters left, and what
    /// going there would win and lose; `None` where it was chosen, or no scorer asks.
    pub trade: Option<(usize, Trade)>,
    /// When all this was so.
    pub at: Moment,
}

impl Report {
    /// The candidates with all that is known of them.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let both = self.endpoints.iter().zip(&self.candidates).enumerate();
        both.map(|(index, (endpoint, candidate))| Row { report: self, index, endpoint, candidate })
    }

    /// The candidate at `index` of [`Report::candidates`].
    #[must_use]
    pub fn row(&self, index: usize) -> Option<Row<'_>> {
        let (endpoint, candidate) = (self.endpoints.get(index)?, self.candidates.get(index)?);
        Some(Row { report: self, index, endpoint, candidate })
    }

    /// The filters in a line: `ready kept 3 of 4, least-request kept 0 of 3`.
    #[must_use]
    pub fn filter_summary(&self) -> String {
        let kept = |filter: &FilterReport| format!("{} kept {} of {}", filter.name, filter.after, filter.before);
        self.filters.iter().map(kept).collect::<Vec<_>>().join(", ")
    }
}

/// One candidate of a [`Report`].
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    report: &'a Report,
    /// Its index in [`Report::candidates`].
    pub index: usize,
    /// The endpoint, with the gauges that were used.
    pub endpoint: &'a Arc<Endpoint>,
    /// What was found of it.
    pub candidate: &'a CandidateReport,
}

impl<'a> Row<'a> {
    /// The configured name of the filter that removed it; `None` when it was scored.
    #[must_use]
    pub fn removed_by(&self) -> Option<&'static str> {
        self.report.filters.get(usize::from(self.candidate.removed_by?)).map(|filter| filter.name)
    }

    /// Each scorer with the score it gave, `None` where it had no measure; nothing when the candidate
    /// was removed.
    pub fn scores(&self) -> impl Iterator<Item = (&'a ScorerReport, Option<f32>)> + use<'a> {
        let (index, scored) = (self.index, self.candidate.total.is_some());
        self.report.scorers.iter().filter(move |_| scored).map(move |scorer| (scorer, scorer.score(index)))
    }

    /// How old the gauges were; `None` when there are none.
    #[must_use]
    pub fn gauges_age(&self) -> Option<Duration> {
        self.endpoint.gauges.as_ref().map(|gauges| self.report.at.since(gauges.read_at))
    }

    fn label(&self) -> String {
        format!("{} ({})", self.endpoint.address, self.endpoint.name)
    }
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
    /// Its score, 0..=1, for each of [`Report::candidates`]; `None` where it had no measure and where
    /// a filter had removed the candidate. Empty when nobody was left to score.
    pub scores: Vec<Option<f32>>,
}

impl ScorerReport {
    /// What it gave the candidate at `index`; `None` where it gave nothing.
    #[must_use]
    pub fn score(&self, index: usize) -> Option<f32> {
        self.scores.get(index).copied().flatten()
    }
}

/// What was found of one endpoint. There are as many as endpoints, for every request: kept small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CandidateReport {
    /// Index into [`Report::filters`] of the filter that removed it; `None` when it was scored.
    pub removed_by: Option<u16>,
    /// The weighted sum of its scores; `None` when removed.
    pub total: Option<f32>,
    /// This picker's in-flight requests at the endpoint when the decision was made.
    pub in_flight: u32,
    /// Leading blocks of the prompt that the endpoint probably holds.
    pub matched_blocks: u32,
    /// Leading tokens of the prompt that it holds by its own account; `None` unless [`Report::kv`] is
    /// [`KvMeasure::Exact`].
    pub held_tokens: Option<u32>,
}

impl CandidateReport {
    pub(crate) fn missing_tokens(&self, demand: &Demand) -> u32 {
        demand.missing_tokens(self.matched_blocks, self.held_tokens)
    }

    /// For comparing candidates of one report only.
    fn warmth(&self) -> u32 {
        self.held_tokens.unwrap_or(self.matched_blocks)
    }
}

/// What `kvcache-aware` went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvMeasure {
    /// The engines' own accounts.
    Exact {
        /// Tokens of the prompt that were looked up: in whole blocks.
        tokens: u32,
    },
    /// The approximate measure: the prompt is not known in tokens.
    NoTokens,
    /// The approximate measure: no endpoint of the pool has said what it holds.
    NoEvents,
    /// The approximate measure: the prompt fills no block.
    NoBlock,
}

impl fmt::Display for KvMeasure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { tokens } => write!(formatter, "exact, {tokens} tokens looked up"),
            Self::NoTokens => write!(formatter, "approximate: the prompt is not known in tokens"),
            Self::NoEvents => write!(formatter, "approximate: no endpoint has sent KV events"),
            Self::NoBlock => write!(formatter, "approximate: the prompt fills no block"),
        }
    }
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
    /// It is the best that can be paired: of better ones' groups no prefill endpoint can be used.
    Paired {
        /// How many better ones were passed over.
        passed: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyCandidate => write!(formatter, "the only endpoint that the filters left"),
            Self::HighestTotal { scorer, lead } => {
                write!(formatter, "the highest total, {lead:.2} ahead, most of it by {scorer}")
            }
            Self::Paired { passed } => {
                write!(formatter, "the best that can be paired, {passed} better of groups without usable prefill")
            }
            Self::Tie { among } => write!(formatter, "chosen by chance among {among} with the same total"),
        }
    }
}
