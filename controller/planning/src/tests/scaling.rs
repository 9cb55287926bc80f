//! More and fewer groups and instances.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;

/// So many groups of one pod each.
fn groups(replicas: i32) -> World {
    World::settled(serving(replicas).role("prefill", 1, 0))
}

fn scaled(mut world: World, replicas: i32) -> World {
    world.edit(|spec| spec.replicas = Some(replicas));
    world.settle();
    world
}

#[test]
fn more_groups_take_the_lowest_free_ordinals() {
    let world = scaled(groups(1), 3);
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-1-prefill-0-0", "llm-2-prefill-0-0"]);
    assert_eq!(world.status().available_replicas, 3);
}

#[test]
fn fewer_groups_give_up_the_highest_ordinals() {
    let world = scaled(groups(3), 1);
    assert_eq!(world.names(), ["llm-0-prefill-0-0"]);
    assert_eq!((world.status().replicas, world.status().available_replicas), (1, 1));
}

#[test]
fn the_cheapest_groups_go_and_their_ordinals_are_used_again() {
    let mut world = groups(4);
    for (ordinal, cost) in [100, 50, 0, 75].into_iter().enumerate() {
        world.pod(&format!("llm-{ordinal}-prefill-0-0")).facts.deletion_cost = cost;
    }
    let world = scaled(world, 2);
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-3-prefill-0-0"]);
    let world = scaled(world, 3);
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-1-prefill-0-0", "llm-3-prefill-0-0"]);
}

#[test]
fn a_group_that_is_not_ready_goes_before_a_cheap_one() {
    let mut world = groups(4);
    world.hold_pod("llm-1-prefill-0-0");
    world.pod("llm-1-prefill-0-0").facts.deletion_cost = 1000;
    world.settle();
    let world = scaled(world, 3);
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-2-prefill-0-0", "llm-3-prefill-0-0"]);
}

#[test]
fn the_cost_of_a_group_is_the_sum_over_its_pods() {
    let mut world = World::settled(serving(2).role("prefill", 2, 0).role("decode", 1, 0));
    for pod in world.pods.values_mut() {
        let high = pod.facts.group == "llm-1";
        pod.facts.deletion_cost = if high { 1 } else { 0 } + i64::from(pod.facts.name == "llm-0-prefill-0-0") * 2;
    }
    let world = scaled(world, 1);
    assert!(world.names().iter().all(|name| name.starts_with("llm-1-")), "3 are more than 2: {:?}", world.names());
}

#[test]
fn a_group_that_is_going_is_not_chosen_again() {
    let mut world = groups(4);
    world.edit(|spec| spec.replicas = Some(3));
    assert!(world.pass());
    world.pod("llm-3-prefill-0-0").stuck = true;
    world.pod("llm-0-prefill-0-0").facts.deletion_cost = -5;
    world.settle();
    assert_eq!(world.names().len(), 3, "{:?}", world.names());
    assert_eq!(world.count("delete pod "), 1);
}

#[test]
fn a_group_waits_for_the_end_of_its_predecessor_instead_of_taking_another_ordinal() {
    let mut world = groups(3);
    world.delete_pod("llm-1-prefill-0-0");
    world.pod("llm-1-prefill-0-0").stuck = true;
    world.settle();
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-2-prefill-0-0"]);
    let conditions = world.status().conditions;
    let reconciling = conditions.iter().find(|condition| condition.type_ == "Reconciling").unwrap();
    assert!(reconciling.message.contains("waiting for the end of llm-1-prefill-0-0"), "{}", reconciling.message);
    world.pod("llm-1-prefill-0-0").stuck = false;
    world.settle();
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-1-prefill-0-0", "llm-2-prefill-0-0"]);
}

#[test]
fn no_groups_are_served_from_the_start() {
    let world = groups(0);
    assert_eq!(world.status().observed_generation, 1);
    assert_eq!(world.status().replicas, 0);
    assert!(crate::conditions::holds(&world.status(), "Available"));
    let world = scaled(world, 2);
    assert_eq!(world.names().len(), 2);
    let world = scaled(world, 0);
    assert!(world.names().is_empty());
    assert!(crate::conditions::holds(&world.status(), "Ready"));
}

#[test]
fn groups_of_no_instance_are_as_they_should_be() {
    let mut world = World::settled(serving(2).role("prefill", 0, 0));
    assert_eq!((world.status().replicas, world.status().available_replicas), (2, 2));
    assert!(crate::conditions::holds(&world.status(), "Ready"));
    world.edit(|spec| set_role(spec, "prefill", 1));
    world.settle();
    assert_eq!(world.names().len(), 2);
}

#[test]
fn a_role_grows_and_shrinks_in_every_group() {
    let mut world = World::settled(serving(2).role("prefill", 1, 1).role("decode", 1, 0));
    let decode = world.uids("decode");
    world.edit(|spec| set_role(spec, "prefill", 3));
    world.settle();
    assert_eq!(world.names().len(), 2 * (3 * 2 + 1));
    world.edit(|spec| set_role(spec, "prefill", 1));
    world.settle();
    assert_eq!(world.names().len(), 2 * (2 + 1));
    assert_eq!(world.services.len(), 2);
    assert_eq!(world.uids("decode"), decode);
    assert_eq!(world.count("delete pod "), 2 * 2 * 2);
}

#[test]
fn the_cheapest_instances_of_a_role_go() {
    let mut world = World::settled(serving(1).role("prefill", 4, 0));
    for index in 0..4 {
        world.pod(&format!("llm-0-prefill-{index}-0")).facts.deletion_cost = index * 100;
    }
    world.edit(|spec| set_role(spec, "prefill", 1));
    world.settle();
    assert_eq!(world.names(), ["llm-0-prefill-3-0"]);
    world.edit(|spec| set_role(spec, "prefill", 2));
    world.settle();
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-0-prefill-3-0"]);
}

#[test]
fn an_instance_that_is_not_ready_goes_first() {
    let mut world = World::settled(serving(1).role("prefill", 4, 0));
    world.hold_pod("llm-0-prefill-0-0");
    world.settle();
    world.edit(|spec| set_role(spec, "prefill", 3));
    world.settle();
    assert_eq!(world.names(), ["llm-0-prefill-1-0", "llm-0-prefill-2-0", "llm-0-prefill-3-0"]);
}

#[test]
fn groups_and_roles_shrink_together() {
    let mut world = World::settled(serving(2).role("prefill", 2, 0).role("decode", 1, 0));
    for pod in world.pods.values_mut() {
        let group = i64::from(pod.facts.group == "llm-1");
        let index = i64::from(pod.facts.role_id == "prefill-1");
        pod.facts.deletion_cost = group * 100 + index * 10;
    }
    world.edit(|spec| {
        spec.replicas = Some(1);
        set_role(spec, "prefill", 1);
    });
    world.settle();
    assert_eq!(world.names(), ["llm-1-decode-0-0", "llm-1-prefill-1-0"]);
}

#[test]
fn a_role_that_grows_in_an_outdated_group_is_of_that_groups_revision() {
    let mut world = World::settled(serving(2).role("prefill", 1, 0).update(1, 0, 2));
    world.edit(|spec| {
        set_image(spec, "prefill", "v2");
        set_role(spec, "prefill", 2);
    });
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1"]);
    assert_eq!(world.names().len(), 4);
}

#[test]
fn the_partition_protects_by_true_ordinal_when_groups_are_removed() {
    for (cost, left) in [(0, ["llm-0", "llm-2"]), (-9, ["llm-0", "llm-2"])] {
        let mut world = World::settled(serving(9).role("prefill", 1, 0).update(1, 0, 1));
        for ordinal in [1, 3, 4, 6, 7] {
            world.pod(&format!("llm-{ordinal}-prefill-0-0")).facts.deletion_cost = -100;
        }
        let mut world = scaled(world, 4);
        assert_eq!(world.names().len(), 4, "0, 2, 5 and 8 are left");
        world.pod("llm-0-prefill-0-0").facts.deletion_cost = cost;
        let world = scaled(world, 2);
        let groups: Vec<String> = world.names().iter().map(|name| name.replace("-prefill-0-0", "")).collect();
        assert_eq!(groups, left, "0 is protected although it is the cheapest");
    }
}

#[test]
fn a_percentage_moves_with_the_replicas() {
    let mut world = World::settled(serving(4).role("prefill", 1, 0).update(4, 0, 0));
    world.edit(|spec| {
        let update = spec.rollout_strategy.as_mut().unwrap().rolling_update_configuration.as_mut().unwrap();
        update.partition = Some(IntOrString::String("50%".to_owned()));
        set_image(spec, "prefill", "v2");
    });
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v2", "llm-3: v2"]);
}
