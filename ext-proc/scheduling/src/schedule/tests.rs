use serde_json::json;

use super::*;
use crate::fixtures::*;
use crate::{Declared, Gauges, InFlight};

fn chosen(decision: &Decision) -> usize {
    let address = decision.endpoint().unwrap().address;
    (0..2000).find(|number| crate::fixtures::address(*number) == address).unwrap()
}

fn refusal(result: Result<Decision, Refusal>) -> Refusal {
    result.map(|decision| decision.to_string()).unwrap_err()
}

#[test]
fn a_thousand_picks_over_equal_endpoints_differ_by_at_most_one() {
    for endpoints in [1, 3, 7, 64] {
        let mut scene = Scene::equal(endpoints);
        let mut in_flight = Vec::new();
        for _ in 0..1000 {
            let decision = scene.ask("").unwrap();
            in_flight.push(decision.endpoint().unwrap().load.begin(decision.uncached_tokens));
            let counts: Vec<u32> = scene.pool().endpoints.iter().map(|endpoint| endpoint.load.requests()).collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }
}

#[test]
fn ties_are_spread_over_all_endpoints() {
    let mut scene = Scene::equal(4);
    let mut counts = [0; 4];
    for _ in 0..2000 {
        let decision = scene.ask("hello").unwrap();
        assert_eq!(decision.reason, Reason::Tie { among: 4 });
        counts[chosen(&decision)] += 1;
    }
    assert!(counts.iter().all(|count| (420..580).contains(count)), "{counts:?}");
}

#[test]
fn one_or_two_requests_of_difference_do_not_outweigh_a_long_cached_prefix() {
    let mut scene = Scene::equal(4);
    let prompt = text("system", 8192);
    let first = scene.ask(&prompt).unwrap();
    scene.learn(&first);
    let warm = chosen(&first);
    // The first one is still in flight with its whole prompt to compute, then a second of the kind.
    let _one = first.endpoint().unwrap().load.begin(first.uncached_tokens);
    let second = scene.ask(&prompt).unwrap();
    assert_eq!((chosen(&second), second.uncached_tokens), (warm, 0));
    let _two = second.endpoint().unwrap().load.begin(second.uncached_tokens);
    let third = scene.ask(&prompt).unwrap();
    assert_eq!(chosen(&third), warm, "{third}");
    assert!(matches!(third.reason, Reason::HighestTotal { scorer: "prefix-cache", .. }), "{third}");
}

#[test]
fn a_busy_warm_endpoint_does_not_win_for_ever() {
    let mut scene = Scene::equal(4);
    let prompt = text("system", 8192);
    let first = scene.ask(&prompt).unwrap();
    scene.learn(&first);
    let warm = chosen(&first);
    let mut in_flight: Vec<InFlight> = Vec::new();
    let spilled = loop {
        let decision = scene.ask(&prompt).unwrap();
        if chosen(&decision) != warm {
            break decision;
        }
        in_flight.push(decision.endpoint().unwrap().load.begin(decision.uncached_tokens));
        assert!(in_flight.len() < 64, "the warm endpoint has won 64 times over three idle ones");
    };
    assert!(in_flight.len() >= 4, "affinity gave way to {} requests", in_flight.len());
    let yielded = spilled.yielded().unwrap().candidate;
    assert_eq!((yielded.in_flight as usize, yielded.matched_blocks), (in_flight.len(), 128));
    let text = spilled.to_string();
    assert!(text.contains("affinity yielded to load: 10.0.0."), "{text}");
    assert!(text.contains(" ms more, saves 128 ms"), "{text}");
    in_flight.clear();
    assert_eq!(chosen(&scene.ask(&prompt).unwrap()), warm, "idle again, it is the best again");
}

#[test]
fn an_endpoint_that_no_scorer_knows_is_still_a_candidate() {
    let mut scene = Scene::equal(2);
    scene.scrape(0, Gauges { running: 40, kv_usage: Some(0.9), ..Gauges::default() });
    // Nobody knows what runs at the second one, so as much as at the first is assumed.
    let _own = scene.pool().endpoints[0].load.begin(0);
    let decision = scene.ask("hello").unwrap();
    assert_eq!(chosen(&decision), 1);
    let row = decision.report.rows().nth(1).unwrap();
    let scores: Vec<_> = row.scores().map(|(scorer, score)| (scorer.name, score)).collect();
    let expected =
        [("least-request", Some(1.0)), ("gpu-usage", None), ("least-latency", None), ("prefix-cache", Some(0.0))];
    assert_eq!(scores, expected);
}

#[test]
fn no_endpoint_ready_is_said_so() {
    let mut gone = declared(0, &[]);
    gone.ready = false;
    let mut scene = Scene::of(Declared { pools: vec![pool_of("pool", vec![gone])], ..Declared::default() });
    let refusal = refusal(scene.ask(""));
    assert_eq!(refusal.kind, RefusalKind::NoneReady("default/pool".to_owned()));
    assert_eq!(refusal.to_string(), "no endpoint of the pool `default/pool` is ready (ready kept 0 of 1)");
    assert_eq!(refusal.report.unwrap().rows().next().unwrap().removed_by(), Some("ready"));
}

#[test]
fn an_empty_pool_is_not_ready() {
    assert!(matches!(refusal(Scene::equal(0).ask("")).kind, RefusalKind::NoneReady(_)));
}

#[test]
fn a_subset_hint_is_obeyed_and_may_leave_nobody() {
    let mut scene = Scene::equal(3);
    let headers = no_headers();
    let mut ask = |subset: &crate::Subset| {
        let request = Request {
            id: "1",
            path: "",
            headers: &headers,
            content: Content::Hidden,
            subset: Some(subset),
            tokens: None,
            resolution: None,
        };
        scene.decide(&request)
    };
    let one = crate::Subset { addresses: vec![address(2)], hosts: Vec::new() };
    let decision = ask(&one).unwrap();
    assert_eq!((chosen(&decision), decision.reason), (2, Reason::OnlyCandidate));
    let by_host = crate::Subset { addresses: Vec::new(), hosts: vec![address(1).ip()] };
    assert_eq!(chosen(&ask(&by_host).unwrap()), 1);
    assert_eq!(refusal(ask(&crate::Subset::default())).kind, RefusalKind::SubsetEmpty);
}

#[test]
fn full_queues_everywhere_shed_and_one_free_queue_serves() {
    let mut scene = Scene::equal(2);
    scene.scrape(0, Gauges { waiting: 10, ..Gauges::default() });
    let decision = scene.ask("").unwrap();
    assert_eq!(chosen(&decision), 1, "not known to be full is not full");
    scene.scrape(1, Gauges { waiting: 11, ..Gauges::default() });
    let refusal = refusal(scene.ask(""));
    assert!(matches!(refusal.kind, RefusalKind::Overloaded { .. }));
    assert!(refusal.to_string().ends_with("(ready kept 2 of 2, least-request kept 0 of 2)"), "{refusal}");
    scene.now = seconds(11);
    assert!(scene.ask("").is_ok(), "what was read long ago refuses nobody");
}

fn lora_profile() -> serde_json::Value {
    json!({"scheduler": {"plugins": {"Filter": {"enabled": ["lora-affinity"]}}}})
}

fn models(names: &[&str]) -> Gauges {
    Gauges { models: Some(names.iter().map(|name| Arc::from(*name)).collect()), ..Gauges::default() }
}

#[test]
fn lora_affinity_keeps_endpoints_that_have_the_adapter() {
    let mut scene = Scene::equal(3).with_profile(&lora_profile());
    scene.scrape(1, models(&["base", MODEL]));
    scene.scrape(2, models(&["base"]));
    let decision = scene.ask("").unwrap();
    assert_eq!(chosen(&decision), 1);
    let removed: Vec<_> = decision.report.rows().filter_map(|row| row.removed_by()).collect();
    assert_eq!(removed, ["lora-affinity", "lora-affinity"]);
}

#[test]
fn lora_affinity_keeps_all_for_a_base_models_alias() {
    let mut scene = Scene::equal(2).with_profile(&lora_profile());
    scene.scrape(0, models(&["base"]));
    scene.scrape(1, models(&["base"]));
    assert_eq!(scene.ask("").unwrap().report.filters.last().unwrap().after, 2);
}

#[test]
fn an_adapter_by_route_that_nobody_has_loaded_is_refused_with_the_reason() {
    let mut route = route("r", "base", &[("s", 1)]);
    route.adapters = vec![MODEL.into()];
    let pools = vec![pool_of("pool", vec![declared(0, &[("app", "x")])])];
    let declared = Declared {
        pools,
        model_servers: vec![server("s", &[("app", "x")])],
        model_routes: vec![route],
        ..Declared::default()
    };
    let mut scene = Scene::of(declared).with_profile(&lora_profile());
    assert!(scene.ask("").is_ok(), "nothing is known of the models yet");
    scene.scrape(0, models(&["base"]));
    let refusal = refusal(scene.ask(""));
    assert!(
        refusal.to_string().starts_with(
            "the filter `lora-affinity` left no endpoint: the engine has not loaded `llama` (route kept 1 of 1"
        ),
        "{refusal}"
    );
}

#[test]
fn a_route_restricts_to_its_model_server_and_names_both() {
    let endpoints = vec![declared(0, &[("app", "x")]), declared(1, &[("app", "y")])];
    let mut y = server("y", &[("app", "y")]);
    y.model = Some("real-name".into());
    let declared = Declared {
        workers: Vec::new(),
        pools: vec![pool_of("pool", endpoints)],
        model_servers: vec![server("x", &[("app", "x")]), y],
        model_routes: vec![route("r", MODEL, &[("y", 100)])],
    };
    let mut scene = Scene::of(declared);
    let decision = scene.ask("hello").unwrap();
    assert_eq!(chosen(&decision), 1);
    assert_eq!(decision.report.route.as_deref(), Some("default/r"));
    assert_eq!(decision.report.model_server.as_deref(), Some("default/y"));
    assert_eq!(decision.rewrite_model.as_deref(), Some("real-name"));
    let unknown = with_prompt("other", "hello", |request| scene.decide(request));
    assert_eq!(refusal(unknown).kind, RefusalKind::UnknownModel("other".to_owned()));
}

#[test]
fn the_report_says_of_every_endpoint_what_was_known() {
    let mut scene = Scene::equal(7);
    for number in 0..7 {
        scene.scrape(
            number,
            Gauges { running: if number == 3 { 3 } else { 0 }, kv_usage: Some(0.5), ..Gauges::default() },
        );
    }
    scene.now = seconds(1);
    let decision = scene.ask(&text("x", 640)).unwrap();
    assert_eq!((decision.report.blocks, decision.blocks.len(), decision.uncached_tokens), (10, 10, 160));
    assert_eq!((decision.report.candidates.len(), decision.ranked.len()), (7, 5));
    let third = decision.report.row(3).unwrap();
    assert_eq!(third.gauges_age(), Some(std::time::Duration::from_secs(1)));
    assert!(third.candidate.total.unwrap() < decision.report.candidates[decision.ranked[0]].total.unwrap());
    assert_eq!(decision.rank(decision.ranked[2]), Some(2));
    assert_eq!(decision.rank(3), None);
}

#[test]
fn a_decision_reads_as_a_sentence() {
    let mut scene = Scene::equal(2);
    scene.scrape(0, Gauges { running: 4, ..Gauges::default() });
    scene.scrape(1, Gauges::default());
    let decision = scene.ask("").unwrap();
    assert_eq!(
        decision.to_string(),
        "10.0.0.1:8000 (default/pod-1): the highest total, 0.50 ahead, most of it by least-request; \
         the runner-up is 10.0.0.0:8000 (default/pod-0) (least-request 1.00 against 0.50)"
    );
}

#[test]
fn an_endpoint_that_was_never_scraped_is_not_preferred_to_those_that_are_as_busy_as_usual() {
    let mut scene = Scene::equal(4);
    for number in 0..3 {
        scene.scrape(number, Gauges { running: 8, ..Gauges::default() });
    }
    let mut picks = [0; 4];
    let mut held = Vec::new();
    for _ in 0..80 {
        let decision = scene.ask("").unwrap();
        picks[chosen(&decision)] += 1;
        held.push(decision.endpoint().unwrap().load.begin(0));
    }
    assert_eq!(picks, [20; 4]);
}

#[test]
fn an_outlier_is_a_last_resort() {
    let mut scene = Scene::equal(3);
    let fail = |scene: &Scene, number: usize| {
        let load = Arc::clone(&scene.pool().endpoints[number].load);
        (0..5).filter_map(|_| load.outcome(false, scene.now)).count()
    };
    assert_eq!(fail(&scene, 0), 1, "it became an outlier once");
    let decision = scene.ask("").unwrap();
    assert!(!decision.ranked.contains(&0));
    assert_eq!(decision.report.row(0).unwrap().removed_by(), Some("outlier"));
    fail(&scene, 1);
    fail(&scene, 2);
    let decision = scene.ask("").unwrap();
    assert_eq!(decision.ranked.len(), 3, "where all fail, all are candidates");
    scene.now = seconds(5);
    let decision = scene.ask("").unwrap();
    assert_eq!(decision.ranked.len(), 3);
    assert!(decision.report.filters.iter().all(|filter| filter.name != "outlier"), "it costs nothing without one");
}

#[test]
fn random_alone_spreads_evenly() {
    let score = json!({"scheduler": {"plugins": {"Score": {"enabled": [{"name": "random"}]}}}});
    let mut scene = Scene::equal(3).with_profile(&score);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..3000 {
        *counts.entry(scene.ask("").unwrap().endpoint().unwrap().address).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| (900..1100).contains(count)), "{counts:?}");
}

fn with_tokens<T>(tokens: Option<&[u32]>, then: impl FnOnce(&Request<'_>) -> T) -> T {
    with_prompt(MODEL, &text("prompt", 8192), |request| {
        let Content::Parsed(body) = &request.content else { unreachable!() };
        let pieces = body.prompt.pieces.clone();
        let body = crate::Body {
            model: body.model.clone(),
            stream: false,
            max_tokens: None,
            prompt: crate::Prompt { pieces },
        };
        let tokens = tokens.map(|ids| crate::Tokens { ids, lora: None, salt: None, keys: &[] });
        then(&Request {
            id: "1",
            path: "",
            headers: request.headers,
            content: Content::Parsed(body),
            subset: None,
            tokens,
            resolution: None,
        })
    })
}

/// The engine of that number says that it holds these tokens.
fn say(scene: &Scene, number: usize, tokens: &[u32], block_size: u32) {
    let blocks = tokens.len() / block_size as usize;
    let event = crate::KvEvent::Stored {
        hashes: (1..=blocks as u64).map(crate::EngineHash).collect(),
        parent: None,
        tokens: tokens[..blocks * block_size as usize].to_vec(),
        block_size,
        lora: None,
        salt: None,
        medium: crate::Medium::Gpu,
    };
    let applied = scene.snapshot().kv.apply(scene.pool().endpoints[number].slot, 0, &[event]);
    assert_eq!(applied.stored, blocks);
}

fn kv_profile() -> serde_json::Value {
    json!({"scheduler": {"plugins": {"Score": {"enabled": [{"name": "kvcache-aware"}, {"name": "least-request"}]}}}})
}

#[test]
fn a_request_goes_where_the_engines_say_its_blocks_are_whatever_their_size() {
    let mut scene = Scene::equal(4).with_profile(&kv_profile());
    let tokens: Vec<u32> = (0..2005).collect();
    say(&scene, 1, &tokens[..640], 16);
    say(&scene, 2, &tokens[..1920], 64);
    let decision = with_tokens(Some(&tokens), |request| scene.decide(request)).unwrap();
    assert_eq!(chosen(&decision), 2);
    assert_eq!(decision.report.kv, Some(KvMeasure::Exact { tokens: 2000 }));
    let held: Vec<_> = decision.report.candidates.iter().map(|candidate| candidate.held_tokens).collect();
    assert_eq!(held, [Some(0), Some(640), Some(1920), Some(0)]);
    assert_eq!(decision.uncached_tokens, 85, "exactly what is to be computed");
}

#[test]
fn a_warm_engine_that_is_too_busy_is_left_and_the_decision_says_so_in_milliseconds() {
    let mut scene = Scene::equal(2).with_profile(&kv_profile());
    let tokens: Vec<u32> = (0..1600).collect();
    say(&scene, 0, &tokens, 16);
    let _queued = scene.pool().endpoints[0].load.begin(32_000);
    let decision = with_tokens(Some(&tokens), |request| scene.decide(request)).unwrap();
    assert_eq!(chosen(&decision), 1);
    let text = decision.to_string();
    let yielded = "holds 1600 of 1600 tokens and has 1 in flight: waits 2032 ms more, saves 100 ms";
    assert!(text.contains(yielded), "{text}");
}

#[test]
fn where_the_exact_measure_is_missing_the_report_says_why_and_the_approximate_one_decides() {
    let mut scene = Scene::equal(4).with_profile(&kv_profile());
    let tokens: Vec<u32> = (0..1600).collect();
    let first = with_tokens(Some(&tokens), |request| scene.decide(request)).unwrap();
    assert_eq!(first.report.kv, Some(KvMeasure::NoEvents));
    let why = "kvcache-aware is approximate: no endpoint has sent KV events";
    assert!(first.to_string().contains(why), "{first}");
    scene.learn(&first);
    say(&scene, 0, &tokens, 16);
    let second = with_tokens(None, |request| scene.decide(request)).unwrap();
    assert_eq!((second.report.kv, chosen(&second)), (Some(KvMeasure::NoTokens), chosen(&first)));
    let short = with_tokens(Some(&tokens[..15]), |request| scene.decide(request)).unwrap();
    assert_eq!((short.report.kv, chosen(&short)), (Some(KvMeasure::NoBlock), chosen(&first)));
    let mut plain = Scene::equal(1);
    assert_eq!(with_tokens(Some(&tokens), |request| plain.decide(request)).unwrap().report.kv, None);
}
