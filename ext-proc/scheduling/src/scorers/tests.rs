//! Laws of every scorer in the list, also of the ones that are not written yet, and a few examples.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde_json::json;

use super::*;
use crate::fixtures::{address, seconds};
use crate::pickers::max_score;
use crate::{Endpoint, EngineKind, Gauges, InFlight, Load, Slot};

const DEMAND: Demand = Demand { blocks: 100, block_bytes: 64, prompt_bytes: 6400, tokens: None };

/// An endpoint with what is in flight, and the blocks it holds of the prompt.
#[derive(Debug)]
struct Warm {
    endpoint: Endpoint,
    matched: u32,
    _in_flight: Vec<InFlight>,
}

fn endpoint(slot: usize, gauges: Option<Gauges>, in_flight: usize, uncached: u32, matched: u32) -> Warm {
    let load = Arc::new(Load::default());
    let _in_flight = (0..in_flight).map(|_| load.begin(uncached)).collect();
    let endpoint = Endpoint {
        address: address(slot),
        slot: Slot(slot as u32),
        name: format!("default/pod-{slot}").into(),
        labels: Arc::new(BTreeMap::new()),
        ready: true,
        engine: EngineKind::Vllm,
        gauges,
        load,
    };
    Warm { endpoint, matched, _in_flight }
}

/// Just started: nothing in flight, nothing measured, nothing cached.
fn idle(slot: usize) -> Warm {
    endpoint(slot, None, 0, 0, 0)
}

fn any_gauges() -> impl Strategy<Value = Gauges> {
    // Also what engines must not report: an edge may pass it on.
    let share = prop_oneof![0.0..=1.0, Just(f64::NAN), Just(f64::INFINITY), Just(-3.0), Just(7.0)];
    let time = option::of((0_u64..10_000).prop_map(Duration::from_millis));
    let count = prop_oneof![0_u32..40, Just(u32::MAX)];
    (0_u64..20, count.clone(), count.clone(), option::of(share), time.clone(), time, count).prop_map(
        |(read_at, waiting, running, kv_usage, first, next, in_flight_then)| Gauges {
            read_at: seconds(read_at),
            waiting,
            running,
            kv_usage,
            time_to_first_token: first,
            time_per_output_token: next,
            prefilled: None,
            models: None,
            in_flight_then,
        },
    )
}

fn any_endpoints() -> impl Strategy<Value = Vec<Warm>> {
    let one = (option::of(any_gauges()), 0_usize..30, 0_u32..10_000, 0_u32..=100);
    vec(one, 1..12).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(slot, (gauges, load, uncached, matched))| endpoint(slot, gauges, load, uncached, matched))
            .collect()
    })
}

fn candidates(endpoints: &[Warm]) -> Vec<Candidate<'_>> {
    endpoints.iter().map(|Warm { endpoint, matched, .. }| Candidate::new(endpoint, seconds(15), *matched)).collect()
}

/// What the framework makes of a scorer's scores.
fn scores(scorer: &dyn Scorer, candidates: &[Candidate<'_>]) -> Vec<Option<f32>> {
    let mut scores = vec![None; candidates.len()];
    scorer.score(DEMAND, candidates, &mut SmallRng::seed_from_u64(3), &mut scores);
    tame(&mut scores);
    scores
}

fn all() -> impl Iterator<Item = (&'static str, Box<dyn Scorer>)> {
    NAMES.iter().map(|name| (*name, build(name, None).unwrap().unwrap()))
}

fn with_args(name: &str, args: &Value) -> Box<dyn Scorer> {
    build(name, Some(args)).unwrap().unwrap()
}

proptest! {
    #[test]
    fn every_score_is_within_0_and_1(endpoints in any_endpoints()) {
        for (name, scorer) in all() {
            let scores = scores(&*scorer, &candidates(&endpoints));
            prop_assert!(scores.iter().flatten().all(|score| (0.0..=1.0).contains(score)), "{}: {:?}", name, scores);
            prop_assert!(stand_in(&scores).is_none_or(|score| (0.0..=1.0).contains(&score)), "{}", name);
        }
    }

    #[test]
    fn a_score_does_not_depend_on_the_order_of_candidates(endpoints in any_endpoints(), seed in any::<u64>()) {
        for (name, scorer) in all() {
            let by_slot = |candidates: &[Candidate<'_>]| -> BTreeMap<Slot, Option<f32>> {
                candidates.iter().map(|candidate| candidate.endpoint.slot).zip(scores(&*scorer, candidates)).collect()
            };
            let mut candidates = candidates(&endpoints);
            let before = by_slot(&candidates);
            candidates.shuffle(&mut SmallRng::seed_from_u64(seed));
            prop_assert_eq!(before, by_slot(&candidates), "{}", name);
        }
    }

    /// An endpoint that has just started never makes another one look better, under any scorer.
    #[test]
    fn adding_an_idle_endpoint_raises_nobody_elses_score(mut endpoints in any_endpoints()) {
        for (name, scorer) in all() {
            let before = scores(&*scorer, &candidates(&endpoints));
            endpoints.push(idle(endpoints.len()));
            let after = scores(&*scorer, &candidates(&endpoints));
            endpoints.pop();
            for (before, after) in before.iter().zip(&after) {
                // None counts as it did: the mean of the measured.
                prop_assert!(after <= before, "{}: {:?} became {:?}", name, before, after);
            }
        }
    }

    /// By load alone, the pick after an idle endpoint came is never busier than the pick before.
    #[test]
    fn adding_an_idle_endpoint_never_leads_to_a_busier_one(mut endpoints in any_endpoints(), seed in any::<u64>()) {
        let scorer = build("least-request", None).unwrap().unwrap();
        let busy_of_the_pick = |endpoints: &[Warm]| {
            let candidates = candidates(endpoints);
            let totals: Vec<f32> = scores(&*scorer, &candidates).into_iter().map(Option::unwrap).collect();
            candidates[max_score(&totals, &mut SmallRng::seed_from_u64(seed)).0[0]].busy
        };
        let before = busy_of_the_pick(&endpoints);
        endpoints.push(idle(endpoints.len()));
        prop_assert!(busy_of_the_pick(&endpoints) <= before);
    }
}

#[test]
fn nan_and_infinity_from_a_scorer_never_get_out() {
    let mut scores = [Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY), None, Some(0.5)];
    tame(&mut scores);
    assert_eq!(scores, [None, Some(1.0), Some(0.0), None, Some(0.5)]);
    assert_eq!(stand_in(&scores), Some(0.5));
    assert_eq!(stand_in(&[None, None]), Some(0.5));
    assert_eq!(stand_in(&[Some(0.1), Some(0.2)]), None);
}

#[test]
fn one_request_matters_among_idle_endpoints_and_hardly_among_busy_ones() {
    let scorer = build("least-request", None).unwrap().unwrap();
    let difference = |one: usize, other: usize| {
        let endpoints = [endpoint(0, None, one, 0, 0), endpoint(1, None, other, 0, 0)];
        let scores = scores(&*scorer, &candidates(&endpoints));
        scores[0].unwrap() - scores[1].unwrap()
    };
    assert!(difference(0, 5) > 0.5);
    assert!((0.0..0.02).contains(&difference(50, 51)) && difference(50, 51) > 0.0);
    assert!(difference(50, 100) > 0.4, "twice as busy still matters");
}

fn latencies(times: &[Option<(u64, u64)>]) -> Vec<Warm> {
    let gauges = |(first, next): (u64, u64)| Gauges {
        read_at: seconds(15),
        time_to_first_token: Some(Duration::from_millis(first)),
        time_per_output_token: Some(Duration::from_millis(next)),
        ..Gauges::default()
    };
    times.iter().enumerate().map(|(slot, times)| endpoint(slot, times.map(gauges), 0, 0, 0)).collect()
}

#[test]
fn latency_is_compared_with_the_best_and_a_missing_one_is_neither_best_nor_worst() {
    let endpoints = latencies(&[Some((100, 10)), Some((400, 20)), None, Some((0, 0))]);
    let halves = scores(&*build("least-latency", None).unwrap().unwrap(), &candidates(&endpoints));
    assert_eq!(halves, [Some(1.0), Some(0.375), None, None]);
    let first_only = with_args("least-latency", &json!({"TTFTTPOTWeightFactor": 1}));
    assert_eq!(scores(&*first_only, &candidates(&endpoints))[1], Some(0.25));
}

#[test]
fn gpu_usage_is_the_free_share_and_stale_gauges_are_no_measure() {
    let gauges = |read_at| Gauges { read_at: seconds(read_at), kv_usage: Some(0.25), ..Gauges::default() };
    let endpoints = [endpoint(0, Some(gauges(15)), 0, 0, 0), endpoint(1, Some(gauges(5)), 0, 0, 0)];
    assert_eq!(scores(&*build("gpu-usage", None).unwrap().unwrap(), &candidates(&endpoints)), [Some(0.75), None]);
}

#[test]
fn affinity_holds_while_waiting_is_quicker_and_then_yields_by_and_by() {
    // Fully warm: 1600 tokens saved; the other endpoint is cold and idle.
    let scorer = build("prefix-cache", None).unwrap().unwrap();
    let warm = |in_flight, uncached| {
        let endpoints = [endpoint(0, None, in_flight, uncached, 100), idle(1)];
        scores(&*scorer, &candidates(&endpoints))[0].unwrap()
    };
    assert_eq!(warm(0, 0), 1.0);
    assert_eq!(warm(3, 0), 1.0, "1536 tokens of extra work, less than the 1600 saved");
    assert_eq!(warm(1, 1600 + 4096 - 512), 0.5, "half a batch beyond what is saved");
    assert_eq!(warm(1, 20_000), 0.0);
    let patient = with_args("prefix-cache", &json!({"patienceTokens": 286_720}));
    let endpoints = [endpoint(0, None, 1, 20_000, 100), idle(1)];
    assert!(scores(&*patient, &candidates(&endpoints))[0].unwrap() > 0.9);
}

#[test]
fn the_backlog_of_all_counts_relative_to_the_least() {
    let scorer = build("prefix-cache", None).unwrap().unwrap();
    let endpoints = [endpoint(0, None, 20, 4000, 50), endpoint(1, None, 20, 4000, 0)];
    assert_eq!(scores(&*scorer, &candidates(&endpoints)), [Some(0.5), Some(0.0)], "nobody else is quicker");
}

/// Of a prompt of 1600 tokens, in whole blocks.
fn exact(scorer: &dyn Scorer, endpoints: &[Warm], held: &[(u32, f32)]) -> Vec<Option<f32>> {
    let mut candidates = candidates(endpoints);
    for (candidate, (tokens, weighted)) in candidates.iter_mut().zip(held) {
        candidate.held = Some(crate::kv::Held { tokens: *tokens, weighted: *weighted });
    }
    let demand = Demand { tokens: Some((1607, 1600)), ..DEMAND };
    let mut scores = vec![None; candidates.len()];
    scorer.score(demand, &candidates, &mut SmallRng::seed_from_u64(3), &mut scores);
    scores
}

#[test]
fn the_engines_own_account_counts_before_what_was_learned() {
    let scorer = build("kvcache-aware", None).unwrap().unwrap();
    // The first is believed to be warm, and has evicted all; half of what the second has is slower to get.
    let endpoints = [endpoint(0, None, 0, 0, 100), idle(1), idle(2)];
    let scores = exact(&*scorer, &endpoints, &[(0, 0.0), (1600, 1440.0), (400, 400.0)]);
    assert_eq!(scores, [Some(0.0), Some(0.9), Some(0.25)]);
}

#[test]
fn without_an_exact_measure_the_approximate_one_takes_over() {
    let endpoints = [endpoint(0, None, 2, 900, 50), endpoint(1, None, 0, 0, 10), idle(2)];
    let (exact, approximate) = (build("kvcache-aware", None), build("prefix-cache", None));
    let candidates = candidates(&endpoints);
    let expected = scores(&*approximate.unwrap().unwrap(), &candidates);
    assert_eq!(scores(&*exact.unwrap().unwrap(), &candidates), expected);
    assert!(expected[0] > expected[1] && expected[1] > expected[2], "{expected:?}");
}

#[test]
fn both_cache_scorers_yield_by_the_same_rule() {
    let (precise, approximate) = (build("kvcache-aware", None), build("prefix-cache", None));
    for queued in [0, 1_000, 3_000, 6_000, 20_000] {
        let endpoints = [endpoint(0, None, 1, queued, 100), idle(1)];
        let by_events = exact(&**precise.as_ref().unwrap().as_ref().unwrap(), &endpoints, &[(1600, 1600.0), (0, 0.0)]);
        assert_eq!(by_events, scores(&**approximate.as_ref().unwrap().as_ref().unwrap(), &candidates(&endpoints)));
    }
}
