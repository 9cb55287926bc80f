//! The other half of a pair: whether prefill runs apart, and on which endpoint.
//!
//! Decode has been ranked. Where the best decode endpoint needs prefill apart, the first of the ranked
//! is chosen in whose group a prefill endpoint can be used; only where there is none does the best
//! decode endpoint work alone, or is the request refused, as `whenNoPrefill` says. That one further down
//! holds the prompt is no reason to pass over the others: it was ranked by load. The rule when *not* to
//! disaggregate is that of llm-d's prefix-based decider: by the length of the prompt and by what of
//! it the decode endpoint does not hold.
//!
//! Once a prefill endpoint is chosen, decode endpoints of other groups are no fallbacks any more: the
//! blocks cannot travel to them.

use std::sync::Arc;

use rand::RngCore;

use super::{Asked, Ranked};
use crate::decision::{Decision, Reason};
use crate::disaggregation::{Disaggregation, SIDECAR_LABEL, Verdict};
use crate::filters::Question;
use crate::pairing::{Group, Pairing};
use crate::profile::{PairRules, Pairs, WhenNoPrefill};
use crate::refusal::{Refusal, RefusalKind};
use crate::request::Content;
use crate::routing::ModelServer;

/// Ends of the paths whose APIs take the parameters of a transfer, in vLLM and SGLang: completions, chat
/// completions, and SGLang's own.
const GENERATING: [&str; 2] = ["/completions", "/generate"];

/// Decides about prefill for a `decision` about decode, and chooses among the decode endpoints anew
/// where the best one cannot be paired.
pub(super) fn pair(
    asked: &Asked<'_>,
    server: &ModelServer,
    pairing: &Pairing,
    pairs: &Pairs,
    decision: &mut Decision,
    rng: &mut dyn RngCore,
) -> Result<(), Refusal> {
    // What a group without usable prefill was refused with; it is asked once.
    let mut refused: Vec<(Option<Group>, Refusal)> = Vec::new();
    let mut chosen = None;
    for (place, index) in decision.ranked.iter().enumerate() {
        let candidate = decision.report.candidates.get(*index);
        let verdict =
            verdict(&pairs.rules, asked, candidate.map_or(0, |candidate| candidate.missing_tokens(&asked.demand)));
        let apart = matches!(verdict, Verdict::Disaggregate { .. });
        if place == 0 && !apart {
            chosen = Some((place, verdict, None));
            break;
        }
        let group = pairing.of_decode(*index);
        if refused.iter().any(|(other, _)| *other == group) {
            continue;
        }
        match prefills(asked, server, pairing, pairs, group, rng) {
            Ok(prefills) => {
                chosen = Some((place, verdict, apart.then_some(prefills)));
                break;
            }
            Err(refusal) => refused.push((group, refusal)),
        }
    }
    let (place, verdict, prefills) = match chosen {
        Some(chosen) => chosen,
        None if pairs.rules.when_no_prefill == WhenNoPrefill::Refuse => return Err(refusal(server, refused)),
        None => (0, Verdict::NoPrefill, None),
    };
    prefer(decision, place, pairing, prefills.is_some());
    let first = decision.rows().next();
    let sidecar = first.is_some_and(|row| row.endpoint.labels.get(SIDECAR_LABEL).is_some_and(|value| value == "true"));
    let uncached_tokens = first.map_or(0, |row| row.candidate.missing_tokens(&asked.demand));
    decision.uncached_tokens = if prefills.is_some() { 0 } else { uncached_tokens };
    let refused = || refused.into_iter().next().and_then(|(_, refusal)| refusal.report);
    let (prefills, uncached_tokens, report) = match prefills {
        Some(Ranked { report, ranked, .. }) => {
            let tries = pairs.rules.prefill_retries as usize + 1;
            let rows: Vec<_> = ranked.iter().take(tries).filter_map(|index| report.row(*index)).collect();
            let uncached_tokens = rows.first().map_or(0, |row| row.candidate.missing_tokens(&asked.demand));
            let endpoints = rows.iter().map(|row| Arc::clone(row.endpoint)).collect();
            (endpoints, uncached_tokens, Some(Box::new(report)))
        }
        None => (Vec::new(), 0, if verdict == Verdict::NoPrefill { refused() } else { None }),
    };
    let connector = server.connector;
    decision.disaggregation = Some(Disaggregation { connector, verdict, prefills, sidecar, uncached_tokens, report });
    Ok(())
}

/// Whether prefill should run apart from a decode endpoint that would have so many tokens to compute.
fn verdict(rules: &PairRules, asked: &Asked<'_>, uncached_tokens: u32) -> Verdict {
    if !matches!(asked.request.content, Content::Parsed(_)) {
        return Verdict::NoPrompt;
    }
    // A data plane may not tell the path.
    let path = asked.request.path;
    if !path.is_empty() && !GENERATING.iter().any(|end| path.ends_with(end)) {
        return Verdict::NotGeneration;
    }
    let tokens = asked.demand.missing_tokens(0, None);
    let least = rules.min_prompt_tokens.max(rules.min_uncached_tokens);
    if tokens < least {
        return Verdict::ShortPrompt { tokens, least };
    }
    if uncached_tokens < rules.min_uncached_tokens {
        return Verdict::Cached { uncached_tokens, least: rules.min_uncached_tokens };
    }
    Verdict::Disaggregate { uncached_tokens }
}

/// The prefill endpoints of the group, best first.
fn prefills(
    asked: &Asked<'_>,
    server: &ModelServer,
    pairing: &Pairing,
    pairs: &Pairs,
    group: Option<Group>,
    rng: &mut dyn RngCore,
) -> Result<Ranked, Refusal> {
    let none = || Refusal::from(RefusalKind::NoPrefill(server.name.to_string()));
    let endpoints = asked.pool.prefills.get(&server.name).ok_or_else(none)?;
    let group = group.ok_or_else(none)?;
    let candidates = asked.consider(endpoints);
    let question = Question { group: Some((pairing, group)), ..asked.question(&candidates) };
    let mut ranked = asked.rank(&pairs.prefill, &question, endpoints, rng)?;
    ranked.report.model_server = Some(Arc::clone(&server.name));
    Ok(ranked)
}

/// Puts the decode endpoint at `place` of the ranked first. One that is `paired` keeps as fallbacks only
/// those of its group.
fn prefer(decision: &mut Decision, place: usize, pairing: &Pairing, paired: bool) {
    let Some(first) = decision.ranked.get(place).copied() else { return };
    decision
        .ranked
        .retain(|index| *index != first && (!paired || pairing.of_decode(*index) == pairing.of_decode(first)));
    decision.ranked.insert(0, first);
    if place > 0 {
        decision.reason = Reason::Paired { passed: place };
    }
}

/// The refusal when no ranked decode endpoint can be paired: the client may come back where every
/// prefill endpoint of the best one's group is saturated.
fn refusal(server: &ModelServer, refused: Vec<(Option<Group>, Refusal)>) -> Refusal {
    let no_prefill = RefusalKind::NoPrefill(server.name.to_string());
    match refused.into_iter().next() {
        Some((_, refusal)) if matches!(refusal.kind, RefusalKind::Overloaded { .. }) => refusal,
        Some((_, refusal)) => Refusal { kind: no_prefill, ..refusal },
        None => no_prefill.into(),
    }
}

#[cfg(test)]
mod tests;
