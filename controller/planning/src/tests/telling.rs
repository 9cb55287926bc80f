//! Status, conditions and events.

use controller_api::v1alpha1::model_serving::RoleStatus;

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;
use crate::conditions::holds;
use crate::observed::Attempt;
use crate::plan::Write;

fn reasons(world: &World) -> Vec<&str> {
    world.events.iter().map(|event| event.reason).collect()
}

fn condition(world: &World, kind: &str) -> Option<(String, String, i64)> {
    let conditions = world.status().conditions;
    let found = conditions.into_iter().find(|condition| condition.type_ == kind)?;
    Some((found.status, found.reason, found.last_transition_time.0.as_second()))
}

#[test]
fn the_first_status_answers_the_spec_and_the_last_says_that_all_is_well() {
    let mut world = World::new(serving(2).role("prefill", 1, 1));
    let begin = world.now.as_second();
    world.pass();
    let status = world.status();
    assert_eq!((status.observed_generation, status.replicas, status.available_replicas), (1, 0, 0));
    assert_eq!(condition(&world, "Available"), Some(("False".into(), "GroupsNotReady".into(), begin)));
    assert_eq!(condition(&world, "Progressing"), Some(("True".into(), "GroupProgressing".into(), begin)));
    assert_eq!(condition(&world, "Reconciling").unwrap().0, "True");
    world.settle();
    let status = world.status();
    assert_eq!((status.replicas, status.updated_replicas, status.current_replicas), (2, 2, 2));
    let (holds, reason, since) = condition(&world, "Available").unwrap();
    assert_eq!((holds.as_str(), reason.as_str()), ("True", "AllGroupsReady"));
    assert!(since > begin);
    assert_eq!(condition(&world, "Ready").unwrap().0, "True");
    assert_eq!(condition(&world, "UpdateInProgress").unwrap().2, begin, "it was always false");
    assert_eq!(condition(&world, "Reconciling"), None);
    assert_eq!(condition(&world, "Stalled"), None);
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(1)));
    let role = RoleStatus { name: "prefill".to_owned(), replicas: 2, ready_replicas: 2, updated_replicas: 2 };
    assert_eq!(status.roles, [role]);
}

#[test]
fn a_serving_that_lacks_a_group_is_not_available() {
    let mut world = World::settled(serving(4).role("prefill", 1, 0).update(2, 0, 0));
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.pass();
    world.kubelet();
    world.pass();
    assert_eq!(world.status().replicas, 2, "two are gone, two are not there yet");
    assert!(!holds(&world.status(), "Available") && holds(&world.status(), "UpdateInProgress"));
}

#[test]
fn the_generation_is_answered_also_when_nothing_else_changes() {
    let mut world = World::settled(serving(1).role("prefill", 1, 0));
    world.edit(|spec| spec.revision_history_limit = Some(3));
    world.settle();
    assert_eq!(world.count("status"), 1);
    assert_eq!(world.status().observed_generation, 2);
    assert!(world.status().conditions.iter().all(|condition| condition.observed_generation == Some(2)));
}

#[test]
fn the_selector_selects_one_pod_of_each_group() {
    let prefix = "modelserving.volcano.sh/entry=true,modelserving.volcano.sh/name=llm,modelserving.volcano.sh/role=";
    let selector = |world: &World| world.status().label_selector.unwrap().replace(prefix, "");
    let mut world = World::settled(serving(2).role("router", 0, 0).role("prefill", 1, 1).role("decode", 2, 0));
    assert_eq!(selector(&world), "prefill", "the first role that has instances, whichever index they have");
    world.edit(|spec| set_role(spec, "prefill", 3));
    world.settle();
    assert_eq!(selector(&world), "prefill,modelserving.volcano.sh/role-id=prefill-0");
    world.lose_pod("llm-0-prefill-0-0");
    world.pass();
    assert_eq!(selector(&world), "prefill,modelserving.volcano.sh/role-id=prefill-0", "it comes back");
    world.settle();
    for group in 0..2 {
        for number in 0..2 {
            world.pod(&format!("llm-{group}-prefill-0-{number}")).facts.deletion_cost = -1;
        }
    }
    world.edit(|spec| set_role(spec, "prefill", 2));
    world.settle();
    assert_eq!(selector(&world), "prefill,modelserving.volcano.sh/role-id=prefill-1");
}

#[test]
fn the_events_of_a_life_tell_its_story() {
    let mut world = World::new(serving(1).role("prefill", 1, 1));
    world.settle();
    assert_eq!(reasons(&world), ["RevisionCreated", "ScaledUp", "RoleCreating", "RoleRunning", "Available"]);
    assert_eq!(world.events[2].message, "Role prefill/prefill-0 in ServingGroup llm-0 is now Creating");
    assert_eq!(world.events[3].message, "Role prefill/prefill-0 in ServingGroup llm-0 is now Running");

    world.events.clear();
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    world.settle();
    assert_eq!(
        reasons(&world),
        [
            "RevisionCreated",
            "RolloutStarted",
            "RolloutProgress",
            "RoleDeleting",
            "GroupCreated",
            "RoleCreating",
            "RolloutComplete",
            "RoleRunning",
            "Available"
        ]
    );

    world.events.clear();
    world.fail_pod("llm-0-prefill-0-1");
    world.settle();
    let told = &world.events[0];
    assert!(told.warning && told.reason == "Recovering", "{told:?}");
    assert!(told.message.contains("OOMKilled") && told.message.contains("llm-0/prefill-0"), "{}", told.message);

    world.events.clear();
    world.edit(|spec| spec.replicas = Some(0));
    world.settle();
    assert_eq!(reasons(&world), ["ScaledDown", "RoleDeleting"]);
}

#[test]
fn many_instances_are_told_in_one_line() {
    let mut world = World::new(serving(40).role("prefill", 2, 0));
    world.settle();
    let creating: Vec<_> = world.events.iter().filter(|event| event.reason == "RoleCreating").collect();
    assert_eq!(creating.len(), 1);
    assert_eq!(
        creating[0].message,
        "80 instances of role prefill are now Creating: llm-0/prefill-0, llm-0/prefill-1, llm-1/prefill-0, \
         llm-1/prefill-1, llm-2/prefill-0 and 75 more"
    );
}

#[test]
fn the_latest_instances_are_the_ones_that_became_ready() {
    let mut world = World::settled(serving(3).role("prefill", 1, 0));
    world.delete_pod("llm-1-prefill-0-0");
    world.settle();
    let running: Vec<_> = world.events.iter().filter(|event| event.reason == "RoleRunning").collect();
    assert_eq!(running.len(), 1);
    assert!(running[0].message.contains("ServingGroup llm-1"), "{}", running[0].message);
}

#[test]
fn a_serving_that_is_being_deleted_is_left_to_the_garbage_collector() {
    let mut world = World::new(serving(3).role("prefill", 1, 0));
    world.serving.metadata.deletion_timestamp = Some(world.now.into());
    assert!(world.lines().is_empty());
}

#[test]
fn a_refused_write_stalls_until_it_is_taken() {
    let mut world = World::new(serving(1).role("prefill", 1, 0));
    let message = "Pod llm-0-prefill-0-0: exceeded quota".to_owned();
    world.attempt = Attempt::Refused { reason: "WriteRefused", message: message.clone() };
    world.lives = Some(2);
    assert!(!world.pass(), "the status is written, the pod is not");
    assert_eq!(condition(&world, "Stalled").map(|(holds, reason, _)| (holds, reason)).unwrap().1, "WriteRefused");
    assert_eq!(condition(&world, "Reconciling"), None);
    assert_eq!(condition(&world, "Ready").unwrap().0, "False");
    let stalled = world.events.iter().find(|event| event.reason == "Stalled").unwrap();
    assert!(stalled.warning && stalled.message == message);

    // A process that has just started goes by the status, and writes none.
    (world.attempt, world.lives) = (Attempt::Unknown, None);
    assert!(world.plan().steps.iter().flat_map(|step| &step.writes).all(|write| !matches!(write, Write::Status(_))));
    world.pass();
    assert_eq!(world.count("create pod"), 1);
    world.attempt = Attempt::Unhindered;
    world.settle();
    assert_eq!(condition(&world, "Stalled"), None);
    assert_eq!(condition(&world, "Ready").unwrap().0, "True");
}

#[test]
fn a_refusal_of_an_older_spec_says_nothing_of_the_new_one() {
    let mut world = World::new(serving(1).role("prefill", 1, 0));
    world.attempt = Attempt::Refused { reason: "NameTaken", message: "Pod llm-0-prefill-0-0 belongs to nobody".into() };
    world.lives = Some(2);
    world.pass();
    (world.attempt, world.lives) = (Attempt::Unknown, None);
    world.edit(|spec| set_role(spec, "prefill", 0));
    world.settle();
    assert_eq!(condition(&world, "Stalled"), None);
}
