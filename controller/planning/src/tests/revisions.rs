//! Revisions: recorded before use, kept, served again.

use controller_api::labels;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;
use crate::conditions::holds;
use crate::names;

fn updated(images: &[&str]) -> World {
    let mut world = World::settled(serving(2).role("prefill", 1, 1));
    for image in images {
        world.edit(|spec| set_image(spec, "prefill", image));
        world.settle();
    }
    world
}

fn numbers(world: &World) -> Vec<i64> {
    let mut numbers: Vec<i64> = world.revisions.values().filter_map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    numbers
}

fn stalled(world: &World) -> Option<(String, String)> {
    let conditions = world.status().conditions;
    let found = conditions.into_iter().find(|condition| condition.type_ == "Stalled")?;
    Some((found.reason, found.message))
}

#[test]
fn how_many_there_are_makes_no_revision() {
    let mut world = updated(&[]);
    world.edit(|spec| {
        spec.replicas = Some(3);
        set_role(spec, "prefill", 2);
    });
    world.settle();
    assert_eq!(numbers(&world), [1]);
}

#[test]
fn an_old_template_is_its_old_revision_with_a_new_number() {
    let mut world = updated(&["v2"]);
    let revision = world.status().update_revision;
    world.edit(|spec| set_image(spec, "prefill", "v1"));
    world.settle();
    assert_eq!(world.count("renumber revision to 3"), 1);
    assert_eq!(numbers(&world), [2, 3]);
    assert_ne!(world.status().update_revision, revision);
}

#[test]
fn a_rollback_serves_a_revision_until_it_is_taken_back() {
    for by_name in [false, true] {
        let mut world = updated(&["v2", "v3"]);
        let first = world.revisions.values().find(|revision| revision.revision == Some(1)).unwrap();
        let wanted = if by_name { first.metadata.name.clone().unwrap() } else { "1".to_owned() };
        world.annotate(labels::ROLLBACK_TO, Some(&wanted));
        world.settle();
        assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1"]);
        world.edit(|spec| spec.replicas = Some(3));
        world.settle();
        assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1"]);
        // The field is stronger than the annotation.
        world.edit(|spec| spec.rollout_strategy.get_or_insert_default().rollback_to = Some(IntOrString::Int(2)));
        world.settle();
        assert_eq!(world.images(), ["llm-0: v2", "llm-1: v2", "llm-2: v2"]);
        world.edit(|spec| spec.rollout_strategy = None);
        world.annotate(labels::ROLLBACK_TO, None);
        world.settle();
        assert_eq!(world.images(), ["llm-0: v3", "llm-1: v3", "llm-2: v3"]);
        assert_eq!(numbers(&world), [1, 2, 3]);
    }
}

#[test]
fn a_rollback_to_nowhere_changes_nothing_and_says_so() {
    let mut world = updated(&["v2"]);
    world.annotate(labels::ROLLBACK_TO, Some("7"));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v2", "llm-1: v2"]);
    let (reason, message) = stalled(&world).unwrap();
    assert_eq!(reason, "UnknownRevision");
    assert!(message.contains('7'), "{message}");
    // What breaks is repaired all the same.
    world.lose_pod("llm-1-prefill-0-1");
    world.settle();
    assert_eq!(world.names().len(), 4);
    world.annotate(labels::ROLLBACK_TO, None);
    world.settle();
    assert!(stalled(&world).is_none() && holds(&world.status(), "Ready"));
}

#[test]
fn a_new_serving_that_rolls_back_to_nowhere_builds_nothing() {
    let mut world = World::new(serving(2).role("prefill", 1, 0));
    world.annotate(labels::ROLLBACK_TO, Some("3"));
    world.settle();
    assert_eq!(world.log.len(), 1, "a status: {:?}", world.log);
    assert_eq!(stalled(&world).unwrap().0, "UnknownRevision");
    world.annotate(labels::ROLLBACK_TO, None);
    world.settle();
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn the_history_is_limited_but_what_is_in_use_is_kept() {
    let mut world = updated(&["v2", "v3", "v4"]);
    world.edit(|spec| spec.revision_history_limit = Some(1));
    world.settle();
    assert_eq!(numbers(&world), [3, 4]);
    world.edit(|spec| {
        spec.revision_history_limit = Some(0);
        super::fixtures::set_partition(spec, 1);
        set_image(spec, "prefill", "v5");
    });
    world.settle();
    assert_eq!(numbers(&world), [4, 5], "a protected group is of 4");
}

#[test]
fn objects_of_kthena_are_taken_over_without_a_restart() {
    let mut world = updated(&[]);
    let ours = world.status().update_revision.unwrap();
    let (name, mut revision) = world.revisions.pop_first().unwrap();
    assert_eq!(name, names::revision("llm", &ours));
    revision.metadata.name = Some("llm-5d4f8c".to_owned());
    revision.metadata.labels = Some([(labels::REVISION.to_owned(), "5d4f8c".to_owned())].into());
    world.revisions.insert("llm-5d4f8c".to_owned(), revision);
    for pod in world.pods.values_mut() {
        pod.facts.revision = "5d4f8c".to_owned();
        pod.facts.role_template_hash = "77f6c".to_owned();
    }
    world.services.clear();
    let status = world.serving.status.as_mut().unwrap();
    (status.current_revision, status.update_revision) = (Some("5d4f8c".to_owned()), Some("5d4f8c".to_owned()));
    (status.roles, status.label_selector) = (Vec::new(), None);
    let pods = world.uids("llm");
    world.settle();
    assert_eq!(world.uids("llm"), pods);
    assert_eq!(world.count("create"), 0, "{:?}", world.log);
    assert_eq!(world.status().update_revision.as_deref(), Some("5d4f8c"));
}

#[test]
fn a_revision_in_use_that_cannot_be_read_is_told_and_its_group_is_replaced_when_it_breaks() {
    let mut world = updated(&[]);
    world.edit(|spec| {
        super::fixtures::set_partition(spec, 2);
        set_image(spec, "prefill", "v2");
    });
    world.settle();
    let first = world.revisions.values_mut().find(|revision| revision.revision == Some(1)).unwrap();
    first.data.0 = json!({"data": "nothing"});
    world.settle();
    assert_eq!(stalled(&world).unwrap().0, "UnreadableRevision");
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1"], "what works is left alone");
    world.fail_pod("llm-1-prefill-0-1");
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v2"]);
}

#[test]
fn an_unknown_plugin_builds_nothing_and_takes_nothing_away() {
    let plugin = |name: &str| serde_json::from_value(json!([{"name": name, "type": "BuiltIn"}])).unwrap();
    let mut world = World::new(serving(2).role("prefill", 1, 1));
    world.edit(|spec| spec.plugins = plugin("no-such-plugin"));
    world.settle();
    assert!(world.pods.is_empty() && world.services.is_empty());
    assert_eq!(stalled(&world).unwrap().0, "PluginFailed");
    assert_eq!(world.status().observed_generation, 2);
    world.edit(|spec| spec.plugins.clear());
    world.settle();
    assert!(holds(&world.status(), "Ready"));
    world.edit(|spec| {
        spec.plugins = plugin("no-such-plugin");
        set_image(spec, "prefill", "v2");
    });
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1"]);
}
