//! Whole plans, line by line.

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;
use crate::observed::GangSupport;

#[test]
fn a_new_serving_is_built_in_one_pass() {
    let mut world = World::new(serving(2).role("prefill", 1, 1).role("decode", 1, 0));
    world.gangs = GangSupport::SubGroups;
    assert_eq!(
        world.lines(),
        [
            "create revision 1",
            "",
            "status replicas=0 updated=0 available=0 forming=[\"llm-0/prefill-0\", \"llm-1/prefill-0\"] recoveries=0",
            "",
            "apply podgroup llm-0 new minMember=3",
            "apply podgroup llm-1 new minMember=3",
            "",
            "apply service llm-0-prefill-0-0 new",
            "create pod llm-0-prefill-0-0 new",
            "create pod llm-0-prefill-0-1 new",
            "create pod llm-0-decode-0-0 new",
            "apply service llm-1-prefill-0-0 new",
            "create pod llm-1-prefill-0-0 new",
            "create pod llm-1-prefill-0-1 new",
            "create pod llm-1-decode-0-0 new",
        ]
    );
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mut world = World::new(serving(3).role("prefill", 2, 1).role("decode", 1, 0));
    world.settle();
    assert_eq!(world.lines(), [""; 0]);
    assert!(world.count("status") <= 3, "begun, all there, all ready");
    assert_eq!(world.pods.len(), 15);
    assert_eq!(world.count("create pod"), 15);
}

#[test]
fn a_lost_worker_takes_its_instance_with_it() {
    let mut world = World::settled(serving(1).role("prefill", 2, 1).role("decode", 1, 0));
    world.lose_pod("llm-0-prefill-1-1");
    assert_eq!(
        world.lines(),
        ["status replicas=1 updated=1 available=0 forming=[] recoveries=1", "", "delete pod llm-0-prefill-1-0",]
    );
    assert!(world.pass());
    world.kubelet();
    assert_eq!(
        world.lines(),
        [
            "status replicas=1 updated=1 available=0 forming=[\"llm-0/prefill-1\"] recoveries=1",
            "",
            "create pod llm-0-prefill-1-0 r1",
            "create pod llm-0-prefill-1-1 r1",
        ]
    );
}

#[test]
fn an_update_replaces_one_group_at_a_time() {
    let mut world = World::settled(serving(3).role("prefill", 1, 1));
    world.edit(|spec| set_image(spec, "prefill", "v2"));
    assert_eq!(
        world.lines(),
        [
            "create revision 2",
            "",
            "status replicas=3 updated=0 available=3 forming=[] recoveries=0",
            "",
            "delete pod llm-2-prefill-0-0",
            "delete pod llm-2-prefill-0-1",
        ]
    );
    assert!(world.pass());
    assert_eq!(
        world.lines(),
        ["status replicas=3 updated=0 available=2 forming=[] recoveries=0"],
        "while the old pods end"
    );
    assert!(world.pass());
    world.kubelet();
    assert_eq!(
        world.lines(),
        [
            "status replicas=3 updated=0 available=2 forming=[\"llm-2/prefill-0\"] recoveries=0",
            "",
            "apply service llm-2-prefill-0-0 r2",
            "create pod llm-2-prefill-0-0 r2",
            "create pod llm-2-prefill-0-1 r2",
        ]
    );
}

#[test]
fn a_removed_instance_leaves_its_service_until_its_pods_are_gone() {
    let mut world = World::settled(serving(1).role("prefill", 2, 1));
    world.edit(|spec| set_role(spec, "prefill", 1));
    assert_eq!(
        world.lines(),
        [
            "status replicas=1 updated=1 available=1 forming=[] recoveries=0",
            "",
            "delete pod llm-0-prefill-1-0",
            "delete pod llm-0-prefill-1-1",
        ]
    );
    assert!(world.pass());
    world.pass();
    world.kubelet();
    assert_eq!(world.lines(), ["delete service llm-0-prefill-1-0"]);
}
