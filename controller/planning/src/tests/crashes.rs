//! The process ends after each single write in turn; whoever comes next must come to the same end, create nothing
//! twice (the world refuses), and keep to the limits of an update.

use controller_api::v1alpha1::model_serving::RecoveryPolicy::{
    self, None as Nothing, RoleRecreate, ServingGroupRecreate,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;
use crate::observed::GangSupport;

/// What must be the same in the end: names, images and services; revisions and UIDs are told by other tests.
fn end(world: &World) -> (Vec<String>, Vec<String>, Vec<String>, Vec<String>) {
    let pods = world.pods.values().map(|pod| format!("{} {}", pod.facts.name, pod.image)).collect();
    let status = world.status();
    assert!(status.forming.is_empty(), "{:?}", status.forming);
    (
        pods,
        world.services.keys().cloned().collect(),
        world.pod_groups.keys().cloned().collect(),
        [status.replicas, status.updated_replicas, status.available_replicas, status.current_replicas]
            .iter()
            .map(i32::to_string)
            .collect(),
    )
}

/// Runs `script` on `begin`'s world, undisturbed first, then with a crash after each number of writes.
fn survives(begin: impl Fn() -> World, script: impl Fn(&mut World), check: impl Fn(&World)) {
    let run = |lives: Option<usize>| {
        let mut world = begin();
        world.log.clear();
        world.watch();
        world.lives = lives;
        script(&mut world);
        world.settle();
        check(&world);
        assert!(world.lines().is_empty(), "an idle plan: {:?}", world.lines());
        (end(&world), world.log.len())
    };
    let (expected, writes) = run(None);
    assert!(writes > 1, "there is something to crash in");
    for lives in 0..writes {
        assert_eq!(run(Some(lives)).0, expected, "after {lives} of {writes} writes");
    }
}

fn example(policy: RecoveryPolicy) -> World {
    let mut world = World::new(serving(3).role("prefill", 2, 1).role("decode", 1, 0).recovery(policy).update(1, 0, 0));
    world.gangs = GangSupport::SubGroups;
    world
}

fn settled(policy: RecoveryPolicy) -> World {
    let mut world = example(policy);
    world.settle();
    world
}

const POLICIES: [RecoveryPolicy; 3] = [RoleRecreate, ServingGroupRecreate, Nothing];

#[test]
fn creation() {
    for policy in POLICIES {
        survives(
            || example(policy),
            |_| {},
            |world| {
                assert_eq!(world.count("create pod"), 15);
                assert_eq!(world.count("delete"), 0, "nothing that is being built is torn down");
            },
        );
    }
}

#[test]
fn scaling_up() {
    for policy in POLICIES {
        survives(
            || settled(policy),
            |world| {
                world.edit(|spec| {
                    spec.replicas = Some(5);
                    set_role(spec, "prefill", 3);
                });
            },
            |world| {
                assert_eq!(world.count("create pod"), 5 * 7 - 15);
                assert_eq!(world.count("delete"), 0);
            },
        );
    }
}

#[test]
fn scaling_down() {
    for policy in POLICIES {
        survives(
            || settled(policy),
            |world| {
                world.edit(|spec| {
                    spec.replicas = Some(2);
                    set_role(spec, "prefill", 1);
                });
            },
            |world| {
                assert_eq!(world.count("delete pod "), 15 - 2 * 3, "not one too many: {:#?}", world.log);
                assert_eq!(world.count("create"), 0);
            },
        );
    }
}

#[test]
fn a_bad_image_and_its_fix() {
    for policy in POLICIES {
        survives(
            || settled(policy),
            |world| {
                world.edit(|spec| set_image(spec, "prefill", "bad"));
                world.settle();
                world.edit(|spec| set_image(spec, "prefill", "v3"));
            },
            |world| assert!(world.fewest_ready >= 2, "maxUnavailable is 1"),
        );
    }
}

/// The crash comes after the fix, not before.
#[test]
fn the_fix_of_a_bad_image() {
    survives(
        || {
            let mut world = settled(RoleRecreate);
            world.edit(|spec| set_image(spec, "prefill", "bad"));
            world.settle();
            world
        },
        |world| world.edit(|spec| set_image(spec, "prefill", "v3")),
        |world| assert!(world.fewest_ready >= 2),
    );
}

#[test]
fn an_update_with_groups_in_excess() {
    survives(
        || World::settled(serving(3).role("prefill", 1, 1).update(0, 2, 0)),
        |world| world.edit(|spec| set_image(spec, "prefill", "v2")),
        |world| {
            assert_eq!(world.fewest_ready, 3, "maxUnavailable is 0");
            assert!(world.most_live <= 5, "maxSurge is 2");
        },
    );
}

#[test]
fn an_update_of_roles_one_by_one() {
    for policy in POLICIES {
        survives(
            || World::settled(serving(2).role("prefill", 3, 1).role("decode", 1, 0).by_role().recovery(policy)),
            |world| world.edit(|spec| set_image(spec, "prefill", "v2")),
            |world| assert_eq!(world.count("delete pod "), 12, "no other role, and nothing twice"),
        );
    }
}

#[test]
fn recovery() {
    for policy in POLICIES {
        for name in ["llm-1-prefill-1-1", "llm-1-prefill-1-0", "llm-1-decode-0-0"] {
            for how in [World::delete_pod, World::lose_pod, World::fail_pod, World::evict_pod] {
                survives(
                    || settled(policy),
                    |world| {
                        how(world, name);
                        if policy == Nothing {
                            // So that there is more to do.
                            world.edit(|spec| spec.replicas = Some(4));
                        }
                    },
                    |world| {
                        let again: i32 = world.status().recoveries.iter().map(|recovery| recovery.count).sum();
                        assert_eq!(again, 0, "it was forgotten");
                        let told = world.log.iter().filter(|line| line.contains("recoveries=2")).count();
                        assert_eq!(told, 0, "one recovery is not two");
                        let unit = match policy {
                            ServingGroupRecreate => 5,
                            RoleRecreate => 2,
                            Nothing => 1,
                        };
                        assert!(world.count("delete pod ") <= unit, "{:?}", world.log);
                    },
                );
            }
        }
    }
}

#[test]
fn rollback() {
    survives(
        || {
            let mut world = settled(RoleRecreate);
            world.edit(|spec| set_image(spec, "prefill", "v2"));
            world.settle();
            world
        },
        |world| {
            world.edit(|spec| spec.rollout_strategy.get_or_insert_default().rollback_to = Some(IntOrString::Int(1)));
        },
        |world| {
            assert!(world.fewest_ready >= 2);
            assert!(world.images().iter().all(|line| line.ends_with("v1")), "{:?}", world.images());
        },
    );
}

#[test]
fn a_partition_that_is_lowered() {
    survives(
        || {
            let mut world = World::settled(serving(4).role("prefill", 1, 1).update(1, 0, 2));
            world.edit(|spec| set_image(spec, "prefill", "v2"));
            world.settle();
            world
        },
        |world| world.edit(|spec| super::fixtures::set_partition(spec, 0)),
        |world| assert!(world.fewest_ready >= 3),
    );
}
