use controller_api::http_route::HttpRoute;

use super::*;
use crate::attachment::model_route::{Answer, Around, answer};

fn ask_with(route: &ModelRoute, rivals: &[ModelRoute], servers: &[ModelServer], routes: &[HttpRoute]) -> Answer {
    fn shared<K: Clone>(all: &[K]) -> Vec<Arc<K>> {
        all.iter().cloned().map(Arc::new).collect()
    }
    let (rivals, servers, routes) = (shared(rivals), shared(servers), shared(routes));
    let around = Around { rivals: &rivals, servers: &servers, served: true, routes: &routes };
    answer(route, around, at(100))
}

fn ask(route: &ModelRoute) -> Answer {
    let servers = ["blue", "green"].map(|name| server(name, 1, &json!({"app": name})));
    ask_with(route, &[], &servers, &[])
}

fn to(name: &str) -> Value {
    json!([{"modelServerName": name}])
}

/// Rules as `headers` and `path` → backends, without what is the same everywhere.
fn brief(route: &HttpRoute) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in &route.spec.rules {
        let backends: Vec<String> =
            rule.backend_refs.iter().map(|it| format!("{}*{}", it.name, it.weight.unwrap())).collect();
        for one in &rule.matches {
            let path = one.path.as_ref().unwrap();
            let headers: Vec<String> = one.headers[1..].iter().map(|it| format!("{}={}", it.name, it.value)).collect();
            let model = &one.headers[0];
            assert_eq!(model.name, "x-gateway-model-name");
            let (path, headers) = (format!("{:?} {}", path.r#type, path.value), headers.join(","));
            lines.push(format!("{} | {path} | {headers} -> {}", model.value, backends.join(" ")));
        }
    }
    lines
}

#[test]
fn a_route_becomes_an_http_route_of_its_name() {
    let rules = json!([{
        "modelMatch": {"headers": {"X-Tier": {"exact": "gold"}}, "uri": {"prefix": "/v1/chat"}},
        "targetModels": [{"modelServerName": "blue", "weight": 90}, {"modelServerName": "green", "weight": 10}],
    }]);
    let answer = ask(&route("llm", 1, "llm", &rules));
    assert_eq!(
        serde_json::to_value(&answer.apply).unwrap(),
        json!([{
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {
                "name": "llm", "namespace": "serve",
                "ownerReferences": [{
                    "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
                    "name": "llm", "uid": "u-llm", "controller": true,
                }],
            },
            "spec": {
                "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
                "rules": [{
                    "matches": [{
                        "path": {"type": "PathPrefix", "value": "/v1/chat"},
                        "headers": [
                            {"type": "Exact", "name": "x-gateway-model-name", "value": "llm"},
                            {"type": "Exact", "name": "x-tier", "value": "gold"},
                        ],
                    }],
                    "backendRefs": [
                        {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "green", "weight": 10},
                        {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "blue", "weight": 90},
                    ],
                    "timeouts": {"request": "0s"},
                }],
            },
        }])
    );
    assert_eq!(
        say(&answer.status.unwrap().conditions),
        [
            "Accepted=True/Accepted",
            "ResolvedRefs=True/ResolvedRefs",
            "AcceptedByGateways=False/GatewayPending",
            "Ready=False/GatewayPending",
            "Reconciling=True/GatewayPending"
        ]
    );
}

/// A parent's status as a gateway writes it.
fn parent(name: &str, conditions: &[(&str, &str, &str, &str)]) -> Value {
    let condition = |(kind, status, reason, message): &(&str, &str, &str, &str)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 2,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!({
        "parentRef": {"name": name, "namespace": "serve"}, "controllerName": "example.com/gateway",
        "conditions": conditions.iter().map(condition).collect::<Vec<_>>(),
    })
}

#[test]
fn the_gateways_verdict_is_the_routes_and_in_their_own_words() {
    let mut route = route("llm", 1, "llm", &json!([{"targetModels": to("blue")}]));
    route.spec.parent_refs = serde_json::from_value(json!([{"name": "edge"}, {"name": "inner"}])).unwrap();
    let servers = [server("blue", 1, &json!({"app": "blue"}))];
    let mut made = ask(&route).apply;
    made[0].metadata.generation = Some(2);
    let (yes, found) = (("Accepted", "True", "Accepted", ""), ("ResolvedRefs", "True", "ResolvedRefs", ""));
    let good = |name: &str| parent(name, &[yes, found]);
    let refused = parent("inner", &[("Accepted", "False", "NotAllowedByListeners", "no listener takes it"), found]);
    let unresolved = parent("inner", &[yes, ("ResolvedRefs", "False", "BackendNotFound", "no pool blue")]);
    let mut stale = good("inner");
    stale["conditions"][0]["observedGeneration"] = json!(1);
    let mut listener = good("inner");
    listener["parentRef"]["sectionName"] = json!("https");
    for (parents, condition, words) in [
        (json!([good("edge"), good("inner")]), "True/Accepted", "accepted by edge, inner"),
        (json!([good("edge")]), "False/GatewayPending", "not yet said: inner;"),
        (json!([good("edge"), stale]), "False/GatewayPending", "not yet said: inner;"),
        (json!([good("edge"), listener]), "False/GatewayPending", "not yet said: inner;"),
        (
            json!([good("edge"), refused]),
            "False/RefusedByGateway",
            "inner and HTTPRoute llm: example.com/gateway says Accepted is False, NotAllowedByListeners: no listener \
             takes it",
        ),
        (
            json!([unresolved, good("edge")]),
            "False/RefusedByGateway",
            "ResolvedRefs is False, BackendNotFound: no pool",
        ),
        // Left by the controller of a class that the Gateway had before.
        (json!([good("edge"), refused, good("inner")]), "True/Accepted", "accepted by edge, inner"),
    ] {
        made[0].status = Some(serde_json::from_value(json!({"parents": parents})).unwrap());
        let answer = ask_with(&route, &[], &servers, &made);
        assert!(answer.apply.is_empty());
        let conditions = answer.status.unwrap().conditions;
        assert_eq!(say(&conditions)[2], format!("AcceptedByGateways={condition}"), "{words}");
        let message = message(&conditions, "AcceptedByGateways");
        assert!(message.contains(words), "{message}");
        // A person must mend what was refused, and hears of it once.
        let refused = condition.ends_with("RefusedByGateway");
        assert_eq!(conditions.iter().any(|condition| condition.type_ == "Stalled"), refused);
        assert_eq!(answer.events.len(), usize::from(refused));
    }

    let mut settled = route.clone();
    settled.status = ask_with(&route, &[], &servers, &made).status.map(|status| *status);
    assert_eq!(ask_with(&settled, &[], &servers, &made), Answer::default(), "nothing is written twice");
    // What was said of the HTTPRoute as it was does not count for the one that is about to be written.
    settled.spec.rules = serde_json::from_value(json!([{"targetModels": to("green")}])).unwrap();
    let answer = ask_with(&settled, &[], &servers, &made);
    assert_eq!(say(&answer.status.unwrap().conditions)[2], "AcceptedByGateways=False/GatewayPending");
}

#[test]
fn every_name_and_every_kind_of_condition_is_matched() {
    let header = |condition: Value| json!({"headers": {"x-a": condition}});
    let uri = |condition: Value| json!({"uri": condition});
    for (condition, path, headers) in [
        (json!({}), "PathPrefix /", ""),
        (header(json!({})), "PathPrefix /", ""),
        (header(json!({"prefix": ""})), "PathPrefix /", ""),
        (header(json!({"prefix": "a.b"})), "PathPrefix /", r"x-a=^a\.b.*"),
        (header(json!({"regex": "^a|b$"})), "PathPrefix /", "x-a=.*(?:^a|b$).*"),
        (uri(json!({"exact": "/v1/completions"})), "Exact /v1/completions", ""),
        (uri(json!({"exact": "/v1//x"})), "RegularExpression ^/v1//x$", ""),
        (uri(json!({"prefix": "/v1/"})), "PathPrefix /v1", ""),
        (uri(json!({"prefix": "/"})), "PathPrefix /", ""),
        (uri(json!({"prefix": "/v1/comp"})), "RegularExpression ^/v1/comp.*", ""),
        (uri(json!({"regex": "chat|embed"})), "RegularExpression .*(?:chat|embed).*", ""),
    ] {
        let mut route = route("llm", 1, "llm", &json!([{"modelMatch": condition, "targetModels": to("blue")}]));
        route.spec.lora_adapters = vec!["sql".to_owned(), "llm".to_owned()];
        let answer = ask(&route);
        let expected = ["llm", "sql"].map(|name| format!("{name} | {path} | {headers} -> blue*100"));
        assert_eq!(brief(&answer.apply[0]), expected, "{condition}");
    }
}

#[test]
fn what_no_gateway_can_match_is_left_to_the_picker_and_said() {
    for (condition, note) in [
        (json!({"headers": {"x-a": {"exact": ""}}}), "rule 1 is left to the picker"),
        (json!({"headers": {"x-a": {"regex": "b*"}}}), "x-a may be absent"),
        (json!({"headers": {"x-a": {"regex": "("}}}), "rule 1 matches no request"),
        (json!({"headers": {":method": {"exact": "POST"}}}), "is not the name of a header"),
        (json!({"headers": {"X-Gateway-Model-Name": {"exact": "b"}}}), "the gateway's own"),
        (json!({"headers": {"x-a": {"exact": "a".repeat(5000)}}}), "longer than a gateway takes"),
        (json!({"uri": {"exact": "v1"}}), "begin it with /"),
        (json!({"body": {"model": "other"}}), "not a name of the ModelRoute"),
    ] {
        let alone = json!({"modelMatch": condition, "targetModels": to("green")});
        let rest = json!({"targetModels": to("blue")});
        let answer = ask(&route("llm", 1, "llm", &json!([alone, rest])));
        assert_eq!(brief(&answer.apply[0]), ["llm | PathPrefix / |  -> blue*100"], "{condition}");
        let conditions = answer.status.unwrap().conditions;
        assert_eq!(say(&conditions)[0], "Accepted=True/PartiallyAccepted");
        let message = message(&conditions, "Accepted");
        assert!(message.contains(note), "{condition}: {message}");

        let answer = ask(&route("llm", 1, "llm", &json!([alone])));
        assert_eq!(say(&answer.status.unwrap().conditions)[0], "Accepted=False/NotMatchable");
        assert!(answer.apply.is_empty());
    }
}

#[test]
fn a_condition_on_the_body_chooses_the_name() {
    let rules = json!([
        {"modelMatch": {"body": {"model": "sql"}}, "targetModels": to("green")},
        {"targetModels": to("blue")},
    ]);
    let mut route = route("llm", 1, "llm", &rules);
    route.spec.lora_adapters = vec!["sql".to_owned()];
    let answer = ask(&route);
    assert_eq!(brief(&answer.apply[0]), ["sql | PathPrefix / |  -> green*100", "llm | PathPrefix / |  -> blue*100"]);
    let conditions = answer.status.unwrap().conditions;
    assert!(message(&conditions, "Accepted").contains("rule 2 is never reached"), "{conditions:?}");
}

#[test]
fn the_first_rule_that_matches_wins_although_gateways_take_the_most_specific() {
    let rules = json!([
        {"modelMatch": {"headers": {"x-tier": {"exact": "gold"}}}, "targetModels": to("blue")},
        {"modelMatch": {"headers": {"x-who": {"regex": "a"}, "x-b": {"exact": "c"}}}, "targetModels": to("green")},
        {"targetModels": to("green")},
        {"modelMatch": {"headers": {"x-c": {"exact": "c"}}}, "targetModels": to("blue")},
    ]);
    let answer = ask(&route("llm", 1, "llm", &rules));
    assert_eq!(
        brief(&answer.apply[0]),
        [
            "llm | PathPrefix / | x-tier=gold -> blue*100",
            "llm | PathPrefix / | x-b=c,x-tier=gold,x-who=.*(?:a).* -> blue*100",
            "llm | PathPrefix / | x-b=c,x-who=.*(?:a).* -> green*100",
            "llm | PathPrefix / |  -> green*100",
        ]
    );
    let conditions = answer.status.unwrap().conditions;
    assert!(message(&conditions, "Accepted").ends_with("rule 4 is never reached: rule 3 goes first"));
}

#[test]
fn of_two_routes_with_one_name_at_one_gateway_the_older_has_it() {
    let rules = json!([{"targetModels": to("blue")}]);
    let (old, mut young) = (route("old", 1, "llm", &rules), route("young", 2, "llm", &rules));
    let rivals = [old.clone(), young.clone()];
    assert_eq!(ask_with(&old, &rivals, &[], &[]).apply.len(), 1);
    let lost = ask_with(&young, &rivals, &[], &[]);
    assert!(lost.apply.is_empty());
    let conditions = lost.status.unwrap().conditions;
    assert_eq!(say(&conditions)[0], "Accepted=False/Conflicted");
    assert!(message(&conditions, "Accepted").contains("llm at edge is the older ModelRoute serve/old's"));

    // Another name, another Gateway and another listener are its own.
    young.spec.lora_adapters = vec!["sql".to_owned()];
    young.spec.parent_refs =
        serde_json::from_value(json!([{"name": "edge"}, {"name": "inner"}, {"name": "edge"}])).unwrap();
    let answer = ask_with(&young, &rivals, &[], &[]);
    let names: Vec<_> = answer.apply.iter().map(|route| route.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["young", "young-2"]);
    assert_eq!(brief(&answer.apply[0]), ["sql | PathPrefix / |  -> blue*100"]);
    assert_eq!(answer.apply[1].spec.parent_refs[0].name, "inner");
    assert_eq!(brief(&answer.apply[1]).len(), 2);
    // A base model's name goes before an adapter's, however old that is.
    let mut adapter = route("adapter", 0, "other", &rules);
    adapter.spec.lora_adapters = vec!["llm".to_owned()];
    let answer = ask_with(&adapter, &rivals, &[], &[]);
    assert_eq!(brief(&answer.apply[0]), ["other | PathPrefix / |  -> blue*100"]);
}

#[test]
fn servers_that_share_a_pool_share_its_weight_and_one_that_is_missing_keeps_its_own() {
    let rules = json!([{"targetModels": [
        {"modelServerName": "blue", "weight": 60},
        {"modelServerName": "azure", "weight": 30},
        {"modelServerName": "gone", "weight": 10},
    ]}]);
    let servers = [server("blue", 1, &json!({"app": "b"})), server("azure", 2, &json!({"app": "b"}))];
    let answer = ask_with(&route("llm", 1, "llm", &rules), &[], &servers, &[]);
    assert_eq!(brief(&answer.apply[0]), ["llm | PathPrefix / |  -> gone*10 blue*90"]);
    let conditions = answer.status.unwrap().conditions;
    assert!(message(&conditions, "Accepted").contains("rule 1 shares requests among pools"), "{conditions:?}");
    assert_eq!(say(&conditions)[1], "ResolvedRefs=False/ModelServerNotFound");
    assert!(message(&conditions, "ResolvedRefs").ends_with(": gone"));
}

#[test]
fn without_parents_the_picker_resolves_alone_and_what_was_made_goes() {
    let rules = json!([{"targetModels": to("blue")}]);
    let mut route = route("llm", 1, "llm", &rules);
    let mut made = ask(&route).apply;
    made[0].metadata.uid = Some("u-made".to_owned());
    route.spec.parent_refs.clear();
    let answer = ask_with(&route, &[], &[], &made);
    assert_eq!(answer.delete, [("llm".to_owned(), "u-made".to_owned())]);
    assert_eq!(say(&answer.status.unwrap().conditions)[0], "Accepted=True/ResolvedByPicker");
}

#[test]
fn somebody_elses_http_route_is_a_condition_and_never_an_overwrite() {
    let route = route("llm", 1, "llm", &json!([{"targetModels": to("blue")}]));
    let mut foreign = ask(&route).apply;
    foreign[0].metadata.owner_references = None;
    foreign[0].metadata.uid = Some("u-theirs".to_owned());
    let answer = ask_with(&route, &[], &[], &foreign);
    assert!(answer.apply.is_empty() && answer.delete.is_empty());
    assert_eq!(say(&answer.status.unwrap().conditions)[0], "Accepted=False/NameClash");
}
