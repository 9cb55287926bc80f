//! A decision is a value that explains itself: trace, debug page, access log and `explain` print
//! this one value.

use std::fmt;
use std::ops::Deref;
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
    pub fn yielded(&self) -> Option<&CandidateReport> {
        let chosen = self.report.candidates.get(*self.ranked.first()?)?;
        let scored = self.report.candidates.iter().filter(|candidate| candidate.removed_by.is_none());
        let warmest = scored.max_by_key(|candidate| candidate.matched_blocks)?;
        (warmest.matched_blocks > chosen.matched_blocks && self.uses("prefix-cache")).then_some(warmest)
    }

    fn uses(&self, scorer: &str) -> bool {
        self.report.scorers.iter().any(|report| report.name == scorer)
    }
}

/// The decision in a sentence: who, why, over whom, and where affinity yielded to load.
impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranked = self.ranked.iter().filter_map(|index| self.report.candidates.get(*index));
        let Some(first) = ranked.next() else { return write!(formatter, "no endpoint") };
        write!(formatter, "{}: {}", first.label(), self.reason)?;
        if let (Reason::HighestTotal { scorer, .. }, Some(second)) = (&self.reason, ranked.next()) {
            write!(formatter, "; the runner-up is {}", second.label())?;
            let place = self.report.scorers.iter().position(|report| report.name == *scorer);
            let score = |candidate: &CandidateReport| place.and_then(|place| *candidate.scores.get(place)?);
            if let (Some(own), Some(other)) = (score(first), score(second)) {
                write!(formatter, " ({scorer} {own:.2} against {other:.2})")?;
            }
        }
        if let Some(warm) = self.yielded() {
            let (label, matched, all) = (warm.label(), warm.matched_blocks, self.report.blocks);
            let in_flight = warm.in_flight;
            write!(
                formatter,
                "; affinity yielded to load: {label} holds {matched} of {all} blocks and has {in_flight} in flight"
            )?;
        }
        Ok(())
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

impl Report {
    /// The candidates with what is needed to print one.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.candidates.iter().enumerate().map(|(index, candidate)| Row { report: self, index, candidate })
    }

    /// The filters in a line: `ready kept 3 of 4, least-request kept 0 of 3`.
    #[must_use]
    pub fn filter_summary(&self) -> String {
        let kept = |filter: &FilterReport| format!("{} kept {} of {}", filter.name, filter.after, filter.before);
        self.filters.iter().map(kept).collect::<Vec<_>>().join(", ")
    }
}

/// One candidate of a [`Report`], to be printed.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    report: &'a Report,
    /// Its index in [`Report::candidates`].
    pub index: usize,
    /// The candidate.
    pub candidate: &'a CandidateReport,
}

impl<'a> Row<'a> {
    /// The configured name of the filter that removed it; `None` when it was scored.
    #[must_use]
    pub fn removed_by(&self) -> Option<&'static str> {
        self.report.filters.get(self.candidate.removed_by?).map(|filter| filter.name)
    }

    /// Each scorer with the score it gave; nothing when the candidate was removed.
    pub fn scores(&self) -> impl Iterator<Item = (&'a ScorerReport, Option<f32>)> + use<'a> {
        self.report.scorers.iter().zip(self.candidate.scores.iter().copied())
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
}

/// One endpoint as the decision saw it.
#[derive(Clone, Debug)]
pub struct CandidateReport {
    /// The endpoint, with the gauges that were used.
    pub endpoint: Arc<Endpoint>,
    /// Index into [`Report::filters`] of the filter that removed it; `None` when it was scored.
    pub removed_by: Option<usize>,
    /// Each scorer's score, 0..=1, or `None` where it had no measure; empty when removed.
    pub scores: Scores,
    /// The weighted sum; `None` when removed.
    pub total: Option<f32>,
    /// This picker's in-flight requests at the endpoint when the decision was made.
    pub in_flight: u32,
    /// How old the gauges were; `None` when there are none.
    pub gauges_age: Option<Duration>,
    /// Leading blocks of the prompt that the endpoint probably holds.
    pub matched_blocks: u32,
}

impl CandidateReport {
    fn label(&self) -> String {
        format!("{} ({})", self.endpoint.address, self.endpoint.name)
    }
}

/// One candidate's scores, in the order of [`Report::scorers`]. In place, because a thousand
/// candidates would be a thousand allocations. Read as a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    values: [Option<f32>; Scores::CAPACITY],
    len: u8,
}

impl Scores {
    /// As many scores as there are scorers, at most.
    pub const CAPACITY: usize = 6;

    /// Adds the next scorer's; nothing beyond [`Scores::CAPACITY`].
    pub fn push(&mut self, score: Option<f32>) {
        if let Some(place) = self.values.get_mut(usize::from(self.len)) {
            *place = score;
            self.len += 1;
        }
    }
}

impl Deref for Scores {
    type Target = [Option<f32>];

    fn deref(&self) -> &Self::Target {
        self.values.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Takes the first [`Scores::CAPACITY`].
impl FromIterator<Option<f32>> for Scores {
    fn from_iter<I: IntoIterator<Item = Option<f32>>>(scores: I) -> Self {
        let mut all = Self::default();
        for score in scores {
            all.push(score);
        }
        all
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
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyCandidate => write!(formatter, "the only endpoint that the filters left"),
            Self::HighestTotal { scorer, lead } => {
                write!(formatter, "the highest total, {lead:.2} ahead, most of it by {scorer}")
            }
            Self::Tie { among } => write!(formatter, "chosen by chance among {among} with the same total"),
        }
    }
}
