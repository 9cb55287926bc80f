//! Any spec, any sequence of events, a crash anywhere: it comes to rest, as the spec asks, within the limits.

use controller_api::labels;
use controller_api::v1alpha1::model_serving::{ModelServing, RecoveryPolicy};
use proptest::prelude::*;

use super::fixtures::{Adjectives as _, serving, set_image, set_partition, set_role};
use super::world::World;
use crate::conditions::holds;
use crate::observed::GangSupport;

#[derive(Clone, Debug)]
enum Event {
    Groups(i32),
    Instances(i32),
    Image(&'static str),
    Partition(i32),
    Pause(bool),
    Delete(usize),
    Lose(usize),
    Fail(usize),
    Evict(usize),
    Cost(usize, i64),
    LoseService(usize),
    Passes(usize),
    Crash(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..4).prop_map(Event::Groups),
        (0..4).prop_map(Event::Instances),
        prop_oneof![Just("v1"), Just("v2"), Just("v3"), Just("bad")].prop_map(Event::Image),
        (0..4).prop_map(Event::Partition),
        any::<bool>().prop_map(Event::Pause),
        any::<usize>().prop_map(Event::Delete),
        any::<usize>().prop_map(Event::Lose),
        any::<usize>().prop_map(Event::Fail),
        any::<usize>().prop_map(Event::Evict),
        (any::<usize>(), -2..3_i64).prop_map(|(pod, cost)| Event::Cost(pod, cost)),
        any::<usize>().prop_map(Event::LoseService),
        (1..5_usize).prop_map(Event::Passes),
        (0..12_usize).prop_map(Event::Crash),
    ];
    prop::collection::vec(event, 1..12)
}

fn specs() -> impl Strategy<Value = ModelServing> {
    let policy = prop_oneof![
        Just(RecoveryPolicy::RoleRecreate),
        Just(RecoveryPolicy::ServingGroupRecreate),
        Just(RecoveryPolicy::None)
    ];
    (0..4, 1..3, 0..3, policy, any::<bool>(), 0..3, 0..3, 0..3).prop_map(
        |(groups, instances, workers, policy, by_role, unavailable, surge, partition)| {
            let serving = serving(groups).role("prefill", instances, workers).role("decode", 1, 0).recovery(policy);
            if by_role { serving.by_role() } else { serving.update(unavailable, surge, partition) }
        },
    )
}

fn happen(world: &mut World, event: &Event) {
    let name = |world: &World, at: usize| {
        let names = world.names();
        (!names.is_empty()).then(|| names[at % names.len()].to_owned())
    };
    match *event {
        Event::Groups(replicas) => world.edit(|spec| spec.replicas = Some(replicas)),
        Event::Instances(replicas) => world.edit(|spec| set_role(spec, "prefill", replicas)),
        Event::Image(image) => world.edit(|spec| set_image(spec, "prefill", image)),
        Event::Partition(partition) => {
            let by_role = world.serving.spec.rollout_strategy.as_ref().is_some_and(|strategy| {
                strategy.kind == controller_api::v1alpha1::model_serving::RolloutType::RoleRollingUpdate
            });
            if !by_role {
                world.edit(|spec| set_partition(spec, partition));
            }
        }
        Event::Pause(paused) => world.annotate(labels::PAUSED, paused.then_some("true")),
        Event::Delete(at) => name(world, at).into_iter().for_each(|name| world.delete_pod(&name)),
        Event::Lose(at) => name(world, at).into_iter().for_each(|name| world.lose_pod(&name)),
        Event::Fail(at) => name(world, at).into_iter().for_each(|name| world.fail_pod(&name)),
        Event::Evict(at) => name(world, at).into_iter().for_each(|name| world.evict_pod(&name)),
        Event::Cost(at, cost) => {
            name(world, at).into_iter().for_each(|name| world.pod(&name).facts.deletion_cost = cost);
        }
        Event::LoseService(at) => {
            let key = world.services.keys().nth(at % world.services.len().max(1)).cloned();
            key.into_iter().for_each(|key| drop(world.services.remove(&key)));
        }
        Event::Passes(passes) => {
            for _ in 0..passes {
                world.pass();
                world.kubelet();
            }
        }
        Event::Crash(writes) => {
            world.lives = Some(writes);
            world.pass();
            world.lives = None;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_comes_to_rest_as_the_spec_asks(spec in specs(), gangs in any::<bool>(), events in events()) {
        let mut world = World::new(spec);
        world.gangs = if gangs { GangSupport::Groups } else { GangSupport::Absent };
        for event in &events {
            happen(&mut world, event);
        }
        // A good image in the end, nothing held, nothing failing that is left to a kubelet: all is to be well.
        world.annotate(labels::PAUSED, None);
        world.edit(|spec| {
            set_image(spec, "prefill", "v9");
            if spec.rollout_strategy.as_ref().is_some_and(|strategy| strategy.rolling_update_configuration.is_some()) {
                set_partition(spec, 0);
            }
        });
        for pod in world.pods.values_mut() {
            if let crate::observed::PodHealth::Failed { ended: false, .. } = pod.facts.health {
                pod.facts.health = crate::observed::PodHealth::NotReady;
            }
        }
        world.settle();
        prop_assert!(world.lines().is_empty());
        let status = world.status();
        let spec = &world.serving.spec;
        let wanted = spec.replicas.unwrap();
        let groups: std::collections::BTreeSet<&str> = world.pods.values().map(|pod| pod.facts.group.as_str()).collect();
        prop_assert_eq!(groups.len(), wanted as usize);
        prop_assert_eq!(world.pods.len() as i32, wanted * spec.template.roles.iter().map(|role| role.replicas.unwrap() * (1 + role.worker_replicas)).sum::<i32>());
        let services: i32 = spec.template.roles.iter().filter(|role| role.worker_template.is_some()).map(|role| role.replicas.unwrap()).sum();
        prop_assert_eq!(world.services.len() as i32, wanted * services);
        prop_assert_eq!(world.pod_groups.len(), if gangs { wanted as usize } else { 0 });
        prop_assert_eq!((status.replicas, status.available_replicas), (wanted, wanted));
        prop_assert!(status.forming.is_empty() && status.recoveries.is_empty());
        prop_assert!(holds(&status, "Ready"), "{:?}", status.conditions);
        // The template's image everywhere; decode, which did not change, may be older.
        for pod in world.pods.values() {
            let image = if pod.facts.role == "prefill" { "v9" } else { "v1" };
            prop_assert_eq!(&pod.image, image);
        }
    }
}
