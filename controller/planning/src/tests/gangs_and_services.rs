//! PodGroups and headless services.

use std::collections::BTreeMap;

use controller_api::v1alpha1::model_serving::{GangPolicy, GroupNetworkTopology, NetworkTopology};

use super::fixtures::{Adjectives as _, serving, set_image, set_role};
use super::world::World;
use crate::observed::GangSupport;

fn gangs(groups: i32, surge: i32) -> World {
    let mut world = World::new(serving(groups).role("prefill", 2, 1).update(1, surge, 0));
    world.gangs = GangSupport::SubGroups;
    world.settle();
    world.log.clear();
    world
}

#[test]
fn a_gang_comes_and_goes_with_its_group() {
    let mut world = gangs(2, 0);
    assert_eq!(world.pod_groups.keys().collect::<Vec<_>>(), ["llm-0", "llm-1"]);
    world.edit(|spec| spec.replicas = Some(1));
    world.settle();
    assert_eq!(world.pod_groups.keys().collect::<Vec<_>>(), ["llm-0"]);
    assert_eq!(world.services.keys().collect::<Vec<_>>(), ["llm-0-prefill-0-0", "llm-0-prefill-1-0"]);
}

#[test]
fn a_gang_that_was_deleted_or_is_out_of_date_is_written_again() {
    let mut world = gangs(2, 0);
    world.pod_groups.remove("llm-1");
    assert_eq!(world.lines(), ["apply podgroup llm-1 r1 minMember=4"]);
    world.settle();
    world.edit(|spec| set_role(spec, "prefill", 3));
    world.settle();
    assert_eq!(world.count("apply podgroup"), 3);
    world.log.clear();
    world.edit(|spec| {
        let mode = NetworkTopology { highest_tier_allowed: Some(2), ..NetworkTopology::default() };
        spec.template.network_topology = Some(GroupNetworkTopology { group_policy: Some(mode), role_policy: None });
        let least = BTreeMap::from([("prefill".to_owned(), 1)]);
        spec.template.gang_policy = Some(GangPolicy { min_role_replicas: Some(least) });
    });
    world.settle();
    assert_eq!(world.count("apply podgroup"), 2);
    assert_eq!(world.count("delete") + world.count("create"), 0, "no pod is restarted for it");
}

#[test]
fn there_are_no_gangs_where_nobody_knows_them_or_another_scheduler_is_asked_for() {
    let mut world = gangs(2, 0);
    world.edit(|spec| spec.scheduler_name = Some("default-scheduler".to_owned()));
    world.settle();
    assert!(world.pod_groups.is_empty());
    assert_eq!(world.count("delete pod "), 0);
    world.edit(|spec| spec.scheduler_name = Some(String::new()));
    world.settle();
    assert_eq!(world.pod_groups.len(), 2, "an empty name is the default, volcano");
    let plain = World::settled(serving(2).role("prefill", 1, 0));
    assert!(plain.pod_groups.is_empty());
}

#[test]
fn pods_wait_for_a_gang_that_is_being_deleted() {
    let mut world = gangs(1, 0);
    world.edit(|spec| spec.replicas = Some(0));
    world.pass();
    world.kubelet();
    world.pass();
    world.edit(|spec| spec.replicas = Some(1));
    world.pass();
    assert_eq!(world.count("create pod"), 0);
    world.settle();
    assert_eq!((world.count("create pod"), world.pod_groups.len()), (4, 1));
}

#[test]
fn an_update_leaves_no_gang_behind() {
    for surge in [0, 2] {
        let mut world = gangs(3, surge);
        world.edit(|spec| set_image(spec, "prefill", "v2"));
        world.settle();
        assert_eq!(world.pod_groups.keys().collect::<Vec<_>>(), ["llm-0", "llm-1", "llm-2"]);
        let target = world.status().update_revision.unwrap();
        assert!(world.pod_groups.values().all(|group| group.revision == target));
        assert!(world.services.values().all(|service| service.revision == target));
    }
}

#[test]
fn only_roles_with_workers_have_services() {
    let world = World::settled(serving(1).role("prefill", 2, 1).role("decode", 2, 0));
    assert_eq!(world.services.keys().collect::<Vec<_>>(), ["llm-0-prefill-0-0", "llm-0-prefill-1-0"]);
}

#[test]
fn a_service_that_was_deleted_or_altered_is_written_again() {
    let mut world = gangs(1, 0);
    world.services.remove("llm-0-prefill-1-0");
    world.services.get_mut("llm-0-prefill-0-0").unwrap().fingerprint = 7;
    assert_eq!(world.lines(), ["apply service llm-0-prefill-0-0 r1", "apply service llm-0-prefill-1-0 r1"]);
    world.settle();
    world.services.get_mut("llm-0-prefill-0-0").unwrap().terminating = true;
    assert!(world.lines().is_empty(), "first it has to be gone");
    world.settle();
    assert_eq!(world.services.len(), 2);
}

#[test]
fn leftovers_of_a_group_whose_pods_are_all_gone_are_used_again() {
    let mut world = gangs(2, 0);
    world.pods.retain(|name, _| name.starts_with("llm-0-"));
    world.settle();
    assert_eq!(world.names().len(), 8);
    assert_eq!(world.count("delete") + world.count("apply"), 0);
    // Or removed, when they are not wanted.
    world.pods.retain(|name, _| name.starts_with("llm-0-"));
    world.edit(|spec| spec.replicas = Some(1));
    world.settle();
    assert_eq!((world.services.len(), world.pod_groups.len()), (2, 1));
}
