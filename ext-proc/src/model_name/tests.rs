//! What is said of a model's name.

use std::time::Duration;

use scheduling::{Declared, Event, ModelRoute, Rule, Target};

use super::*;
use crate::exchange::{BodySend, Modes};
use crate::fleet::fixtures;

/// A step beside a fleet with these routes: name, age, base model, adapters.
fn step(routes: &[(&str, i64, &str, &[&str])]) -> Shared {
    let declared = fixtures::declared(&["10.0.0.1:8000"]);
    let server = fixtures::server("default/llama");
    let route = |(name, created, model, adapters): &(&str, i64, &str, &[&str])| ModelRoute {
        name: (*name).into(),
        created: Some(*created),
        model: Some((*model).into()),
        adapters: adapters.iter().map(|adapter| (*adapter).into()).collect(),
        rules: vec![Rule { targets: vec![Target { model_server: server.name.clone(), weight: 1 }], ..Rule::default() }],
    };
    let model_routes = routes.iter().map(route).collect();
    let fleet = Fleet::new(scheduling::Profile::default());
    fleet.apply(Event::Declared(Declared { model_servers: vec![server.clone()], model_routes, ..declared }));
    let modes = Modes { request: BodySend::Buffered, response: BodySend::None, body_without_waiting: false };
    let rules =
        Rules { fallback: modes, mode_override: false, max_body_size: 1 << 20, deadline: Duration::from_secs(1) };
    Shared {
        rules,
        fleet: Arc::new(fleet),
        base_models: BaseModels::default(),
        read: Arc::default(),
        metrics: Arc::default(),
    }
}

fn said(step: &Shared, model: &str) -> [String; 2] {
    let answer = step.answer(Some(model), vec![MODEL]);
    assert!(answer.clear_route_cache && answer.remove.is_empty() && answer.destination.is_none());
    let of = |name: &str| answer.set.iter().find(|(header, _)| *header == name).unwrap().1.clone();
    [of(MODEL), of(BASE_MODEL)]
}

#[test]
fn an_adapter_is_said_with_its_base_model_and_any_other_name_with_itself() {
    let step = step(&[("default/a", 1, "llama", &["sql", "qwen"]), ("default/b", 2, "qwen", &["sql", "poems"])]);
    for (model, base) in
        [("llama", "llama"), ("sql", "llama"), ("poems", "qwen"), ("qwen", "qwen"), ("unheard-of", "unheard-of")]
    {
        assert_eq!(said(&step, model), [model, base]);
    }
}

#[test]
fn base_models_follow_the_routes() {
    let step = step(&[("default/a", 1, "llama", &["sql"])]);
    assert_eq!(said(&step, "sql"), ["sql", "llama"]);
    step.fleet.apply(Event::Declared(Declared::default()));
    assert_eq!(said(&step, "sql"), ["sql", "sql"]);
}

#[test]
fn a_request_without_a_model_keeps_no_header_that_its_client_wrote() {
    let step = step(&[]);
    let answer = step.answer(None, vec![MODEL, BASE_MODEL]);
    assert!(answer.set.is_empty() && answer.clear_route_cache);
    assert_eq!(answer.remove, [MODEL, BASE_MODEL]);
    assert_eq!(step.answer(None, Vec::new()), Answer::default());
}

#[test]
fn a_name_that_is_no_header_value_is_not_said() {
    let step = step(&[]);
    for model in ["a\r\nx-admin: 1", "a\0", " a", "", &"a".repeat(1025)] {
        assert_eq!(step.answer(Some(model), Vec::new()), Answer::default(), "{model:?}");
    }
    assert_eq!(said(&step, "模型/7b"), ["模型/7b", "模型/7b"]);
}

#[test]
fn a_large_body_is_kept_for_the_pick_and_a_small_one_is_not() {
    let step = step(&[]);
    for (size, kept) in [(10, false), (read_once::WORTH, true)] {
        let body = format!(r#"{{"model":"llama","prompt":"{}"}}"#, "x".repeat(size));
        let answer = step.answer_to(openai::parse(body.as_bytes()).unwrap(), body.as_bytes(), Vec::new());
        let token = answer.set.iter().find(|(header, _)| *header == read_once::TOKEN);
        assert_eq!(token.is_some(), kept, "{size} bytes");
        let read = token.and_then(|(_, token)| step.read.take(token));
        assert_eq!(read.is_some_and(|read| read.fits(body.as_bytes())), kept);
    }
}
