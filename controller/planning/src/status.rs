//! The status: what there is, counted; what is being built; what was recovered.

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::v1alpha1::model_serving::{ModelServingStatus, RecoveryPolicy, Role, RoleStatus, RolloutType};
use jiff::Timestamp;

use crate::draft::{Draft, Pass};
use crate::limits::Limits;
use crate::topology::{Group, Instance, Topology};
use crate::{conditions, names, objects};

/// What there is, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Groups that there shall be.
    pub(crate) wanted: usize,
    /// Groups of which any object exists.
    pub(crate) existing: usize,
    /// Groups with a live pod.
    pub(crate) live: usize,
    pub(crate) updated: usize,
    pub(crate) available: usize,
    /// Groups that are outdated, and not protected.
    pub(crate) to_update: usize,
    /// Ordinals of groups that are not available, the first few.
    pub(crate) unavailable: Vec<u32>,
    /// Groups or instances are to be built, removed or replaced.
    pub(crate) changing: bool,
}

/// Ordinals that a message names at most.
const NAMED: usize = 10;

impl Tally {
    pub(crate) fn of(pass: &Pass<'_>, topology: &Topology<'_>, changing: bool) -> Self {
        let mut tally = Self {
            wanted: pass.limits.replicas as usize,
            existing: topology.groups.len(),
            changing,
            ..Self::default()
        };
        for group in topology.live() {
            tally.live += 1;
            tally.updated += usize::from(group.current);
            tally.to_update += usize::from(is_to_update(pass, group));
            if group.is_ready() {
                tally.available += 1;
            } else if tally.unavailable.len() < NAMED {
                tally.unavailable.push(group.ordinal);
            }
        }
        if pass.lineage.target().roles.iter().all(|role| objects::instances(role) == 0) {
            // Groups of nothing are as they should be, and cannot be seen.
            let unseen = tally.wanted.saturating_sub(tally.live);
            tally.existing = tally.existing.max(tally.wanted);
            tally.live += unseen;
            tally.updated += unseen;
            tally.available += unseen;
            tally.changing = false;
        }
        tally
    }

    /// As many groups as there shall be are available.
    pub(crate) fn is_available(&self) -> bool {
        self.available >= self.wanted
    }

    /// There are exactly the groups that there shall be, all available, and nothing is to be done about them.
    pub(crate) fn is_settled(&self) -> bool {
        !self.changing && self.is_available() && self.live == self.wanted && self.existing == self.wanted
    }
}

fn is_to_update(pass: &Pass<'_>, group: &Group<'_>) -> bool {
    if group.current {
        return false;
    }
    match pass.view.rollout {
        RolloutType::ServingGroupRollingUpdate => group.ordinal >= pass.limits.partition,
        RolloutType::RoleRollingUpdate => {
            group.instances.iter().filter(|instance| instance.is_live()).any(|instance| {
                let role = pass.lineage.target().role(instance.role);
                let partition = role.map(|role| Limits::of_instances(pass.serving, role).partition);
                !instance.current && partition.is_none_or(|partition| instance.index >= partition)
            })
        }
    }
}

/// The whole status as it is to be.
pub(crate) fn status(pass: &Pass<'_>, topology: &Topology<'_>, tally: &Tally, draft: &mut Draft) -> ModelServingStatus {
    let update_revision = pass.lineage.target().revision.clone();
    let current_revision = current_revision(pass, topology, tally);
    let outdated = tally.live.saturating_sub(tally.updated);
    let complete = current_revision == update_revision && tally.is_settled();
    ModelServingStatus {
        observed_generation: generation(pass),
        replicas: number(tally.existing),
        current_replicas: number(if complete { tally.updated } else { outdated }),
        updated_replicas: number(tally.updated),
        available_replicas: number(tally.available),
        current_revision: Some(current_revision),
        update_revision: Some(update_revision),
        label_selector: Some(label_selector(pass, draft)),
        conditions: conditions::conditions(pass, tally, draft),
        roles: pass.lineage.target().roles.iter().map(|role| role_status(role, topology)).collect(),
        forming: std::mem::take(&mut draft.begun).entries(),
        recoveries: recoveries(pass, topology, draft),
    }
}

/// The generation that this pass answers.
pub(crate) fn generation(pass: &Pass<'_>) -> i64 {
    pass.serving.metadata.generation.unwrap_or(0)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The revision that groups come from: what it was while a group is still there that is of it; the most frequent among
/// the outdated otherwise; the one to go to once all are there and of it.
fn current_revision(pass: &Pass<'_>, topology: &Topology<'_>, tally: &Tally) -> String {
    let target = &pass.lineage.target().revision;
    let before = pass.status.current_revision.as_deref();
    let mut outdated: BTreeMap<&str, usize> = BTreeMap::new();
    for group in topology.live().filter(|group| !group.current) {
        *outdated.entry(outdated_revision(group).unwrap_or(target)).or_default() += 1;
    }
    let known = before.filter(|before| pass.lineage.find(before).is_some());
    let revision = match known {
        Some(before) if outdated.contains_key(before) => Some(before),
        Some(before) if outdated.is_empty() && !tally.is_settled() => Some(before),
        _ => outdated.iter().max_by_key(|(name, count)| (**count, std::cmp::Reverse(**name))).map(|(name, _)| *name),
    };
    revision.unwrap_or(target).to_owned()
}

fn outdated_revision<'a>(group: &Group<'a>) -> Option<&'a str> {
    let instance = group.instances.iter().find(|instance| instance.is_live() && !instance.current);
    let pod = instance.and_then(Instance::oldest).map(|pod| pod.revision.as_str());
    pod.or_else(|| group.blueprint.map(|blueprint| blueprint.revision.as_str()))
}

fn role_status(role: &Role, topology: &Topology<'_>) -> RoleStatus {
    let instances = || topology.live().flat_map(|group| group.live_of(&role.name));
    RoleStatus {
        name: role.name.clone(),
        replicas: number(instances().count()),
        ready_replicas: number(instances().filter(|instance| instance.is_ready()).count()),
        updated_replicas: number(instances().filter(|instance| instance.current).count()),
    }
}

/// Selects one pod of each group: the entry pods of the first role that has any instance; if it has several, those of
/// the lowest index that the most groups have. That is index 0, unless scaling down by deletion cost kept others.
/// Instances that are being built again count, so that the selector stays the same meanwhile.
fn label_selector(pass: &Pass<'_>, draft: &Draft) -> String {
    let mut selector = format!("{}=true,{}={}", labels::ENTRY, labels::NAME, pass.name);
    let roles = &pass.lineage.target().roles;
    let Some(role) = roles.iter().find(|role| objects::instances(role) > 0).or_else(|| roles.first()) else {
        return selector;
    };
    selector.push_str(&format!(",{}={}", labels::ROLE, role.name));
    if objects::instances(role) != 1 {
        let mut groups: BTreeMap<u32, usize> = BTreeMap::new();
        for (_, assigned) in &draft.assigned {
            for (_, index) in assigned.iter().filter(|(name, _)| *name == role.name) {
                *groups.entry(*index).or_default() += 1;
            }
        }
        let index = groups.iter().max_by_key(|(index, count)| (**count, std::cmp::Reverse(**index)));
        let index = index.map_or(0, |(index, _)| *index);
        selector.push_str(&format!(",{}={}", labels::ROLE_ID, names::role_id(&role.name, index)));
    }
    selector
}

/// Recoveries of parts that are still wanted.
fn recoveries(
    pass: &Pass<'_>,
    topology: &Topology<'_>,
    draft: &mut Draft,
) -> Vec<controller_api::v1alpha1::model_serving::Recovery> {
    let groups: BTreeMap<&str, &Group<'_>> = topology.groups.values().map(|group| (group.name, group)).collect();
    let assigned = &draft.assigned;
    let by_group = pass.policy == RecoveryPolicy::ServingGroupRecreate;
    let ready_since = |part: &str| -> Option<Option<Timestamp>> {
        let (name, role_id) = part.split_once('/').map_or((part, None), |(name, role_id)| (name, Some(role_id)));
        let (_, instances) = assigned.iter().find(|(group, _)| group == name)?;
        let group = groups.get(name);
        let Some(role_id) = role_id.filter(|_| !by_group) else {
            if !by_group || role_id.is_some() {
                return None;
            }
            let ready = group.filter(|group| group.is_ready());
            return Some(ready.and_then(|group| group.instances.iter().filter_map(Instance::ready_since).max()));
        };
        if !instances.iter().any(|(role, index)| names::role_id(role, *index) == role_id) {
            return None;
        }
        let instance = group.and_then(|group| group.instances.iter().find(|instance| instance.id == role_id));
        Some(instance.and_then(Instance::ready_since))
    };
    draft.recoveries.entries(ready_since)
}
