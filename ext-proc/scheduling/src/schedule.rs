//! The one decision: filters say who may, scorers say how good, the picker says who. Where prefill
//! and decode run apart, it is made for decode, and `schedule/prefill.rs` pairs what it ranked.

mod prefill;

use std::sync::Arc;

use rand::RngCore;

use crate::affinity::{Patience, Trade, Weighing};
use crate::candidate::{Candidate, Demand, assume_the_unknown};
use crate::decision::{CandidateReport, Decision, FilterReport, KvMeasure, Reason, Report, ScorerReport};
use crate::endpoint::{Endpoint, Slot};
use crate::filters::{Decode, Filter, Group, Outlier, Question, Ready, Route, Subset};
use crate::kv::KvPrompt;
use crate::moment::Moment;
use crate::pickers::max_score;
use crate::prefix::{BlockHash, chain};
use crate::profile::Profile;
use crate::refusal::{Refusal, RefusalKind};
use crate::request::{Content, Request};
use crate::routing::Resolution;
use crate::scorers::{PrefixCache, stand_in, tame};
use crate::snapshot::{Pool, Snapshot};

/// Chooses endpoints of `pool` for `request`.
///
/// Nothing is counted or learned: that is for whoever sends the request
/// ([`crate::Load::begin`] with [`Decision::uncached_tokens`], [`crate::PrefixIndex::learn`] with
/// [`Decision::blocks`]).
///
/// # Errors
/// A [`Refusal`] that says which step left nobody, and why.
pub fn schedule(
    profile: &Profile,
    snapshot: &Snapshot,
    pool: &Arc<Pool>,
    request: &Request<'_>,
    now: Moment,
    rng: &mut dyn RngCore,
) -> Result<Decision, Refusal> {
    let resolution = pool
        .routing
        .resolve(request, rng)
        .map_err(|()| RefusalKind::UnknownModel(request.model().unwrap_or_default().to_owned()))?;
    let rewrite_model = request.model().and_then(|model| resolution.as_ref()?.rewrite_model(model));
    let model = rewrite_model.as_deref().or(request.model());
    let decodes = pool.routing.decodes(resolution.as_ref());
    let server = decodes.and_then(|decodes| decodes.server);
    let pairs = server.zip(profile.pairs());
    let (profile, cache) = match pairs {
        Some((_, pairs)) => (&pairs.decode, pairs.prefix_cache()),
        None => (profile, profile.prefix_cache()),
    };
    let (blocks, mut demand) = hash_prompt(cache, request, model);
    let resolution = resolution.as_ref();
    let most = pairs.map_or(profile.kv_tokens(), |(_, pairs)| profile.kv_tokens().max(pairs.prefill.kv_tokens()));
    let (kv, measure) = most.map(|most| measure(snapshot, pool, request, most)).unzip();
    let kv = kv.flatten();
    demand.tokens = kv.as_ref().zip(request.tokens).map(|(kv, tokens)| (count(tokens.ids.len()), kv.tokens));
    let kv = kv.as_ref();
    let asked = Asked { snapshot, pool, request, model, resolution, blocks: &blocks, demand, kv, measure, now };
    let candidates = asked.consider(&pool.endpoints);
    let members = resolution.and_then(|resolution| pool.routing.members(&resolution.server.name));
    let question = Question { members, decodes, ..asked.question(&candidates) };
    let Ranked { mut report, ranked, reason } = asked.rank(profile, &question, &pool.endpoints, rng)?;
    if let Some((server, _)) = server {
        report.model_server = Some(Arc::clone(&server.name));
    }
    let first = ranked.first().and_then(|index| report.candidates.get(*index));
    let uncached_tokens = first.map_or(0, |first| first.missing_tokens(&demand));
    let mut decision = Decision {
        report,
        ranked,
        reason,
        rewrite_model: None,
        blocks: [].into(),
        uncached_tokens,
        disaggregation: None,
    };
    if let Some(((server, pairing), pairs)) = pairs {
        prefill::pair(&asked, server, pairing, pairs, &mut decision, rng)?;
    }
    decision.blocks = blocks.into();
    decision.rewrite_model = rewrite_model;
    Ok(decision)
}

/// The prompt's blocks, where they are wanted. The engine's name of the model seeds them, so that
/// aliases of one model share a cache and adapters do not.
fn hash_prompt(cache: Option<&PrefixCache>, request: &Request<'_>, model: Option<&str>) -> (Vec<BlockHash>, Demand) {
    let Content::Parsed(body) = &request.content else { return Default::default() };
    let mut demand = Demand { prompt_bytes: body.prompt.len(), ..Demand::default() };
    let Some(cache) = cache else { return (Vec::new(), demand) };
    let blocks = chain(model.unwrap_or_default(), &body.prompt, cache.block_bytes(), cache.max_blocks());
    demand.blocks = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
    demand.block_bytes = cache.block_bytes();
    (blocks, demand)
}

/// The prompt's keys where the pool's endpoints say what they hold, and which measure that makes.
fn measure<'a>(
    snapshot: &Snapshot,
    pool: &Pool,
    request: &Request<'a>,
    most: usize,
) -> (Option<KvPrompt<'a>>, KvMeasure) {
    let Some(tokens) = &request.tokens else { return (None, KvMeasure::NoTokens) };
    let sizes = snapshot.block_sizes(pool);
    if sizes.is_empty() {
        return (None, KvMeasure::NoEvents);
    }
    match KvPrompt::new(tokens, most, &sizes) {
        Some(prompt) => {
            let tokens = prompt.tokens;
            (Some(prompt), KvMeasure::Exact { tokens })
        }
        None => (None, KvMeasure::NoBlock),
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A request, and all that is the same for every list of endpoints that it is asked of.
#[derive(Clone, Copy)]
struct Asked<'a> {
    snapshot: &'a Snapshot,
    pool: &'a Pool,
    request: &'a Request<'a>,
    /// The model's name as the engine will see it.
    model: Option<&'a str>,
    resolution: Option<&'a Resolution>,
    blocks: &'a [BlockHash],
    demand: Demand,
    /// The prompt as the engines' own accounts are asked of it.
    kv: Option<&'a KvPrompt<'a>>,
    measure: Option<KvMeasure>,
    now: Moment,
}

/// What one profile made of one list of endpoints.
struct Ranked {
    report: Report,
    ranked: Vec<usize>,
    reason: Reason,
}

impl<'a> Asked<'a> {
    /// Every one of the endpoints, with what is known of it. What is live or behind a pointer is read
    /// here, once: filters, scorers and the report speak of the same numbers.
    fn consider<'e>(&self, endpoints: &'e [Arc<Endpoint>]) -> Vec<Candidate<'e>> {
        let matched = self.snapshot.prefixes.matched(self.blocks);
        let mut candidates = Candidate::all(endpoints, self.now, &matched);
        if let Some(kv) = self.kv {
            let slots: Vec<Slot> = endpoints.iter().map(|endpoint| endpoint.slot).collect();
            let held = kv.held(&self.snapshot.kv, &slots);
            candidates.iter_mut().zip(held).for_each(|(candidate, held)| candidate.held = Some(held));
        }
        assume_the_unknown(&mut candidates);
        candidates
    }

    fn question<'q>(&'q self, candidates: &'q [Candidate<'q>]) -> Question<'q> {
        Question {
            request: self.request,
            pool: &self.pool.name,
            model: self.model,
            resolution: self.resolution,
            members: None,
            decodes: None,
            group: None,
            candidates,
        }
    }

    /// Filters, scores and orders the `endpoints`, whom the question's candidates are.
    fn rank(
        &self,
        profile: &Profile,
        question: &Question<'_>,
        endpoints: &Arc<[Arc<Endpoint>]>,
        rng: &mut dyn RngCore,
    ) -> Result<Ranked, Refusal> {
        let candidates = question.candidates;
        let scorer = |(name, weight, _)| ScorerReport { name, weight, scores: Vec::new() };
        let mut report = Report {
            pool: self.pool.name.clone(),
            model: self.request.model().map(str::to_owned),
            route: self.resolution.map(|resolution| Arc::clone(&resolution.route.name)),
            model_server: self.resolution.map(|resolution| Arc::clone(&resolution.server.name)),
            filters: Vec::new(),
            scorers: profile.scorers().map(scorer).collect(),
            endpoints: Arc::clone(endpoints),
            candidates: candidates.iter().map(untouched).collect(),
            blocks: self.demand.blocks,
            kv: self.measure,
            trade: None,
            at: self.now,
        };
        let kept = match filter(profile, question, &mut report) {
            Ok(kept) => kept,
            Err(kind) => return Err(Refusal { kind, report: Some(Box::new(report)) }),
        };
        let (totals, stand_ins) = score(profile, candidates, self.demand, &kept, &mut report, rng);
        let (ranked, among) = max_score(&totals, rng);
        let ranked: Vec<usize> = ranked.into_iter().filter_map(|place| kept.get(place).copied()).collect();
        let reason = reason(&report, &ranked, among, &stand_ins);
        let chosen = ranked.first().copied();
        report.trade = profile.patience().and_then(|patience| trade(candidates, &kept, chosen?, self.demand, patience));
        Ok(Ranked { report, ranked, reason })
    }
}

/// The candidate before any filter or scorer has seen it.
fn untouched(candidate: &Candidate<'_>) -> CandidateReport {
    let Candidate { in_flight, matched_blocks, held, .. } = *candidate;
    let held_tokens = held.map(|held| held.tokens);
    CandidateReport { removed_by: None, total: None, in_flight, matched_blocks, held_tokens }
}

/// Runs the filters that apply; the indices of the endpoints they leave.
fn filter(profile: &Profile, question: &Question<'_>, report: &mut Report) -> Result<Vec<usize>, RefusalKind> {
    let route: Option<(&'static str, &dyn Filter)> = question.members.map(|_| ("route", &Route as _));
    let decode: Option<(&'static str, &dyn Filter)> = question.decodes.map(|_| ("decode", &Decode as _));
    let group: Option<(&'static str, &dyn Filter)> = question.group.map(|_| ("group", &Group as _));
    // The gateway says where it may send a request; prefill is our own.
    let subset = question.request.subset.filter(|_| question.group.is_none());
    let subset: Option<(&'static str, &dyn Filter)> = subset.map(|_| ("subset", &Subset as _));
    let outlier = question.candidates.iter().any(|candidate| candidate.outlier);
    let outlier: Option<(&'static str, &dyn Filter)> = outlier.then_some(("outlier", &Outlier as _));
    let always =
        route.into_iter().chain(decode).chain(group).chain([("ready", &Ready as _)]).chain(subset).chain(outlier);
    let mut kept: Vec<usize> = (0..question.candidates.len()).collect();
    for (place, (name, filter)) in (0_u16..).zip(always.chain(profile.filters())) {
        let before = kept.len();
        let mut last = kept.last().copied();
        filter.filter(question, &mut kept);
        report.filters.push(FilterReport { name, before, after: kept.len() });
        if kept.len() < before {
            let mut survivors = kept.iter().copied().peekable();
            for (index, candidate) in report.candidates.iter_mut().enumerate() {
                if survivors.next_if_eq(&index).is_none() && candidate.removed_by.is_none() {
                    candidate.removed_by = Some(place);
                    last = Some(index);
                }
            }
        }
        if kept.is_empty() {
            let last = last.and_then(|index| question.endpoint(index));
            return Err(match last {
                Some(last) => filter.refusal(question, name, last),
                None => RefusalKind::NoneReady(question.pool.to_string()),
            });
        }
    }
    Ok(kept)
}

/// Scores the candidates that are left, into the report; their totals, and for each scorer what stood
/// in for a missing measure.
fn score(
    profile: &Profile,
    candidates: &[Candidate<'_>],
    demand: Demand,
    kept: &[usize],
    report: &mut Report,
    rng: &mut dyn RngCore,
) -> (Vec<f32>, Vec<Option<f32>>) {
    let all = candidates.len();
    let left: Vec<Candidate<'_>>;
    let candidates = if kept.len() == all {
        candidates
    } else {
        left = kept.iter().filter_map(|index| candidates.get(*index)).cloned().collect();
        &left
    };
    let mut totals = vec![0.0; kept.len()];
    let mut stand_ins = Vec::with_capacity(report.scorers.len());
    for ((_, weight, scorer), scored) in profile.scorers().zip(&mut report.scorers) {
        let mut scores = vec![None; kept.len()];
        scorer.score(demand, candidates, rng, &mut scores);
        tame(&mut scores);
        let stand_in = stand_in(&scores);
        stand_ins.push(stand_in);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += weight * score.or(stand_in).unwrap_or_default();
        }
        scored.scores = spread(scores, kept, all);
    }
    for (index, total) in kept.iter().zip(&totals) {
        if let Some(candidate) = report.candidates.get_mut(*index) {
            candidate.total = Some(*total);
        }
    }
    (totals, stand_ins)
}

/// The warmest of the `kept`, and what going there would win and lose, where it was not chosen.
fn trade(
    candidates: &[Candidate<'_>],
    kept: &[usize],
    chosen: usize,
    demand: Demand,
    patience: Patience,
) -> Option<(usize, Trade)> {
    // Tokens or blocks: all candidates are measured alike.
    let holds =
        |candidate: &Candidate<'_>| candidate.held.map_or(candidate.matched_blocks as f32, |held| held.weighted);
    let left = || kept.iter().filter_map(|index| Some((*index, candidates.get(*index)?)));
    let chosen = candidates.get(chosen).map_or(0.0, holds);
    let warmer = left().filter(|(_, candidate)| holds(candidate) > chosen);
    let (index, warmest) = warmer.max_by(|(_, one), (_, other)| holds(one).total_cmp(&holds(other)))?;
    let estimated = || demand.cached_tokens(warmest.matched_blocks) as f32;
    let saved = warmest.held.map_or_else(estimated, |held| held.weighted);
    Some((index, Weighing::of(left().map(|(_, candidate)| candidate), patience).trade(warmest, saved)))
}

/// The scores of the `kept` at their places among `all` candidates.
fn spread(scores: Vec<Option<f32>>, kept: &[usize], all: usize) -> Vec<Option<f32>> {
    if kept.len() == all {
        return scores;
    }
    let mut spread = vec![None; all];
    for (index, score) in kept.iter().zip(scores) {
        if let Some(place) = spread.get_mut(*index) {
            *place = score;
        }
    }
    spread
}

fn reason(report: &Report, ranked: &[usize], among: usize, stand_ins: &[Option<f32>]) -> Reason {
    if among > 1 {
        return Reason::Tie { among };
    }
    let [first, second, ..] = *ranked else { return Reason::OnlyCandidate };
    let ahead = |(scorer, stand_in): (&ScorerReport, &Option<f32>)| {
        let score = |index: usize| scorer.score(index).or(*stand_in).unwrap_or_default();
        (scorer.name, scorer.weight * (score(first) - score(second)))
    };
    let total = |index: usize| report.candidates.get(index).and_then(|candidate| candidate.total).unwrap_or_default();
    let leads = report.scorers.iter().zip(stand_ins).map(ahead);
    match leads.max_by(|(_, one), (_, other)| one.total_cmp(other)) {
        Some((scorer, _)) => Reason::HighestTotal { scorer, lead: total(first) - total(second) },
        None => Reason::Tie { among },
    }
}

#[cfg(test)]
mod tests;
