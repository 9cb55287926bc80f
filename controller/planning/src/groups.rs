//! The groups as wholes: which are built, removed and replaced. What happens inside those that stay is
//! [`crate::instances`].

use std::collections::BTreeSet;

use controller_api::v1alpha1::model_serving::RolloutType;

use crate::change::{Change, Part, change};
use crate::draft::{Draft, Pass};
use crate::lineage::Blueprint;
use crate::topology::{Group, Topology};
use crate::{gangs, instances, names, services};

/// Plans all groups of `topology`.
pub(crate) fn tend(pass: &Pass<'_>, topology: &Topology<'_>, draft: &mut Draft) {
    let change = changes(pass, topology);
    draft.changing |= change != Change::default();
    for group in topology.live() {
        if change.remove.contains(&group.ordinal) {
            draft.story.groups_removed.push(group.name.to_owned());
            tear_down(group, draft);
        } else if change.replace.contains(&group.ordinal) {
            draft.story.groups_replaced.push(group.name.to_owned());
            draft.assigned.push((group.name.to_owned(), BTreeSet::new()));
            tear_down(group, draft);
        } else if let Some(blueprint) = group.blueprint {
            gangs::tend(pass, group.name, Some(group), blueprint, draft);
            instances::tend(pass, group.name, Some(group), blueprint, draft);
        } else if group.is_torn(&pass.forming) || instances::has_failed(pass, group, draft) {
            // It cannot be repaired, for nobody knows what it was built from.
            draft.story.groups_replaced.push(group.name.to_owned());
            tear_down(group, draft);
        }
    }
    for ordinal in &change.build {
        build(pass, topology, *ordinal, draft);
    }
    let wanted: BTreeSet<u32> = change.build.into_iter().collect();
    for group in topology.groups.values() {
        let gone = !group.has_pods() && !wanted.contains(&group.ordinal);
        services::sweep(group, gone, draft);
        gangs::sweep(pass, group, gone, draft);
    }
}

fn changes(pass: &Pass<'_>, topology: &Topology<'_>) -> Change {
    let by_group = pass.view.rollout == RolloutType::ServingGroupRollingUpdate;
    let parts: Vec<Part> = topology
        .live()
        .map(|group| Part {
            number: group.ordinal,
            outdated: by_group && !group.current,
            torn: group.is_torn(&pass.forming),
            ready: group.is_ready(),
            cost: group.cost(),
        })
        .collect();
    change(&parts, &pass.limits, pass.rollout)
}

/// Deletes the pods. Services stay until the pods are gone, which may need to find each other while they end; what is
/// left then is swept away, or used again by the group's successor.
fn tear_down(group: &Group<'_>, draft: &mut Draft) {
    services::keep_all(group, draft);
    for instance in &group.instances {
        if instance.is_live() {
            draft.story.instances_deleted.push((group.name.to_owned(), instance.id.to_owned()));
        }
        draft.delete(instance.live());
    }
}

/// Builds the group of this ordinal, if nothing alive is in its way.
fn build(pass: &Pass<'_>, topology: &Topology<'_>, ordinal: u32, draft: &mut Draft) {
    let before = topology.groups.get(&ordinal);
    let blueprint = blueprint(pass, ordinal, before);
    let name = names::group(pass.name, ordinal);
    if let Some(group) = before {
        let awaited = group.instances.iter().flat_map(|instance| &instance.pods).map(|pod| pod.name.clone());
        draft.awaited.extend(awaited);
        if group.has_pods() {
            services::keep_all(group, draft);
            draft.assigned.push((name, BTreeSet::new()));
            return;
        }
    }
    if !draft.recoveries.may_build(&name) {
        if let Some(group) = before {
            services::keep_all(group, draft);
        }
        draft.assigned.push((name, BTreeSet::new()));
        return;
    }
    if gangs::tend(pass, &name, before, blueprint, draft) {
        draft.story.groups_built.push(name.clone());
        instances::tend(pass, &name, before, blueprint, draft);
    } else if let Some(group) = before {
        services::keep_all(group, draft);
    }
}

/// What a group that is built anew is built from: the revision to go to, unless the partition or a pause keeps the old
/// one. What is left of the group says best which that is.
fn blueprint<'b>(pass: &Pass<'b>, ordinal: u32, before: Option<&Group<'_>>) -> &'b Blueprint {
    let lineage = pass.lineage;
    let by_group = pass.view.rollout == RolloutType::ServingGroupRollingUpdate;
    let protected = by_group && ordinal < pass.limits.partition;
    if !protected && !pass.rollout.paused {
        return lineage.target();
    }
    let left = before.filter(|_| by_group).into_iter().flat_map(|group| {
        let gang = group.pod_group.iter().map(|gang| gang.revision.as_str());
        gang.chain(group.services.iter().map(|service| service.revision.as_str()))
    });
    left.filter_map(|revision| lineage.find(revision)).next().unwrap_or_else(|| lineage.held())
}
