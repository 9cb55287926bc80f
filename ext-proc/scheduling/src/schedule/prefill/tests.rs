//! Pairs: what always holds of them, then each rule on its own.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::*;
use crate::{Body, Declared, DeclaredEndpoint, Endpoint, Gauges, Prompt, Request};

/// Over four bytes a token: from here on the default rules send prefill apart.
const LONG: usize = 4 * 256;
/// Prefill endpoints have the numbers from here on.
const PREFILLS: usize = 100;

fn disaggregation(decision: &Decision) -> &Disaggregation {
    decision.disaggregation.as_ref().unwrap()
}

fn group(endpoint: &Endpoint) -> Option<&str> {
    endpoint.labels.get("group").map(String::as_str)
}

/// One pod each with these groups.
fn pods(role: &str, from: usize, groups: &[&str]) -> Vec<DeclaredEndpoint> {
    groups.iter().enumerate().map(|(number, group)| worker(from + number, role, Some(group))).collect()
}

fn scene(decodes: &[&str], prefills: &[&str]) -> Scene {
    Scene::pairs(pods("decode", 0, decodes), pods("prefill", PREFILLS, prefills))
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn rules(rules: serde_json::Value) -> serde_json::Value {
    json!({ "disaggregation": rules })
}

proptest! {
    #[test]
    fn pairs_stay_in_a_group_and_within_the_filters_and_decode_is_alone_only_when_the_verdict_says_so(
        decodes in vec((option::of(0_usize..3), any::<bool>(), 0_u32..14), 1..8),
        prefills in vec((option::of(0_usize..3), any::<bool>(), 0_u32..14), 0..8),
        warm in vec(any::<bool>(), 8),
        bytes in 0_usize..3 * LONG,
        least in prop_oneof![Just(0), Just(256)],
        retries in 0_usize..=4,
    ) {
        const GROUPS: [&str; 3] = ["a", "b", "c"];
        let pods = |role: &str, from: usize, pods: &[(Option<usize>, bool, u32)]| -> Vec<DeclaredEndpoint> {
            let pod = |(number, (group, ready, _)): (usize, &(Option<usize>, bool, u32))| {
                DeclaredEndpoint { ready: *ready, ..worker(from + number, role, group.map(|group| GROUPS[group])) }
            };
            pods.iter().enumerate().map(pod).collect()
        };
        let mut scene = Scene::pairs(pods("decode", 0, &decodes), pods("prefill", PREFILLS, &prefills))
            .with_profile(&rules(json!({"minUncachedTokens": least, "prefillRetries": retries})));
        let waiting = |(number, (_, _, waiting)): (usize, &(Option<usize>, bool, u32))| (number, *waiting);
        for (number, waiting) in decodes.iter().enumerate().map(waiting) {
            scene.scrape(number, Gauges { waiting, ..Gauges::default() });
        }
        for (number, waiting) in prefills.iter().enumerate().map(waiting) {
            if prefills[number].0.is_some() {
                scene.scrape(PREFILLS + number, Gauges { waiting, ..Gauges::default() });
            }
        }
        let usable = |endpoint: &Endpoint| {
            endpoint.ready && group(endpoint).is_some()
                && endpoint.gauges.as_ref().is_some_and(|gauges| gauges.waiting < 10)
        };
        let pool = scene.pool();
        let known_prefills = &pool.prefills["default/pd"];
        prop_assert!(known_prefills.iter().all(|endpoint| group(endpoint).is_some()));
        let prompt = text("p", bytes);
        if let Ok(decision) = scene.ask(&prompt) {
            for (endpoint, _) in pool.endpoints.iter().zip(&warm).filter(|(_, warm)| **warm) {
                scene.learn_at(&decision, endpoint);
            }
        }
        match scene.ask(&prompt) {
            Err(refusal) => prop_assert!(!pool.endpoints.iter().any(|endpoint| usable(endpoint)), "{refusal}"),
            Ok(decision) => {
                let pair = disaggregation(&decision);
                let chosen: Vec<_> = decision.endpoints().collect();
                let both: Vec<&Arc<Endpoint>> = chosen.iter().copied().chain(&pair.prefills).collect();
                let mut addresses: Vec<_> = both.iter().map(|endpoint| endpoint.address).collect();
                let all = addresses.len();
                addresses.sort();
                addresses.dedup();
                prop_assert_eq!(addresses.len(), all, "nobody twice");
                prop_assert!(chosen.iter().all(|endpoint| usable(endpoint) && endpoint.labels["role"] == "decode"));
                prop_assert!(pair.prefills.iter().all(|it| usable(it) && it.labels["role"] == "prefill"));
                prop_assert!(pair.prefills.len() <= retries + 1);
                let apart = matches!(pair.verdict, Verdict::Disaggregate { .. });
                prop_assert_eq!(apart, !pair.prefills.is_empty());
                let could = |decode: &Endpoint| known_prefills.iter().any(|it| usable(it) && group(it) == group(decode));
                if apart {
                    prop_assert!(both.iter().all(|endpoint| group(endpoint) == group(chosen[0])));
                    prop_assert_eq!(decision.uncached_tokens, 0);
                }
                match pair.verdict {
                    Verdict::NoPrefill => prop_assert!(!chosen.iter().any(|decode| could(decode))),
                    Verdict::ShortPrompt { tokens, .. } => prop_assert!(tokens < least),
                    Verdict::Cached { uncached_tokens, .. } => {
                        prop_assert!(uncached_tokens < least);
                        prop_assert_eq!(uncached_tokens, decision.uncached_tokens);
                    }
                    Verdict::Disaggregate { uncached_tokens } => prop_assert!(uncached_tokens >= least),
                    Verdict::NoPrompt | Verdict::NotGeneration => prop_assert!(false, "there was a prompt to complete"),
                }
            }
        }
    }
}

#[test]
fn a_long_prompt_is_prefilled_apart_in_the_group_of_its_decode_endpoint() {
    let mut scene = scene(&["a", "b"], &["b", "a"]);
    let decision = scene.ask(&text("x", LONG)).unwrap();
    let pair = disaggregation(&decision);
    assert_eq!(pair.verdict, Verdict::Disaggregate { uncached_tokens: 256 });
    let prefill = &pair.prefills[0];
    assert_eq!((group(prefill), pair.prefills.len()), (group(decision.endpoint().unwrap()), 1));
    assert_eq!(decision.ranked.len(), 1, "the other group's decode endpoint is no fallback");
    assert_eq!((decision.uncached_tokens, pair.uncached_tokens), (0, 256));
    let report = pair.report.as_ref().unwrap();
    assert_eq!(report.filter_summary(), "group kept 1 of 2, ready kept 1 of 1, least-request kept 1 of 1");
    let said = decision.to_string();
    assert!(
        said.ends_with(&format!("256 prompt tokens to compute, at {} ({})", prefill.address, prefill.name)),
        "{said}"
    );
}

#[test]
fn a_short_prompt_is_decodes_own() {
    let mut scene = scene(&["a", "a"], &["a"]);
    let decision = scene.ask(&text("x", LONG - 4)).unwrap();
    assert_eq!(disaggregation(&decision).verdict, Verdict::ShortPrompt { tokens: 255, least: 256 });
    assert!(disaggregation(&decision).prefills.is_empty() && disaggregation(&decision).report.is_none());
    assert_eq!((decision.uncached_tokens, decision.ranked.len()), (255, 2));
}

#[test]
fn a_prompt_that_decode_holds_is_decodes_own() {
    let mut scene = scene(&["a"], &["a"]);
    let prompt = text("x", 2 * LONG);
    let first = scene.ask(&prompt).unwrap();
    scene.learn(&first);
    let second = scene.ask(&format!("{prompt}{}", text("y", LONG - 4))).unwrap();
    assert_eq!(disaggregation(&second).verdict, Verdict::Cached { uncached_tokens: 255, least: 256 });
    assert_eq!(second.uncached_tokens, 255);
    let third = scene.ask(&format!("{prompt}{}", text("y", LONG))).unwrap();
    assert_eq!(disaggregation(&third).verdict, Verdict::Disaggregate { uncached_tokens: 256 });
}

#[test]
fn what_is_not_known_of_a_prompt_is_not_sent_apart() {
    let mut scene = scene(&["a"], &["a"]).with_profile(&rules(json!({"minUncachedTokens": 0})));
    for content in [Content::Hidden, Content::Absent] {
        let headers = no_headers();
        let request =
            Request { id: "1", path: "/", headers: &headers, content, subset: None, tokens: None, resolution: None };
        assert_eq!(disaggregation(&scene.decide(&request).unwrap()).verdict, Verdict::NoPrompt);
    }
    let nothing = scene.ask("").unwrap();
    assert_eq!(disaggregation(&nothing).verdict, Verdict::Disaggregate { uncached_tokens: 0 });
}

#[test]
fn only_apis_that_generate_are_prefilled_apart() {
    let mut scene = scene(&["a"], &["a"]);
    let prompt = text("x", LONG);
    for (path, apart) in [
        ("/v1/chat/completions", true),
        ("/v1/completions", true),
        ("/generate", true),
        ("", true),
        ("/v1/embeddings", false),
        ("/tokenize", false),
    ] {
        let headers = no_headers();
        let body = Body {
            model: "m".into(),
            stream: false,
            max_tokens: None,
            prompt: Prompt { pieces: vec![Cow::Borrowed(prompt.as_bytes())] },
        };
        let request = Request {
            id: "1",
            path,
            headers: &headers,
            content: Content::Parsed(body),
            subset: None,
            tokens: None,
            resolution: None,
        };
        let decision = scene.decide(&request).unwrap();
        let verdict = disaggregation(&decision).verdict;
        assert_eq!(matches!(verdict, Verdict::Disaggregate { .. }), apart, "{path}: {verdict}");
    }
}

#[test]
fn a_decode_endpoint_whose_group_can_prefill_goes_before_a_better_one_that_cannot_be_paired() {
    let mut scene = scene(&["alone", "a", "alone"], &["a"]);
    let _busy: Vec<_> = (0..5).map(|_| scene.pool().endpoints[1].load.begin(0)).collect();
    let decision = scene.ask(&text("x", LONG)).unwrap();
    assert_eq!(decision.reason, Reason::Paired { passed: 2 });
    assert_eq!(decision.endpoint().unwrap().address, address(1));
    assert_eq!((decision.ranked.len(), disaggregation(&decision).prefills[0].address), (1, address(PREFILLS)));
}

#[test]
fn the_best_decode_endpoint_works_alone_only_when_no_group_can_prefill() {
    let unready = DeclaredEndpoint { ready: false, ..worker(PREFILLS, "prefill", Some("a")) };
    let mut scene = Scene::pairs(pods("decode", 0, &["a", "b"]), vec![unready.clone()]);
    let _busy = scene.pool().endpoints[0].load.begin(0);
    let decision = scene.ask(&text("x", LONG)).unwrap();
    let pair = disaggregation(&decision);
    assert_eq!((pair.verdict, pair.prefills.len()), (Verdict::NoPrefill, 0));
    assert_eq!((decision.endpoint().unwrap().address, decision.ranked.len()), (address(1), 2));
    assert_eq!(decision.uncached_tokens, 256);

    let mut scene =
        Scene::pairs(pods("decode", 0, &["a"]), vec![unready]).with_profile(&rules(json!({"whenNoPrefill": "refuse"})));
    let refusal = scene.ask(&text("x", LONG)).map(drop).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NoPrefill("default/pd".to_owned()));
    assert!(refusal.to_string().ends_with("(group kept 1 of 1, ready kept 0 of 1)"), "{refusal}");
    scene.ask("short").unwrap();
}

#[test]
fn a_saturated_prefill_side_is_refused_as_overload_when_decode_must_not_work_alone() {
    let mut scene = scene(&["a"], &["a"]).with_profile(&rules(json!({"whenNoPrefill": "refuse"})));
    scene.scrape(PREFILLS, Gauges { waiting: 10, ..Gauges::default() });
    let refusal = scene.ask(&text("x", LONG)).map(drop).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::Overloaded { .. }), "{refusal}");
}

#[test]
fn a_pool_that_selects_prefill_pods_sends_no_request_there() {
    let everybody = || [pods("decode", 0, &["a"]), pods("prefill", 1, &["a"]), pods("router", 2, &["a"])].concat();
    let mut scene = Scene::pairs(everybody(), pods("prefill", 1, &["a"]));
    let decision = scene.ask("hello").unwrap();
    assert_eq!(decision.ranked, [0]);
    assert_eq!(decision.report.filter_summary(), "decode kept 1 of 3, ready kept 1 of 1, least-request kept 1 of 1");
    assert_eq!(decision.report.model_server.as_deref(), Some("default/pd"));
    assert_eq!(scene.pool().all_endpoints().count(), 3, "one engine is one endpoint");

    // Two servers and no route: nobody says whose request it is. Prefill pods are kept out all the same.
    let model_servers = vec![pd_server(), server("other", &[])];
    let pools = vec![pool_of("pool", everybody())];
    let mut scene = Scene::of(Declared { pools, model_servers, ..Declared::default() });
    let decision = scene.ask(&text("x", LONG)).unwrap();
    let mut ranked = decision.ranked.clone();
    ranked.sort_unstable();
    assert_eq!((ranked, decision.disaggregation.is_none()), (vec![0, 2], true));
}

#[test]
fn without_any_decode_pod_the_refusal_names_the_labels() {
    let pool = vec![worker(0, "prefill", Some("a")), worker(1, "decode", None)];
    let refusal = Scene::pairs(pool, Vec::new()).ask("hello").map(drop).unwrap_err();
    let said = refusal.to_string();
    assert!(said.contains("decodeLabels role=decode and a value for groupKey group"), "{said}");
    assert_eq!(refusal.kind.code(), "filtered_out");
}

#[test]
fn a_subset_hint_binds_the_gateway_and_not_our_own_prefill_call() {
    let mut scene = scene(&["a", "a"], &["a"]);
    let subset = crate::Subset { addresses: vec![address(1)], hosts: Vec::new() };
    let decision = with_prompt(MODEL, &text("x", LONG), |request| {
        let Content::Parsed(body) = &request.content else { panic!("the fixture has a body") };
        let prompt = crate::Prompt { pieces: body.prompt.pieces.clone() };
        let body = crate::Body { model: body.model.clone(), stream: false, max_tokens: None, prompt };
        let content = Content::Parsed(body);
        scene.decide(&Request {
            id: "1",
            path: request.path,
            headers: request.headers,
            content,
            subset: Some(&subset),
            tokens: None,
            resolution: None,
        })
    });
    let decision = decision.unwrap();
    assert_eq!((decision.ranked.as_slice(), disaggregation(&decision).prefills.len()), ([1].as_slice(), 1));
}

#[test]
fn by_default_prefill_goes_where_the_prompt_is_and_decode_where_the_load_is_not() {
    let mut scene = scene(&["a", "a"], &["a", "a", "a"]);
    let prompt = text("system", 2 * LONG);
    let first = scene.ask(&prompt).unwrap();
    let warm = Arc::clone(&disaggregation(&first).prefills[0]);
    scene.learn_at(&first, &warm);
    let _decoding = first.endpoint().unwrap().load.begin(0);
    let _prefilling = warm.load.begin(0);
    let second = scene.ask(&prompt).unwrap();
    assert_eq!(disaggregation(&second).prefills[0].address, warm.address);
    assert_eq!(disaggregation(&second).uncached_tokens, 0);
    assert_ne!(second.endpoint().unwrap().address, first.endpoint().unwrap().address);
}

#[test]
fn a_decode_pod_with_a_routing_sidecar_is_known_by_its_label() {
    for (value, sidecar) in [("true", true), ("false", false)] {
        let mut pod = worker(0, "decode", Some("a"));
        Arc::make_mut(&mut pod.labels).insert(SIDECAR_LABEL.to_owned(), value.to_owned());
        let decision = Scene::pairs(vec![pod], pods("prefill", 1, &["a"])).ask(&text("x", LONG)).unwrap();
        assert_eq!(disaggregation(&decision).sidecar, sidecar);
    }
}

#[test]
fn a_route_decides_whose_decode_pods_are_candidates() {
    let mut other = server("plain", &[("role", "router")]);
    other.model = Some("real".into());
    let pool = [pods("decode", 0, &["a"]), pods("router", 1, &["a"])].concat();
    let mut scene = Scene::of(Declared {
        pools: vec![pool_of("pool", pool)],
        model_servers: vec![pd_server(), other],
        model_routes: vec![route("pd", MODEL, &[("pd", 1)]), route("plain", "other", &[("plain", 1)])],
        workers: pods("prefill", PREFILLS, &["a"]),
    });
    let decision = scene.ask(&text("x", LONG)).unwrap();
    assert_eq!((decision.ranked.as_slice(), disaggregation(&decision).prefills.len()), ([0].as_slice(), 1));
    let decision = with_prompt("other", &text("x", LONG), |request| scene.decide(request)).unwrap();
    assert_eq!((decision.ranked.as_slice(), decision.disaggregation.is_none()), ([1].as_slice(), true));
}
