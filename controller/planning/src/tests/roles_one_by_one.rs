//! `RoleRollingUpdate`: only the instances of changed roles are replaced.

use controller_api::v1alpha1::model_serving::{RecoveryPolicy, RolloutType};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;
use crate::conditions::holds;

fn world(groups: i32) -> World {
    World::settled(serving(groups).role("prefill", 4, 1).role("decode", 1, 0).by_role())
}

fn limit(world: &mut World, max_unavailable: i32, max_surge: i32, partition: i32) {
    world.edit(|spec| {
        let role = &mut spec.template.roles[0];
        role.max_unavailable = Some(IntOrString::Int(max_unavailable));
        role.max_surge = Some(IntOrString::Int(max_surge));
        role.partition = Some(IntOrString::Int(partition));
    });
}

fn of_image(world: &World, image: &str) -> Vec<String> {
    let pods = world.pods.values().filter(|pod| pod.image == image && !pod.facts.terminating);
    let mut ids: Vec<String> = pods.map(|pod| pod.facts.role_id.clone()).collect();
    ids.dedup();
    ids
}

#[test]
fn other_roles_are_left_alone() {
    let mut world = world(2);
    let decode = world.uids("decode");
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.settle();
    assert_eq!(world.uids("decode"), decode);
    assert!(world.pods.values().all(|pod| pod.image == if pod.facts.role == "decode" { "v1" } else { "v2" }));
    let status = world.status();
    assert_eq!((status.updated_replicas, status.current_replicas), (2, 2));
    assert_eq!(status.current_revision, status.update_revision);
    assert!(holds(&status, "Ready"));
}

#[test]
fn a_bad_image_stops_at_the_roles_limit() {
    let mut world = world(1);
    limit(&mut world, 2, 0, 0);
    world.edit(|spec| set_image(spec, "prefill", "bad"));
    world.settle();
    assert_eq!(of_image(&world, "bad"), ["prefill-2", "prefill-3"]);
    assert_eq!(world.status().available_replicas, 0, "a group that lacks instances is not available");
    world.edit(|spec| set_image(spec, "prefill", "v3"));
    world.settle();
    assert_eq!(of_image(&world, "v3").len(), 4);
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn one_instance_at_a_time_by_default() {
    let mut world = world(1);
    world.edit(|spec| set_image(spec, "prefill", "bad"));
    world.settle();
    assert_eq!(of_image(&world, "bad"), ["prefill-3"]);
}

#[test]
fn an_instance_in_excess_stands_in_and_goes() {
    let mut world = world(2);
    limit(&mut world, 0, 1, 0);
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.watch();
    world.settle();
    assert_eq!(world.fewest_ready, 2);
    assert_eq!(of_image(&world, "v2").len(), 8);
    assert_eq!(world.names().len(), 2 * 9);
}

#[test]
fn indices_below_the_roles_partition_keep_their_revision() {
    let mut world = world(1);
    limit(&mut world, 1, 0, 2);
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.settle();
    assert_eq!(of_image(&world, "v2"), ["prefill-2", "prefill-3"]);
    assert!(holds(&world.status(), "Ready"), "it is as it was asked to be");
    // A protected instance that is lost returns as it was, at its index.
    for name in ["llm-0-prefill-1-0", "llm-0-prefill-1-1"] {
        world.lose_pod(name);
    }
    world.settle();
    assert_eq!(of_image(&world, "v2"), ["prefill-2", "prefill-3"]);
    world.edit(|spec| set_role(spec, "prefill", 6));
    world.settle();
    assert_eq!(of_image(&world, "v2"), ["prefill-2", "prefill-3", "prefill-4", "prefill-5"]);
    world.edit(|spec| set_role(spec, "prefill", 2));
    world.settle();
    assert_eq!(world.uids("prefill").len(), 4);
    assert!(of_image(&world, "v2").is_empty(), "the protected ones are the last to go");
}

#[test]
fn a_role_that_is_added_or_removed_changes_its_groups_in_place() {
    let mut world = world(2);
    let decode = world.uids("decode");
    world.edit(|spec| {
        let mut role = spec.template.roles[1].clone();
        role.name = "router".to_owned();
        spec.template.roles.push(role);
        spec.template.roles.remove(0);
    });
    world.settle();
    assert_eq!(world.uids("decode"), decode);
    assert_eq!(world.names().len(), 4);
    assert!(world.services.is_empty());
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn with_groups_built_as_a_whole_a_replaced_instance_is_not_taken_for_a_lost_one() {
    let mut world = World::settled(
        serving(1).role("prefill", 2, 1).role("decode", 1, 0).by_role().recovery(RecoveryPolicy::ServingGroupRecreate),
    );
    let decode = world.uids("decode");
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.settle();
    assert_eq!(world.uids("decode"), decode);
    assert_eq!(of_image(&world, "v2").len(), 2);
    assert!(world.status().recoveries.is_empty() && world.status().forming.is_empty());
}

#[test]
fn a_change_of_the_strategy_restarts_nothing() {
    let mut world = world(2);
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.settle();
    let all = world.uids("llm");
    world.edit(|spec| spec.rollout_strategy.as_mut().unwrap().kind = RolloutType::ServingGroupRollingUpdate);
    world.settle();
    assert_eq!(world.uids("llm"), all, "decode pods have the old revision's label and are as the new one's");
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn pods_without_a_hash_are_judged_by_their_revision() {
    let mut world = world(1);
    for pod in world.pods.values_mut() {
        pod.facts.role_template_hash.clear();
    }
    assert!(world.lines().is_empty());
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.settle();
    assert_eq!(of_image(&world, "v2").len(), 4);
    // Nobody knows what their revision was: they stay.
    for pod in world.pods.values_mut() {
        pod.facts.role_template_hash.clear();
        pod.facts.revision = "forgotten".to_owned();
    }
    let all = world.uids("llm");
    world.settle();
    assert_eq!(world.uids("llm"), all);
}
