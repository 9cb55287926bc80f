//! Pods fail and get lost.

use controller_api::v1alpha1::model_serving::RecoveryPolicy::{None as Nothing, RoleRecreate, ServingGroupRecreate};
use controller_api::v1alpha1::model_serving::{ModelServing, RecoveryPolicy};
use jiff::SignedDuration;

use super::fixtures::{Adjectives as _, serving, set_role};
use super::world::World;
use crate::conditions::holds;

fn two_roles(policy: RecoveryPolicy) -> ModelServing {
    serving(2).role("prefill", 1, 2).role("decode", 1, 0).recovery(policy)
}

#[test]
fn one_pod_takes_the_whole_group_with_it_if_that_is_the_policy() {
    for how in [World::delete_pod, World::lose_pod, World::fail_pod, World::evict_pod] {
        let mut world = World::settled(two_roles(ServingGroupRecreate));
        let (first, second) = (world.uids("llm-0-"), world.uids("llm-1-"));
        how(&mut world, "llm-0-decode-0-0");
        world.settle();
        assert!(world.uids("llm-0-").is_disjoint(&first), "all are new");
        assert_eq!(world.uids("llm-1-"), second);
        assert_eq!(world.names().len(), 8);
        assert!(holds(&world.status(), "Ready"));
        assert_eq!(world.events.iter().filter(|event| event.reason == "Recovering").count(), 1);
    }
}

#[test]
fn one_pod_takes_its_instance_with_it_by_default() {
    for how in [World::delete_pod, World::lose_pod, World::fail_pod, World::evict_pod] {
        let mut world = World::settled(two_roles(RoleRecreate));
        let (prefill, decode) = (world.uids("llm-0-prefill"), world.uids("llm-0-decode"));
        how(&mut world, "llm-0-prefill-0-1");
        world.settle();
        assert!(world.uids("llm-0-prefill").is_disjoint(&prefill));
        assert_eq!(world.uids("llm-0-decode"), decode);
        assert_eq!(world.names().len(), 8);
        assert_eq!(world.services.len(), 2);
    }
}

#[test]
fn an_instance_of_one_pod_returns() {
    for policy in [RoleRecreate, ServingGroupRecreate, Nothing] {
        for how in [World::delete_pod, World::lose_pod, World::evict_pod] {
            let mut world = World::settled(serving(2).role("prefill", 1, 0).recovery(policy));
            how(&mut world, "llm-1-prefill-0-0");
            world.settle();
            assert_eq!(world.names(), ["llm-0-prefill-0-0", "llm-1-prefill-0-0"], "{policy:?}");
            assert!(holds(&world.status(), "Ready"));
        }
    }
}

#[test]
fn without_a_policy_only_a_pod_that_is_gone_is_replaced() {
    for how in [World::delete_pod, World::lose_pod, World::evict_pod] {
        let mut world = World::settled(two_roles(Nothing));
        let before = world.uids("llm");
        how(&mut world, "llm-0-prefill-0-1");
        world.settle();
        assert_eq!(world.uids("llm").difference(&before).count(), 1);
        assert!(holds(&world.status(), "Ready"));
    }
    let mut world = World::settled(two_roles(Nothing));
    world.fail_pod("llm-0-prefill-0-1");
    world.settle();
    assert_eq!(world.count("delete"), 0, "the kubelet restarts it");
    assert_eq!(world.status().available_replicas, 1);
}

#[test]
fn a_pod_that_is_not_ready_makes_its_group_unavailable_and_nothing_else() {
    for policy in [RoleRecreate, ServingGroupRecreate, Nothing] {
        let mut world = World::settled(two_roles(policy));
        world.hold_pod("llm-0-decode-0-0");
        world.settle();
        assert_eq!(world.log.len(), world.count("status"), "{policy:?}");
        assert_eq!(world.status().available_replicas, 1);
        assert!(!holds(&world.status(), "Available"));
    }
}

#[test]
fn a_failed_pod_has_its_grace_period() {
    let mut world = World::settled(two_roles(RoleRecreate).grace(60));
    let before = world.uids("llm");
    world.fail_pod("llm-0-prefill-0-1");
    let failed = world.now;
    assert_eq!(world.plan().wake_at, Some(failed + SignedDuration::from_secs(60)));
    world.now += SignedDuration::from_secs(59);
    world.pass();
    assert_eq!(world.count("delete"), 0);
    world.settle();
    assert_eq!(world.uids("llm").difference(&before).count(), 3);

    // One that comes back in time is left alone.
    let before = world.uids("llm");
    world.fail_pod("llm-0-prefill-0-1");
    world.pass();
    world.pod("llm-0-prefill-0-1").facts.health = crate::observed::PodHealth::Ready;
    world.settle();
    assert_eq!(world.uids("llm"), before);
}

#[test]
fn three_pods_that_are_deleted_at_once_are_one_recovery() {
    let mut world = World::settled(two_roles(RoleRecreate));
    for number in 0..3 {
        world.delete_pod(&format!("llm-0-prefill-0-{number}"));
    }
    world.settle();
    assert_eq!((world.count("delete"), world.count("create pod")), (0, 3));
    let mut world = World::settled(two_roles(RoleRecreate));
    world.delete_pod("llm-0-prefill-0-0");
    world.delete_pod("llm-0-prefill-0-2");
    world.settle();
    assert_eq!((world.count("delete"), world.count("create pod")), (1, 3));
    assert_eq!(world.events.iter().filter(|event| event.reason == "Recovering").count(), 1);
}

#[test]
fn a_part_that_fails_again_and_again_waits_longer_each_time() {
    for policy in [RoleRecreate, ServingGroupRecreate] {
        let mut world = World::settled(serving(1).role("prefill", 1, 1).recovery(policy));
        let mut waits = Vec::new();
        for _ in 0..8 {
            world.fail_pod("llm-0-prefill-0-0");
            let failed = world.now;
            while world.count("create pod") < 2 {
                world.pass();
                world.kubelet();
                if let Some(wake_at) = world.plan().wake_at.filter(|_| world.pods.is_empty()) {
                    world.now = wake_at.max(world.now);
                }
            }
            waits.push(world.now.duration_since(failed).as_secs() / 10 * 10);
            world.log.clear();
            world.pass();
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300], "{policy:?}");
        let recovery = &world.status().recoveries[0];
        assert_eq!(recovery.count, 8);
        assert_eq!(recovery.reason, "pod llm-0-prefill-0-0 failed: OOMKilled");
        // Ten good minutes are the end of it.
        let end = world.now + SignedDuration::from_mins(11);
        world.settle();
        assert!(world.status().recoveries.is_empty() && world.now < end);
    }
}

#[test]
fn a_pod_that_is_evicted_again_and_again_waits_too() {
    let mut world = World::settled(serving(1).role("prefill", 1, 0).recovery(Nothing));
    for _ in 0..3 {
        world.evict_pod("llm-0-prefill-0-0");
        world.pass();
        world.kubelet();
        if let Some(wake_at) = world.plan().wake_at {
            world.now = world.now.max(wake_at);
        }
        world.pass();
        world.kubelet();
    }
    assert_eq!(world.status().recoveries[0].count, 3);
}

#[test]
fn a_role_that_grows_is_not_a_loss() {
    let mut world = World::settled(two_roles(ServingGroupRecreate));
    let before = world.uids("llm");
    world.edit(|spec| set_role(spec, "decode", 3));
    world.settle();
    assert!(before.is_subset(&world.uids("llm")), "what was there stays");
    assert_eq!(world.names().len(), 12);
    world.edit(|spec| set_role(spec, "decode", 1));
    world.settle();
    assert_eq!(world.names().len(), 8);
    assert!(world.status().recoveries.is_empty() && world.status().forming.is_empty());
}

#[test]
fn a_role_that_grows_while_another_pod_fails_is_still_recovered() {
    let mut world = World::settled(two_roles(ServingGroupRecreate));
    let prefill = world.uids("llm-0-prefill");
    world.edit(|spec| set_role(spec, "decode", 2));
    world.fail_pod("llm-0-prefill-0-1");
    world.settle();
    assert!(world.uids("llm-0-prefill").is_disjoint(&prefill));
    assert_eq!(world.names().len(), 10);
}

#[test]
fn a_pod_on_a_lost_node_is_waited_for_and_named() {
    let mut world = World::settled(two_roles(RoleRecreate));
    world.delete_pod("llm-0-prefill-0-1");
    world.pod("llm-0-prefill-0-1").stuck = true;
    world.settle();
    let reconciling = world.status().conditions.into_iter().find(|condition| condition.type_ == "Reconciling").unwrap();
    assert!(reconciling.message.contains("llm-0-prefill-0-1"), "{}", reconciling.message);
    assert_eq!(
        world.names(),
        ["llm-0-decode-0-0", "llm-1-decode-0-0", "llm-1-prefill-0-0", "llm-1-prefill-0-1", "llm-1-prefill-0-2"]
    );
    assert!(world.lines().is_empty());
}

#[test]
fn an_excess_pod_goes() {
    let mut world = World::settled(two_roles(RoleRecreate));
    let mut pod = world.pod("llm-0-prefill-0-2").clone();
    pod.facts.name = "llm-0-prefill-0-7".to_owned();
    pod.facts.uid = "uid-x".to_owned();
    world.pods.insert(pod.facts.name.clone(), pod);
    world.settle();
    let status = "status replicas=2 updated=2 available=2 forming=[] recoveries=0";
    assert_eq!(world.log, [status, "delete pod llm-0-prefill-0-7", status], "not Ready while it is there");
}

#[test]
fn pods_of_another_name_or_group_are_left_alone() {
    let mut world = World::settled(two_roles(RoleRecreate));
    let mut pod = world.pod("llm-0-prefill-0-2").clone();
    pod.facts.name = "aside".to_owned();
    pod.facts.group = "aside".to_owned();
    world.pods.insert(pod.facts.name.clone(), pod);
    world.settle();
    assert!(world.log.is_empty(), "{:?}", world.log);
}

#[test]
fn a_pod_whose_labels_were_changed_is_in_the_way_and_named() {
    let mut world = World::settled(serving(1).role("prefill", 1, 0));
    world.pod("llm-0-prefill-0-0").facts.group = "debugging".to_owned();
    world.settle();
    assert_eq!(world.count("create pod"), 0);
    let stalled = world.status().conditions.into_iter().find(|condition| condition.type_ == "Stalled").unwrap();
    assert_eq!(stalled.reason, "NameTaken");
    assert!(stalled.message.contains("llm-0-prefill-0-0"), "{}", stalled.message);
}

#[test]
fn what_kthena_left_half_built_is_finished() {
    // No `forming`, no services, some pods: as its controller leaves them when it is killed.
    let mut world = World::settled(serving(2).role("prefill", 2, 1).role("decode", 1, 1));
    for name in ["llm-0-prefill-1-1", "llm-1-decode-0-0", "llm-1-decode-0-1"] {
        world.lose_pod(name);
    }
    world.services.clear();
    let status = world.serving.status.as_mut().unwrap();
    (status.forming, status.recoveries, status.roles) = Default::default();
    world.settle();
    assert_eq!((world.names().len(), world.services.len()), (12, 6));
}
