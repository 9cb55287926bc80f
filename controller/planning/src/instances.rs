//! Inside a group: role instances are built, removed, replaced and repaired, by the recovery policy.
//!
//! The same function builds a new group, of which every instance is missing.

use std::collections::BTreeSet;

use controller_api::v1alpha1::model_serving::{RecoveryPolicy, Role, RolloutType};

use crate::change::{Change, Part, change};
use crate::draft::{Draft, Pass};
use crate::limits::Limits;
use crate::lineage::Blueprint;
use crate::recovery::Fault;
use crate::topology::{Group, Instance};
use crate::{names, objects, services};

/// Plans the group `name`, which may not exist yet.
pub(crate) fn tend(pass: &Pass<'_>, name: &str, group: Option<&Group<'_>>, blueprint: &Blueprint, draft: &mut Draft) {
    let changes: Vec<(&Role, Change)> =
        blueprint.roles.iter().map(|role| (role, changes(pass, name, group, role))).collect();
    draft.changing |= changes.iter().any(|(_, change)| *change != Change::default());
    let unit = Unit::of(pass, name, group, blueprint, &changes);
    if let (Some(group), Unit::Group { .. }) = (group, &unit)
        && recover_group(pass, group, &changes, &unit, draft)
    {
        draft.assigned.push((name.to_owned(), BTreeSet::new()));
        return;
    }
    let mut assigned = BTreeSet::new();
    for (role, change) in &changes {
        for instance in group.into_iter().flat_map(|group| group.live_of(&role.name)) {
            if change.remove.contains(&instance.index) {
                delete(name, instance, draft);
                continue;
            }
            assigned.insert((role.name.clone(), instance.index));
            if change.replace.contains(&instance.index) {
                services::keep(name, instance.id, draft);
                delete(name, instance, draft);
            } else {
                repair(pass, name, group, instance, (blueprint, role), &unit, draft);
            }
        }
        for index in &change.build {
            assigned.insert((role.name.clone(), *index));
            build(pass, name, group, (blueprint, role), *index, &unit, draft);
        }
    }
    remove_strangers(pass, group, blueprint, draft);
    if let Unit::Group { forms: true, .. } = unit {
        draft.begun.group(name);
    }
    draft.assigned.push((name.to_owned(), assigned));
}

/// A pod of a group that cannot be repaired is beyond hope.
pub(crate) fn has_failed(pass: &Pass<'_>, group: &Group<'_>, draft: &mut Draft) -> bool {
    let pods = group.instances.iter().flat_map(Instance::live);
    matches!(draft.recoveries.fault(pods, pass.policy == RecoveryPolicy::None), Fault::Due(_))
}

fn changes(pass: &Pass<'_>, name: &str, group: Option<&Group<'_>>, role: &Role) -> Change {
    let by_role = pass.view.rollout == RolloutType::RoleRollingUpdate;
    let parts: Vec<Part> = group
        .into_iter()
        .flat_map(|group| group.live_of(&role.name))
        .map(|instance| Part {
            number: instance.index,
            outdated: by_role && !instance.current,
            torn: !instance.is_complete() && !pass.forming.has(name, instance.id),
            ready: instance.is_ready(),
            cost: instance.cost(),
        })
        .collect();
    change(&parts, &Limits::of_instances(pass.serving, role), pass.rollout)
}

/// What is built as a whole.
#[derive(Debug)]
enum Unit {
    /// The group.
    Group {
        /// It is being built from now on, or still.
        forms: bool,
        /// It was being built before: what is missing has yet to be created.
        formed: bool,
    },
    /// Each role instance; so many of the group have several pods.
    Instance { of: usize },
    /// Each pod.
    Pod,
}

impl Unit {
    fn of(
        pass: &Pass<'_>,
        name: &str,
        group: Option<&Group<'_>>,
        blueprint: &Blueprint,
        changes: &[(&Role, Change)],
    ) -> Self {
        match pass.policy {
            RecoveryPolicy::ServingGroupRecreate => {
                let live = group.filter(|group| group.is_live());
                let pods: u64 = (blueprint.roles.iter())
                    .map(|role| u64::from(objects::instances(role)) * u64::from(objects::instance_size(role)))
                    .sum();
                let formed = pass.forming.has_part_of(name);
                let changing = changes.iter().any(|(_, change)| !change.build.is_empty() || !change.replace.is_empty());
                let incomplete = formed && live.is_none_or(|group| !group.is_complete());
                Self::Group { forms: pods > 1 && (changing || incomplete), formed }
            }
            RecoveryPolicy::RoleRecreate => {
                let several = |role: &&Role| objects::instance_size(role) > 1;
                let of = blueprint.roles.iter().filter(several).map(|role| objects::instances(role) as usize).sum();
                Self::Instance { of }
            }
            RecoveryPolicy::None => Self::Pod,
        }
    }
}

/// `ServingGroupRecreate`: tears the group down if a pod failed or was lost.
fn recover_group(
    pass: &Pass<'_>,
    group: &Group<'_>,
    changes: &[(&Role, Change)],
    unit: &Unit,
    draft: &mut Draft,
) -> bool {
    if !group.is_live() {
        return false;
    }
    let stays = |instance: &&Instance<'_>| {
        let change = changes.iter().find(|(role, _)| role.name == instance.role).map(|(_, change)| change);
        change
            .is_some_and(|change| !change.remove.contains(&instance.index) && !change.replace.contains(&instance.index))
    };
    let staying = || group.instances.iter().filter(|instance| instance.is_live()).filter(stays);
    let mut reason = match draft.recoveries.fault(staying().flat_map(Instance::live), false) {
        Fault::Due(reason) => Some(reason),
        Fault::At(_) | Fault::None => None,
    };
    if reason.is_none() && matches!(unit, Unit::Group { formed: false, .. }) {
        let torn = staying().find(|instance| !instance.is_complete()).map(|instance| lost(group.name, instance));
        // Whole instances may be missing because the spec has just asked for more of them.
        let absent = changes.iter().filter(|_| pass.settled).find_map(|(role, change)| {
            let role_id = names::role_id(&role.name, *change.build.first()?);
            Some(format!("pod {} was lost", names::pod(group.name, &role_id, 0)))
        });
        reason = torn.or(absent);
    }
    let Some(reason) = reason else { return false };
    let pods = group.instances.iter().flat_map(|instance| instance.pods.iter().copied());
    draft.recoveries.record(group.name, pods, &reason);
    services::keep_all(group, draft);
    for instance in group.instances.iter().filter(|instance| instance.is_live()) {
        delete(group.name, instance, draft);
    }
    true
}

/// Which pod of a torn instance is missing.
fn lost(group: &str, instance: &Instance<'_>) -> String {
    let missing = (0..instance.size()).find(|number| instance.pod(*number).is_none_or(|pod| pod.terminating));
    format!("pod {} was lost", names::pod(group, instance.id, missing.unwrap_or(0)))
}

fn delete(group: &str, instance: &Instance<'_>, draft: &mut Draft) {
    draft.story.instances_deleted.push((group.to_owned(), instance.id.to_owned()));
    draft.delete(instance.live());
}

/// Looks after an instance that stays.
fn repair(
    pass: &Pass<'_>,
    name: &str,
    group: Option<&Group<'_>>,
    instance: &Instance<'_>,
    fresh: (&Blueprint, &Role),
    unit: &Unit,
    draft: &mut Draft,
) {
    let built_from = instance.blueprint.unwrap_or(fresh);
    let part = names::instance(name, instance.id);
    services::tend(pass, name, group, built_from, instance.index, draft);
    let size = instance.size();
    let excess = |pod: &&_| names::trailing_number(pod_name(pod)).is_none_or(|number| number >= size);
    draft.delete(instance.live().filter(excess));

    let mut left = Vec::new();
    match unit {
        Unit::Instance { of } => {
            let forming = pass.forming.has(name, instance.id) && instance.blueprint.is_some();
            let going = instance.pods.iter().any(|pod| pod.terminating && !excess(pod));
            let reason = match draft.recoveries.fault(instance.live(), false) {
                Fault::Due(reason) => Some(reason),
                Fault::At(_) | Fault::None => {
                    let torn = !instance.is_complete() && (!forming || going);
                    torn.then(|| lost(name, instance))
                }
            };
            if let Some(reason) = reason {
                draft.recoveries.record(&part, instance.pods.iter().copied(), &reason);
                delete(name, instance, draft);
                return;
            }
            if !instance.is_complete() {
                draft.begun.instance(name, instance.id, *of);
            }
        }
        Unit::Group { .. } => {}
        Unit::Pod => {
            for pod in instance.live() {
                if let Fault::Due(reason) = draft.recoveries.fault(std::iter::once(pod), true) {
                    draft.recoveries.record(&part, std::iter::once(pod), &reason);
                    draft.delete(std::iter::once(pod));
                    left.push(&pod.name);
                }
            }
        }
    }
    if instance.is_complete() || !left.is_empty() || (matches!(unit, Unit::Pod) && !draft.recoveries.may_build(&part)) {
        return;
    }
    draft.awaited.extend(instance.pods.iter().filter(|pod| pod.terminating).map(|pod| pod.name.clone()));
    let missing = (0..size).filter(|number| instance.pod(*number).is_none());
    if instance.blueprint.is_some() {
        draft.create(pass, name, built_from, instance.index, missing);
    }
}

fn pod_name<'p>(pod: &'p &crate::observed::PodFacts) -> &'p str {
    &pod.name
}

/// Builds an instance, if nothing of it is left and its recovery need not wait.
fn build(
    pass: &Pass<'_>,
    name: &str,
    group: Option<&Group<'_>>,
    fresh: (&Blueprint, &Role),
    index: u32,
    unit: &Unit,
    draft: &mut Draft,
) {
    let (blueprint, role) = protected(pass, fresh, index);
    let role_id = names::role_id(&role.name, index);
    if let Some(before) = group.and_then(|group| group.instance(&role.name, index)) {
        draft.awaited.extend(before.pods.iter().map(|pod| pod.name.clone()));
        services::keep(name, &role_id, draft);
        return;
    }
    if !matches!(unit, Unit::Group { .. }) && !draft.recoveries.may_build(&names::instance(name, &role_id)) {
        services::keep(name, &role_id, draft);
        return;
    }
    let size = objects::instance_size(role);
    services::tend(pass, name, group, (blueprint, role), index, draft);
    if !draft.create(pass, name, (blueprint, role), index, 0..size) {
        return;
    }
    if let Unit::Instance { of } = unit
        && size > 1
    {
        draft.begun.instance(name, &role_id, *of);
    }
    draft.story.instances_built.push((name.to_owned(), role_id));
}

/// With `RoleRollingUpdate`, instances below the role's partition keep the revision that the others leave.
fn protected<'b>(pass: &Pass<'b>, fresh: (&'b Blueprint, &'b Role), index: u32) -> (&'b Blueprint, &'b Role) {
    if pass.view.rollout == RolloutType::RoleRollingUpdate
        && index < Limits::of_instances(pass.serving, fresh.1).partition
    {
        let held = pass.lineage.held();
        if let Some(role) = held.role(&fresh.1.name) {
            return (held, role);
        }
    }
    fresh
}

/// Removes instances of roles that the group's revision does not have.
fn remove_strangers(pass: &Pass<'_>, group: Option<&Group<'_>>, blueprint: &Blueprint, draft: &mut Draft) {
    let held = pass.rollout.paused && pass.view.rollout == RolloutType::RoleRollingUpdate;
    let Some(group) = group.filter(|_| !held) else { return };
    for instance in group.instances.iter().filter(|instance| instance.is_live()) {
        if blueprint.role(instance.role).is_none() {
            delete(group.name, instance, draft);
        }
    }
}
