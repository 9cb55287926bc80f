//! Groups move to another revision.

use controller_api::labels;

use super::fixtures::{Adjectives as _, serving, set_image, set_partition};
use super::world::World;
use crate::conditions::holds;

fn update(world: &mut World, image: &str) {
    world.edit(|spec| set_image(spec, "prefill", image));
}

fn groups(replicas: i32, max_unavailable: i32, max_surge: i32, partition: i32) -> World {
    World::settled(serving(replicas).role("prefill", 2, 1).update(max_unavailable, max_surge, partition))
}

#[test]
fn all_groups_come_to_the_new_revision_at_their_own_ordinals() {
    let mut world = groups(4, 2, 0, 0);
    update(&mut world, "v2");
    world.settle();
    assert_eq!(world.images(), ["llm-0: v2", "llm-1: v2", "llm-2: v2", "llm-3: v2"]);
    assert_eq!(world.fewest_ready, 2, "never more than maxUnavailable are missing, and no fewer than may be");
    let status = world.status();
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!((status.current_replicas, status.updated_replicas, status.available_replicas), (4, 4, 4));
    assert_eq!(world.count("delete service"), 0, "a service lives on");
}

#[test]
fn a_bad_image_stops_at_the_limit_and_its_fix_goes_through() {
    for fix in ["v1", "v3"] {
        let mut world = groups(6, 2, 0, 0);
        update(&mut world, "bad");
        world.settle();
        assert_eq!(world.fewest_ready, 4);
        let bad = world.images().iter().filter(|line| line.ends_with("bad")).count();
        assert_eq!(bad, 2);
        assert!(holds(&world.status(), "UpdateInProgress") && !holds(&world.status(), "Available"));

        update(&mut world, fix);
        world.settle();
        assert_eq!(world.fewest_ready, 4, "the fix takes the broken groups first");
        assert!(world.images().iter().all(|line| line.ends_with(fix)), "{:?}", world.images());
        assert!(holds(&world.status(), "Ready"));
    }
}

#[test]
fn groups_that_are_broken_anyway_are_replaced_at_once() {
    let mut world = groups(4, 1, 0, 0);
    for ordinal in [0, 1] {
        world.hold_pod(&format!("llm-{ordinal}-prefill-0-0"));
    }
    world.settle();
    world.watch();
    update(&mut world, "v2");
    assert!(world.pass());
    let deleted: Vec<&str> =
        world.pods.values().filter(|pod| pod.facts.terminating).map(|pod| pod.facts.group.as_str()).collect();
    assert_eq!(deleted, ["llm-0"; 4].into_iter().chain(["llm-1"; 4]).collect::<Vec<_>>(), "no ready one before");
    world.settle();
    assert_eq!(world.fewest_ready, 2);
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn groups_in_excess_stand_in_and_go() {
    let mut world = groups(3, 0, 1, 0);
    update(&mut world, "v2");
    world.settle();
    assert_eq!(world.images(), ["llm-0: v2", "llm-1: v2", "llm-2: v2"]);
    assert_eq!((world.fewest_ready, world.most_live), (3, 4));
    assert_eq!(world.services.len(), 6, "what stood in left nothing behind");
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn a_bad_image_with_groups_in_excess_takes_no_group_away() {
    let mut world = groups(3, 0, 1, 0);
    update(&mut world, "bad");
    world.settle();
    assert_eq!((world.fewest_ready, world.most_live), (3, 4));
    update(&mut world, "v3");
    world.settle();
    assert_eq!((world.fewest_ready, world.most_live), (3, 4));
    assert_eq!(world.images(), ["llm-0: v3", "llm-1: v3", "llm-2: v3"]);
}

#[test]
fn a_scale_down_within_an_update_with_groups_in_excess_ends_with_the_right_number() {
    let mut world = groups(4, 1, 2, 0);
    update(&mut world, "v2");
    for _ in 0..3 {
        world.pass();
        world.kubelet();
    }
    world.edit(|spec| spec.replicas = Some(2));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v2", "llm-1: v2"]);
}

#[test]
fn ordinals_below_the_partition_keep_their_revision() {
    let mut world = groups(5, 2, 0, 3);
    update(&mut world, "v2");
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1", "llm-3: v2", "llm-4: v2"]);
    let status = world.status();
    assert_ne!(status.current_revision, status.update_revision);
    assert_eq!((status.current_replicas, status.updated_replicas), (3, 2));
    assert!(holds(&status, "Ready"), "it is as it was asked to be");

    let kept = world.uids("llm-1-");
    world.edit(|spec| spec.replicas = Some(7));
    world.settle();
    assert_eq!(world.images()[2..], ["llm-2: v1", "llm-3: v2", "llm-4: v2", "llm-5: v2", "llm-6: v2"]);
    assert_eq!(world.uids("llm-1-"), kept);

    world.edit(|spec| spec.replicas = Some(3));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1"]);
    let status = world.status();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.current_replicas, status.available_replicas),
        (3, 0, 3, 3)
    );

    world.edit(|spec| set_partition(spec, 1));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v2", "llm-2: v2"]);
    world.edit(|spec| set_partition(spec, 0));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v2", "llm-1: v2", "llm-2: v2"]);
    assert_eq!(world.status().current_revision, world.status().update_revision);
}

#[test]
fn a_protected_group_that_is_lost_returns_as_it_was() {
    let mut world = groups(3, 1, 0, 9);
    update(&mut world, "v2");
    world.settle();
    let old = world.status().current_revision;
    for name in ["llm-1-prefill-0-0", "llm-1-prefill-0-1"] {
        world.lose_pod(name);
    }
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1"]);
    // Nothing is left of it, not even a service.
    world.pods.retain(|name, _| !name.starts_with("llm-1-"));
    world.services.retain(|name, _| !name.starts_with("llm-1-"));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1"]);
    assert_eq!(world.status().current_revision, old);
    // All groups at once.
    world.pods.clear();
    world.services.clear();
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1"]);
}

#[test]
fn a_paused_update_replaces_nothing_but_repairs_and_scales() {
    let mut world = groups(3, 1, 0, 0);
    world.annotate(labels::PAUSED, Some("true"));
    update(&mut world, "v2");
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1"]);
    assert!(holds(&world.status(), "Available") && !holds(&world.status(), "Ready"));
    assert!(!holds(&world.status(), "Reconciling"), "nothing goes on");
    world.lose_pod("llm-2-prefill-0-0");
    world.edit(|spec| spec.replicas = Some(4));
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: v1", "llm-3: v1"]);
    world.annotate(labels::PAUSED, None);
    world.settle();
    assert!(world.images().iter().all(|line| line.ends_with("v2")), "{:?}", world.images());
}

#[test]
fn repair_in_a_group_that_waits_for_its_update_mixes_no_revisions() {
    let mut world = groups(3, 1, 0, 0);
    update(&mut world, "bad");
    world.settle();
    assert_eq!(world.images(), ["llm-0: v1", "llm-1: v1", "llm-2: bad"]);
    world.delete_pod("llm-0-prefill-1-1");
    world.settle();
    assert!(!world.images().iter().any(|line| line.contains('+')), "{:?}", world.images());
}

#[test]
fn a_new_role_comes_with_the_groups_replacement() {
    let mut world = groups(3, 1, 0, 0);
    world.edit(|spec| {
        let mut role = spec.template.roles[0].clone();
        role.name = "decode".to_owned();
        spec.template.roles.push(role);
    });
    assert!(world.pass());
    assert_eq!(world.count("create pod"), 0, "no pod joins an old group, to be thrown away with it");
    world.settle();
    assert_eq!(world.names().len(), 3 * 8);
    world.edit(|spec| spec.template.roles.truncate(1));
    world.settle();
    assert_eq!(world.names().len(), 3 * 4);
    assert_eq!(world.services.len(), 3 * 2);
}

#[test]
fn fewer_workers_are_a_new_revision() {
    let mut world = groups(2, 1, 0, 0);
    world.edit(|spec| spec.template.roles[0].worker_replicas = 0);
    world.settle();
    assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-0-prefill-1-0", "llm-1-prefill-0-0", "llm-1-prefill-1-0"]);
    assert!(holds(&world.status(), "Ready"));
}

#[test]
fn an_update_that_is_changed_half_way_ends_at_the_last_word() {
    let mut world = groups(4, 1, 1, 0);
    for image in ["v2", "v3", "bad", "v4"] {
        update(&mut world, image);
        for _ in 0..4 {
            world.pass();
            world.kubelet();
        }
    }
    world.settle();
    assert_eq!(world.images(), ["llm-0: v4", "llm-1: v4", "llm-2: v4", "llm-3: v4"]);
    assert!(world.fewest_ready >= 3);
}
