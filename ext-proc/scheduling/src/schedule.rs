//! The one decision: filters say who may, scorers say how good, the picker says who.

use std::sync::Arc;

use rand::RngCore;

use crate::candidate::{Candidate, Demand};
use crate::decision::{CandidateReport, Decision, FilterReport, Reason, Report, ScorerReport, Scores};
use crate::endpoint::{Endpoint, Slot};
use crate::filters::{Filter, Question, Ready, Route, Subset};
use crate::moment::Moment;
use crate::pickers::max_score;
use crate::prefix::{BlockHash, chain};
use crate::profile::Profile;
use crate::refusal::{Refusal, RefusalKind};
use crate::request::{Content, Request};
use crate::scorers::{stand_in, tame};
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
    let question = Question {
        request,
        pool: &pool.name,
        model: rewrite_model.as_deref().or(request.model()),
        resolution: resolution.as_ref(),
        members: resolution.as_ref().and_then(|resolution| pool.routing.members(&resolution.server.name)),
        endpoints: &pool.endpoints,
        now,
    };
    let (blocks, demand) = hash_prompt(profile, &question);
    let mut report = Report {
        pool: pool.name.clone(),
        model: request.model().map(str::to_owned),
        route: resolution.as_ref().map(|resolution| Arc::clone(&resolution.route.name)),
        model_server: resolution.as_ref().map(|resolution| Arc::clone(&resolution.server.name)),
        filters: Vec::new(),
        scorers: profile.scorers().map(|(name, weight, _)| ScorerReport { name, weight }).collect(),
        candidates: consider(snapshot, &question, &blocks),
        blocks: demand.blocks,
    };
    let kept = match filter(profile, &question, &mut report) {
        Ok(kept) => kept,
        Err(kind) => return Err(Refusal { kind, report: Some(Box::new(report)) }),
    };
    let (totals, stand_ins) = score(profile, &question, demand, &kept, &mut report, rng);
    let (ranked, among) = max_score(&totals, rng);
    let ranked: Vec<usize> = ranked.into_iter().filter_map(|place| kept.get(place).copied()).collect();
    let matched =
        ranked.first().and_then(|index| report.candidates.get(*index)).map_or(0, |first| first.matched_blocks);
    let reason = reason(&report, &ranked, among, &stand_ins);
    let uncached_tokens = demand.uncached_tokens(matched);
    Ok(Decision { report, ranked, reason, rewrite_model, blocks: blocks.into(), uncached_tokens })
}

/// The prompt's blocks, where the profile wants them. The engine's name of the model seeds them, so
/// that aliases of one model share a cache and adapters do not.
fn hash_prompt(profile: &Profile, question: &Question<'_>) -> (Vec<BlockHash>, Demand) {
    let Content::Parsed(body) = &question.request.content else { return Default::default() };
    let mut demand = Demand { prompt_bytes: body.prompt.len(), ..Demand::default() };
    let Some(cache) = profile.prefix_cache() else { return (Vec::new(), demand) };
    let model = question.model.unwrap_or_default();
    let blocks = chain(model, &body.prompt, cache.block_bytes(), cache.max_blocks());
    demand.blocks = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
    demand.block_bytes = cache.block_bytes();
    (blocks, demand)
}

/// Every endpoint of the pool, with what is known of it.
fn consider(snapshot: &Snapshot, question: &Question<'_>, blocks: &[BlockHash]) -> Vec<CandidateReport> {
    let matched = if blocks.is_empty() {
        Vec::new()
    } else {
        let slots: Vec<Slot> = question.endpoints.iter().map(|endpoint| endpoint.slot).collect();
        snapshot.prefixes.matched(blocks, &slots)
    };
    let consider = |(index, endpoint): (usize, &Arc<Endpoint>)| CandidateReport {
        endpoint: Arc::clone(endpoint),
        removed_by: None,
        scores: Scores::default(),
        total: None,
        in_flight: endpoint.load.requests(),
        gauges_age: endpoint.gauges.as_ref().map(|gauges| question.now.since(gauges.read_at)),
        matched_blocks: matched.get(index).copied().unwrap_or(0),
    };
    question.endpoints.iter().enumerate().map(consider).collect()
}

/// Runs the filters that apply; the indices of the endpoints they leave.
fn filter(profile: &Profile, question: &Question<'_>, report: &mut Report) -> Result<Vec<usize>, RefusalKind> {
    let route: Option<(&'static str, &dyn Filter)> = question.members.map(|_| ("route", &Route as _));
    let subset: Option<(&'static str, &dyn Filter)> = question.request.subset.map(|_| ("subset", &Subset as _));
    let always = route.into_iter().chain([("ready", &Ready as _)]).chain(subset);
    let mut kept: Vec<usize> = (0..question.endpoints.len()).collect();
    for (place, (name, filter)) in always.chain(profile.filters()).enumerate() {
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

/// Scores the endpoints that are left, into the report; their totals, and for each scorer what stood
/// in for a missing measure.
fn score(
    profile: &Profile,
    question: &Question<'_>,
    demand: Demand,
    kept: &[usize],
    report: &mut Report,
    rng: &mut dyn RngCore,
) -> (Vec<f32>, Vec<f32>) {
    let known = |index: &usize| {
        let matched = report.candidates.get(*index)?.matched_blocks;
        question.endpoints.get(*index).map(|endpoint: &Arc<Endpoint>| Candidate::new(endpoint, question.now, matched))
    };
    let candidates: Vec<Candidate<'_>> = kept.iter().filter_map(known).collect();
    let mut totals = vec![0.0; candidates.len()];
    let mut scores = vec![None; candidates.len()];
    let mut stand_ins = Vec::new();
    for (_, weight, scorer) in profile.scorers() {
        scores.fill(None);
        scorer.score(demand, &candidates, rng, &mut scores);
        tame(&mut scores);
        let stand_in = stand_in(&scores);
        stand_ins.push(stand_in);
        for (((index, score), total), candidate) in kept.iter().zip(&scores).zip(&mut totals).zip(&candidates) {
            *total += weight * score.unwrap_or(stand_in);
            if let Some(row) = report.candidates.get_mut(*index) {
                row.scores.push(*score);
                row.in_flight = candidate.in_flight;
            }
        }
    }
    for (index, total) in kept.iter().zip(&totals) {
        if let Some(row) = report.candidates.get_mut(*index) {
            row.total = Some(*total);
        }
    }
    (totals, stand_ins)
}

fn reason(report: &Report, ranked: &[usize], among: usize, stand_ins: &[f32]) -> Reason {
    if among > 1 {
        return Reason::Tie { among };
    }
    let [first, second, ..] = ranked else { return Reason::OnlyCandidate };
    let (Some(first), Some(second)) = (report.candidates.get(*first), report.candidates.get(*second)) else {
        return Reason::OnlyCandidate;
    };
    let lead = first.total.unwrap_or_default() - second.total.unwrap_or_default();
    let ahead = |((place, scorer), stand_in): ((usize, &ScorerReport), &f32)| {
        let score = |it: &CandidateReport| it.scores.get(place).copied().flatten().unwrap_or(*stand_in);
        (scorer.name, scorer.weight * (score(first) - score(second)))
    };
    let leads = report.scorers.iter().enumerate().zip(stand_ins).map(ahead);
    match leads.max_by(|(_, one), (_, other)| one.total_cmp(other)) {
        Some((scorer, _)) => Reason::HighestTotal { scorer, lead },
        None => Reason::Tie { among },
    }
}

#[cfg(test)]
mod tests;
