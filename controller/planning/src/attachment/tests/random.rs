//! Whatever the rules: a gateway that follows the Gateway API's precedence sends each request where Kthena would.

use std::collections::BTreeMap;

use controller_api::http_route::{HeaderMatchType, HttpRoute, Match, PathMatchType};
use proptest::prelude::*;

use super::*;
use crate::attachment::expressions::matches;
use crate::attachment::model_route::{Around, answer};

const HEADERS: [&str; 3] = ["x-a", "x-b", "x-c"];
const PATHS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics"];

fn rule(target: usize) -> impl Strategy<Value = Value> {
    let value = prop_oneof![Just(json!({"exact": "1"})), Just(json!({"exact": "2"})), Just(json!({"regex": "1"}))];
    let headers = proptest::collection::btree_map(proptest::sample::select(&HEADERS[..]), value, 0..3);
    let uri = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"prefix": "/v1/"})),
        1 => Just(json!({"prefix": "/v1/chat"})),
        1 => Just(json!({"exact": "/v1/completions"})),
    ];
    (headers, uri, 1..100_u32).prop_map(move |(headers, uri, weight)| {
        let target = json!([{"modelServerName": format!("s{target}"), "weight": weight}]);
        json!({"modelMatch": {"headers": headers, "uri": uri}, "targetModels": target})
    })
}

fn rules() -> impl Strategy<Value = Vec<Value>> {
    (1..5_usize).prop_flat_map(|count| (0..count).map(rule).collect::<Vec<_>>())
}

/// A request: a path, and a value of each header.
type Request = (&'static str, BTreeMap<&'static str, &'static str>);

fn request() -> impl Strategy<Value = Request> {
    let value = proptest::sample::select(&["1", "2", "12"][..]);
    let headers = proptest::collection::btree_map(proptest::sample::select(&HEADERS[..]), value, 0..4);
    (proptest::sample::select(&PATHS[..]), headers)
}

/// The first rule that matches, as Kthena has it.
fn kthena(rules: &[Value], (path, headers): &Request) -> Option<usize> {
    let matches = |condition: &Value, text: &str| match (&condition["exact"], &condition["prefix"], &condition["regex"])
    {
        (Value::String(exact), _, _) => text == exact,
        (_, Value::String(prefix), _) => text.starts_with(prefix.as_str()),
        (_, _, Value::String(regex)) => text.contains(regex.as_str()),
        _ => true,
    };
    rules.iter().position(|rule| {
        let conditions = &rule["modelMatch"];
        let wanted = conditions["headers"].as_object().unwrap();
        matches(&conditions["uri"], path)
            && wanted.iter().all(|(name, wanted)| matches(wanted, headers.get(name.as_str()).copied().unwrap_or("")))
    })
}

fn holds(one: &Match, (path, headers): &Request) -> bool {
    let wanted = one.path.as_ref().unwrap();
    let path = match wanted.r#type {
        PathMatchType::Exact => wanted.value == *path,
        PathMatchType::PathPrefix => {
            wanted.value == "/" || *path == wanted.value || path.starts_with(&format!("{}/", wanted.value))
        }
        PathMatchType::RegularExpression => matches(&wanted.value, path),
    };
    path && one.headers[1..].iter().all(|wanted| {
        headers.get(wanted.name.as_str()).is_some_and(|value| match wanted.r#type {
            HeaderMatchType::Exact => wanted.value == *value,
            HeaderMatchType::RegularExpression => matches(&wanted.value, value),
        })
    })
}

/// The backend of the most specific match, as the Gateway API has it.
fn gateway<'a>(route: &'a HttpRoute, request: &Request) -> Option<&'a str> {
    let matches = route.spec.rules.iter().flat_map(|rule| rule.matches.iter().map(move |one| (rule, one)));
    let rank = |one: &Match| {
        let path = one.path.as_ref().unwrap();
        (path.r#type == PathMatchType::Exact, path.value.len(), one.headers.len())
    };
    // Of equals the last is taken, so backwards it is the first.
    let all: Vec<_> = matches.filter(|(_, one)| holds(one, request)).collect();
    let best = all.into_iter().rev().max_by_key(|(_, one)| rank(one))?;
    Some(&best.0.backend_refs[0].name)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_gateway_chooses_what_kthena_would(rules in rules(), requests in proptest::collection::vec(request(), 1..20)) {
        let route = route("llm", 1, "llm", &json!(rules));
        let around = Around { rivals: &[], servers: &[], served: true, routes: &[] };
        let answer = answer(&route, around, at(100));
        let status = answer.status.unwrap();
        let said = message(&status.conditions, "Accepted");
        prop_assume!(!said.contains("in another order"));
        let made = answer.apply.first().expect("an HTTPRoute");
        for request in &requests {
            let expected = kthena(&rules, request).map(|rule| format!("s{rule}"));
            prop_assert_eq!(gateway(made, request), expected.as_deref(), "{:?}", request);
        }
        for rule in &made.spec.rules {
            let backend = &rule.backend_refs[0];
            let number: usize = backend.name[1..].parse().unwrap();
            prop_assert_eq!(json!(backend.weight), rules[number]["targetModels"][0]["weight"].clone());
        }
    }

    #[test]
    fn no_name_is_lost_and_no_limit_is_broken(rules in proptest::collection::vec(rule(0), 1..16), adapters in 0..11_usize) {
        let mut route = route("llm", 1, "llm", &json!(rules));
        route.spec.lora_adapters = (0..adapters).map(|number| format!("adapter-{number}")).collect();
        let around = Around { rivals: &[], servers: &[], served: true, routes: &[] };
        let answer = answer(&route, around, at(100));
        let mut names = std::collections::BTreeSet::new();
        for made in &answer.apply {
            prop_assert!(made.spec.rules.len() <= 16);
            prop_assert!(made.spec.rules.iter().map(|rule| rule.matches.len()).sum::<usize>() < 128);
            for rule in &made.spec.rules {
                prop_assert!((1..=64).contains(&rule.matches.len()));
                names.extend(rule.matches.iter().map(|one| one.headers[0].value.clone()));
            }
        }
        prop_assert_eq!(names.len(), adapters + 1);
    }
}
