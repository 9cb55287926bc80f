use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::fixtures::{self, address, declared, no_headers, pool_of, route, rule, server};
use crate::{Content, Declared, Request};

/// A pool of two endpoints, labelled app=a and app=b, with servers `a` and `b` for them.
fn routing(routes: Vec<ModelRoute>) -> Arc<Routing> {
    let endpoints = vec![declared(0, &[("app", "a")]), declared(1, &[("app", "b")])];
    let model_servers =
        vec![server("a", &[("app", "a")]), server("b", &[("app", "b")]), server("none", &[("app", "c")])];
    let declared = Declared {
        pools: vec![pool_of("pool", endpoints)],
        model_servers,
        model_routes: routes,
        ..Declared::default()
    };
    Arc::clone(&fixtures::Scene::of(declared).pool().routing)
}

fn resolve(routing: &Routing, model: &str) -> Option<(String, String, bool)> {
    let mut rng = SmallRng::seed_from_u64(1);
    let resolution = fixtures::with_prompt(model, "", |request| routing.resolve(request, &mut rng)).ok()??;
    Some((resolution.route.name.to_string(), resolution.server.name.to_string(), resolution.adapter))
}

fn found(route: &str, server: &str, adapter: bool) -> Option<(String, String, bool)> {
    Some((format!("default/{route}"), format!("default/{server}"), adapter))
}

#[test]
fn the_oldest_route_wins_then_the_name() {
    let mut routes: Vec<_> =
        ["z", "y", "x"].into_iter().map(|name| route(name, "m", &[(if name == "y" { "b" } else { "a" }, 1)])).collect();
    assert_eq!(resolve(&routing(routes.clone()), "m"), found("x", "a", false));
    routes[0].created = Some(20);
    routes[1].created = Some(10);
    assert_eq!(resolve(&routing(routes), "m"), found("y", "b", false));
}

#[test]
fn a_base_model_never_falls_through_to_an_adapter_of_that_name() {
    let mut by_adapter = route("adapter", "base", &[("a", 1)]);
    by_adapter.adapters = vec!["m".into(), "lora".into()];
    let by_name = route("named", "m", &[("none", 1), ("b", 0)]);
    // `none` selects nothing: that route does not concern the pool, unless `b` is among its targets.
    let routing = routing(vec![by_adapter, by_name]);
    assert_eq!(resolve(&routing, "m"), None);
    assert_eq!(resolve(&routing, "lora"), found("adapter", "a", true));
    assert_eq!(resolve(&routing, "unheard"), None);
}

#[test]
fn a_rule_without_targets_or_weight_falls_through_to_the_next_route() {
    let mut empty = route("1", "m", &[("a", 1)]);
    empty.rules.insert(0, rule(&[]));
    let zero = route("2", "m", &[("a", 0), ("b", 0)]);
    let good = route("3", "m", &[("b", 100)]);
    assert_eq!(resolve(&routing(vec![empty, zero, good]), "m"), found("3", "b", false));
}

#[test]
fn weights_share_out_as_written_and_only_among_servers_of_this_pool() {
    let routing = routing(vec![route("r", "m", &[("a", 50), ("b", 30), ("none", 20), ("elsewhere", 100)])]);
    let mut rng = SmallRng::seed_from_u64(5);
    let to_a = (0..8000)
        .filter(|_| {
            let resolution = fixtures::with_prompt("m", "", |request| routing.resolve(request, &mut rng));
            &*resolution.unwrap().unwrap().server.name == "default/a"
        })
        .count();
    assert!((4800..5200).contains(&to_a), "{to_a} of 8000, expected 5000");
}

#[test]
fn a_request_that_was_resolved_before_stays_with_its_server_as_long_as_the_pool_has_it() {
    let both = routing(vec![route("r", "m", &[("a", 50), ("b", 50)])]);
    let mut rng = SmallRng::seed_from_u64(5);
    let before = fixtures::with_prompt("m", "", |request| both.resolve(request, &mut rng)).unwrap().unwrap();
    let mut again = |routing: &Routing| {
        fixtures::with_prompt("m", "", |request| {
            let (headers, content) = (request.headers, Content::Hidden);
            let resolution = Some(&before);
            let request = Request { id: "", path: "", headers, content, subset: None, tokens: None, resolution };
            routing.resolve(&request, &mut rng).unwrap().map(|resolution| resolution.server.name.clone())
        })
    };
    for _ in 0..50 {
        assert_eq!(again(&both).as_ref(), Some(&before.server.name));
    }
    let mut left = Routing::clone(&both);
    left.servers.remove(&before.server.name);
    assert_eq!(again(&left), None, "resolved anew, and the model is hidden");
}

#[test]
fn the_first_rule_that_matches_wins_and_all_its_conditions_must_hold() {
    let mut premium = rule(&[("a", 1)]);
    premium.headers = vec![("User-Type".to_owned(), StringMatch::Exact("premium".to_owned()))];
    premium.uri = Some(StringMatch::Prefix("/v1/chat".to_owned()));
    premium.body_model = Some("m".to_owned());
    let mut routed = route("r", "m", &[("b", 1)]);
    routed.rules.insert(0, premium);
    let routing = routing(vec![routed]);
    let server = |headers: &std::collections::BTreeMap<&'static str, &'static str>, path: &str| {
        let mut rng = SmallRng::seed_from_u64(1);
        fixtures::with_prompt("m", "", |request| {
            let content = match &request.content {
                Content::Parsed(body) => Content::Parsed(crate::Body {
                    model: body.model.clone(),
                    stream: false,
                    max_tokens: None,
                    prompt: crate::Prompt::default(),
                }),
                _ => unreachable!(),
            };
            let request = Request { id: "", path, headers, content, subset: None, tokens: None, resolution: None };
            routing.resolve(&request, &mut rng).unwrap().unwrap().server.name.to_string()
        })
    };
    let premium = [("user-type", "premium")].into_iter().collect();
    assert_eq!(server(&premium, "/v1/chat/completions"), "default/a");
    assert_eq!(server(&premium, "/v1/completions"), "default/b");
    for other in
        [no_headers(), [("user-type", "basic")].into_iter().collect(), [("user-type", "")].into_iter().collect()]
    {
        assert_eq!(server(&other, "/v1/chat/completions"), "default/b");
    }
}

#[test]
fn a_missing_header_compares_as_the_empty_string() {
    assert!(StringMatch::Any.matches(""));
    assert!(StringMatch::Prefix(String::new()).matches(""));
    assert!(!StringMatch::Exact("x".to_owned()).matches(""));
    assert!(StringMatch::Regex(regex::Regex::new("b+").unwrap()).matches("abc"), "unanchored, as in Go");
}

#[test]
fn a_request_whose_model_is_hidden_is_not_refused() {
    let routing = routing(vec![route("r", "m", &[("a", 1)])]);
    let headers = no_headers();
    let request = Request {
        id: "",
        path: "/",
        headers: &headers,
        content: Content::Hidden,
        subset: None,
        tokens: None,
        resolution: None,
    };
    assert!(routing.resolve(&request, &mut SmallRng::seed_from_u64(1)).unwrap().is_none());
}

#[test]
fn the_models_name_is_rewritten_unless_an_adapter_was_named() {
    let mut real = server("a", &[]);
    real.model = Some("real".into());
    let resolution =
        |adapter| Resolution { route: Arc::new(route("r", "m", &[])), server: Arc::new(real.clone()), adapter };
    assert_eq!(resolution(false).rewrite_model("m").as_deref(), Some("real"));
    assert_eq!(resolution(false).rewrite_model("real"), None);
    assert_eq!(resolution(true).rewrite_model("m"), None);
}

#[test]
fn of_several_ports_only_the_workload_port_serves_if_one_is() {
    let ports = |port: Option<u16>| {
        let mut second = declared(0, &[]);
        second.address.set_port(8001);
        let mut server = server("s", &[]);
        server.port = port;
        let declared = Declared {
            pools: vec![pool_of("pool", vec![declared(0, &[]), second])],
            model_servers: vec![server],
            ..Declared::default()
        };
        let pool = fixtures::Scene::of(declared).pool();
        assert_eq!(pool.endpoints[0].address, address(0));
        let members = pool.routing.members("default/s").unwrap();
        (members.contains(0), members.contains(1))
    };
    assert_eq!(ports(None), (true, true));
    assert_eq!(ports(Some(8001)), (false, true));
    assert_eq!(ports(Some(9999)), (true, true));
}

#[test]
fn routes_and_servers_of_other_namespaces_do_not_concern_the_pool() {
    let mut foreign_route = route("r", "m", &[("a", 1)]);
    foreign_route.name = "other/r".into();
    let routing = routing(vec![foreign_route]);
    assert!(routing.routes.is_empty());
    assert_eq!(routing.servers.keys().map(|name| &**name).collect::<Vec<_>>(), ["default/a", "default/b"]);
}
