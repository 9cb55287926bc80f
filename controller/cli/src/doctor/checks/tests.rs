use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::doctor::facts::envoy::Envoy;
use crate::doctor::facts::picker::Picker;

/// Facts of a folder with these objects.
pub(super) fn folder(objects: Vec<Value>) -> Facts {
    let mut facts = Facts::default();
    objects.into_iter().for_each(|object| facts.add(object));
    facts.tell_engines();
    assert_eq!(facts.unreadable, [], "the objects of a test can be read");
    facts
}

/// Facts of a running cluster with these objects and no others.
pub(super) fn cluster(objects: Vec<Value>) -> Facts {
    let mut facts = folder(objects);
    facts.live = true;
    facts.read.extend(Source::OBJECTS);
    facts
}

/// These facts, and an Envoy.
pub(super) fn with_envoy(mut facts: Facts, configuration: Value) -> Facts {
    facts.envoy = Some(Envoy::read(configuration).expect("a configuration"));
    facts.read.insert(Source::Envoy);
    facts
}

/// Facts of a picker alone.
pub(super) fn with_picker(mut facts: Facts, fleet: Value, status: Value, servers: &Value) -> Facts {
    facts.picker = Some(Picker::read("127.0.0.1:15000", fleet, status, servers).expect("a picker"));
    facts.read.insert(Source::Picker);
    facts
}

/// What a check finds, for which there must be facts.
#[track_caller]
pub(super) fn found(check: &Check, facts: &Facts) -> Vec<Found> {
    let lacking = check.needs.iter().find_map(|any_of| facts.lacks(any_of));
    assert_eq!(lacking, None, "{}", check.id);
    (check.find)(facts)
}

/// The one thing that a check finds.
#[track_caller]
pub(super) fn one(check: &Check, facts: &Facts) -> Found {
    let mut found = found(check, facts);
    let first = found.pop();
    assert_eq!(found, [], "{} finds one thing", check.id);
    first.unwrap_or_else(|| panic!("{} finds nothing", check.id))
}

pub(super) fn pool(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": name, "namespace": "serve"},
        "spec": {
            "selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": format!("{name}-epp"), "port": {"number": 9002}},
        },
    })
}

pub(super) fn pod(name: &str, labels: &Value, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "serve", "labels": labels},
        "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    })
}

#[test]
fn every_check_has_a_name_and_a_line_of_its_own() {
    let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), CHECKS.len(), "an id is there twice");
    for check in CHECKS {
        assert!(check.id.chars().all(|letter| letter.is_ascii_lowercase() || "-2".contains(letter)), "{}", check.id);
        assert!(!check.about.ends_with('.') && check.about.len() < 110, "{}: {}", check.id, check.about);
    }
}

#[test]
fn the_guide_has_every_check_with_its_line() {
    let guide = include_str!("../../../../../deploy/reference/doctor.md");
    let rows: Vec<&str> = guide.lines().skip_while(|line| *line != "| check | what it finds |").skip(2).collect();
    let rows: Vec<&str> = rows.into_iter().take_while(|line| line.starts_with('|')).collect();
    let wanted: Vec<String> = CHECKS.iter().map(|check| format!("| `{}` | {} |", check.id, check.about)).collect();
    assert_eq!(rows, wanted);
}

#[test]
fn what_was_not_read_is_not_checked_and_that_is_said() {
    let report = examine(&Facts::default(), &["unreadable".to_owned()]);
    assert_eq!(report.done, ["kind-missing"]);
    assert_eq!(report.done.len() + report.not_done.len(), CHECKS.len());
    let why = |id: &str| report.not_done.iter().find(|it| it.check == id).map(|it| it.why.as_str());
    assert_eq!(why("unreadable"), Some("it was to be skipped (--skip)"));
    assert_eq!(why("picker-not-http2"), Some("no Envoy configuration (--envoy) was given"));
    assert_eq!(why("selector-matches-nothing"), Some("no InferencePool and no ModelServer was given"));
    let mut facts = Facts::default();
    facts.unread([Source::Pods, Source::Engines], "pods cannot be listed: forbidden");
    facts.add(pool("llama", "llama"));
    let report = examine(&facts, &[]);
    let why = report.not_done.iter().find(|it| it.check == "selector-matches-nothing").map(|it| it.why.as_str());
    assert_eq!(why, Some("pods cannot be listed: forbidden"));
}

#[test]
fn what_cannot_be_read_is_found() {
    let mut facts = folder(vec![]);
    facts.add(
        json!({"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "a"}}),
    );
    let found = one(&reading::UNREADABLE, &facts);
    assert_eq!(found.object, "InferencePool default/a");
    assert!(found.problem.contains("spec"), "{}", found.problem);
}

#[test]
fn kinds_without_which_nothing_is_attached_are_missed() {
    let mut facts = cluster(vec![]);
    facts.missing_kinds.extend([Source::InferencePools, Source::ModelServers]);
    assert!(one(&reading::KIND_MISSING, &facts).fix.contains("gateway-api-inference-extension"));
}

#[test]
fn the_group_of_drafts_is_found_in_pools_and_in_routes() {
    let mut old = pool("llama", "llama");
    old["apiVersion"] = "inference.networking.x-k8s.io/v1alpha2".into();
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "serve"},
        "spec": {"rules": [{"backendRefs": [
            {"group": "inference.networking.x-k8s.io", "kind": "InferencePool", "name": "llama"},
        ]}]},
    });
    let objects: Vec<String> =
        found(&reading::OLD_API_GROUP, &folder(vec![old, route])).into_iter().map(|found| found.object).collect();
    assert_eq!(objects, ["InferencePool serve/llama", "HTTPRoute serve/r"]);
    assert_eq!(found(&reading::OLD_API_GROUP, &folder(vec![pool("llama", "llama")])), []);
}
