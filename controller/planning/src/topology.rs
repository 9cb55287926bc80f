//! Facts, put in order: groups, their role instances, and the pods of each.

use std::collections::{BTreeMap, BTreeSet};

use controller_api::v1alpha1::model_serving::{Role, RolloutType};

use crate::forming::Forming;
use crate::lineage::{Blueprint, Lineage};
use crate::observed::{Observed, PodFacts, PodGroupFacts, PodHealth, ServiceFacts};
use crate::{names, objects};

/// Everything of one ModelServing that has an ordinal.
#[derive(Debug, Default)]
pub(crate) struct Topology<'a> {
    /// By ordinal; a group is here while any of its objects exists.
    pub(crate) groups: BTreeMap<u32, Group<'a>>,
}

/// A serving group.
#[derive(Debug, Default)]
pub(crate) struct Group<'a> {
    pub(crate) ordinal: u32,
    pub(crate) name: &'a str,
    pub(crate) instances: Vec<Instance<'a>>,
    pub(crate) services: Vec<&'a ServiceFacts>,
    pub(crate) pod_group: Option<&'a PodGroupFacts>,
    /// What it is built from; none if that is not known, or if nothing is left of it that says so.
    pub(crate) blueprint: Option<&'a Blueprint>,
    /// It is at the revision to go to.
    pub(crate) current: bool,
}

/// A role instance: one entry pod and its workers, as far as they exist.
#[derive(Debug)]
pub(crate) struct Instance<'a> {
    pub(crate) role: &'a str,
    pub(crate) index: u32,
    pub(crate) id: &'a str,
    /// Terminating ones included.
    pub(crate) pods: Vec<&'a PodFacts>,
    /// What it is built from, and the role there; none if that is not known, or has no such role.
    pub(crate) blueprint: Option<(&'a Blueprint, &'a Role)>,
    /// Its pods are as those of the revision to go to.
    pub(crate) current: bool,
}

/// How groups are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// The name of the ModelServing.
    pub(crate) serving: &'a str,
    /// What is replaced at a time.
    pub(crate) rollout: RolloutType,
    /// The rollout is held.
    pub(crate) paused: bool,
}

impl<'a> Topology<'a> {
    pub(crate) fn new(view: View<'_>, observed: &'a Observed, lineage: &'a Lineage) -> Self {
        let mut topology = Self::default();
        for pod in &observed.pods {
            if let Some(group) = topology.group(view.serving, &pod.group) {
                group.add(pod);
            }
        }
        for service in &observed.services {
            if let Some(group) = topology.group(view.serving, &service.group) {
                group.services.push(service);
            }
        }
        for pod_group in &observed.pod_groups {
            if let Some(group) = topology.group(view.serving, &pod_group.name) {
                group.pod_group = Some(pod_group);
            }
        }
        for group in topology.groups.values_mut() {
            group.judge(view, lineage);
        }
        topology
    }

    /// The group of this name; none for a name that is not of this ModelServing: somebody changed a label, and what
    /// that object is to be is not ours to say.
    fn group(&mut self, serving: &str, name: &'a str) -> Option<&mut Group<'a>> {
        let ordinal = number_after(serving, name)?;
        Some(self.groups.entry(ordinal).or_insert_with(|| Group { ordinal, name, ..Group::default() }))
    }

    /// Groups with a live pod, by ordinal.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Group<'a>> {
        self.groups.values().filter(|group| group.is_live())
    }
}

impl<'a> Group<'a> {
    fn add(&mut self, pod: &'a PodFacts) {
        let Some(index) = number_after(&pod.role, &pod.role_id) else { return };
        let same = |instance: &&mut Instance<'a>| instance.index == index && instance.role == pod.role;
        // Pods come by name, so those of one instance come together.
        if let Some(instance) = self.instances.iter_mut().rev().find(same) {
            instance.pods.push(pod);
            return;
        }
        self.instances.push(Instance {
            role: &pod.role,
            index,
            id: &pod.role_id,
            pods: vec![pod],
            blueprint: None,
            current: false,
        });
    }

    fn judge(&mut self, view: View<'_>, lineage: &'a Lineage) {
        for instance in &mut self.instances {
            let Some(pod) = instance.oldest() else { continue };
            instance.current = lineage.is_current(instance.role, &pod.revision, &pod.role_template_hash);
            instance.blueprint =
                lineage.find(&pod.revision).and_then(|blueprint| Some((blueprint, blueprint.role(instance.role)?)));
        }
        self.instances.sort_by(|a, b| (a.role, a.index).cmp(&(b.role, b.index)));
        let live = || self.instances.iter().filter(|instance| instance.is_live());
        let all_current = live().all(|instance| instance.current);
        match view.rollout {
            RolloutType::ServingGroupRollingUpdate => {
                let revisions: BTreeSet<&str> =
                    live().flat_map(|instance| instance.live()).map(|pod| pod.revision.as_str()).collect();
                let own = match revisions.first() {
                    Some(revision) if revisions.len() == 1 => lineage.find(revision),
                    // Its roles were replaced one by one, and all have been.
                    Some(_) if all_current => Some(lineage.target()),
                    Some(_) => {
                        oldest(live().flat_map(|instance| instance.live())).and_then(|pod| lineage.find(&pod.revision))
                    }
                    None => None,
                };
                self.blueprint = own;
                self.current = all_current && own.is_none_or(|own| own.is_target);
            }
            RolloutType::RoleRollingUpdate => {
                let target = lineage.target();
                self.blueprint = Some(if view.paused { lineage.held() } else { target });
                self.current = all_current && live().all(|instance| target.role(instance.role).is_some());
            }
        }
    }

    /// A pod of it is alive.
    pub(crate) fn is_live(&self) -> bool {
        self.instances.iter().any(Instance::is_live)
    }

    /// Pods of it exist, alive or not.
    pub(crate) fn has_pods(&self) -> bool {
        !self.instances.is_empty()
    }

    /// The instance of this role and index, if any of its pods exists.
    pub(crate) fn instance(&self, role: &str, index: u32) -> Option<&Instance<'a>> {
        self.instances.iter().find(|instance| instance.index == index && instance.role == role)
    }

    /// Its live instances of `role`, by index.
    pub(crate) fn live_of(&self, role: &str) -> impl Iterator<Item = &Instance<'a>> {
        self.instances.iter().filter(move |instance| instance.role == role && instance.is_live())
    }

    /// Every role has as many complete instances as it shall have.
    pub(crate) fn is_complete(&self) -> bool {
        self.each_role_has(Instance::is_complete)
    }

    /// Every role has as many ready instances as it shall have.
    pub(crate) fn is_ready(&self) -> bool {
        self.each_role_has(Instance::is_ready)
    }

    fn each_role_has(&self, good: impl Fn(&Instance<'a>) -> bool) -> bool {
        match self.blueprint {
            Some(blueprint) => blueprint.roles.iter().all(|role| {
                self.live_of(&role.name).filter(|instance| good(instance)).count() >= objects::instances(role) as usize
            }),
            // What it shall have is not known: what it has must do.
            None => self.is_live() && self.instances.iter().all(good),
        }
    }

    /// It was complete, and has lost pods: a removal of it began, or it waits for its repair.
    pub(crate) fn is_torn(&self, forming: &Forming<'_>) -> bool {
        !self.is_complete() && !forming.has_part_of(self.name)
    }

    /// What deleting its pods costs.
    pub(crate) fn cost(&self) -> i64 {
        self.instances.iter().map(Instance::cost).fold(0, i64::saturating_add)
    }
}

impl<'a> Instance<'a> {
    /// Its pods that are not terminating.
    pub(crate) fn live(&self) -> impl Iterator<Item = &'a PodFacts> {
        self.pods.iter().copied().filter(|pod| !pod.terminating)
    }

    /// A pod of it is alive.
    pub(crate) fn is_live(&self) -> bool {
        self.live().next().is_some()
    }

    /// How many pods it shall have; as many as it has if that is not known.
    pub(crate) fn size(&self) -> u32 {
        match self.blueprint {
            Some((_, role)) => objects::instance_size(role),
            None => self.pods.iter().filter_map(|pod| names::trailing_number(&pod.name)).max().map_or(0, |top| top + 1),
        }
    }

    /// All its pods are alive.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_all(|_| true)
    }

    /// All its pods are alive and ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_all(|pod| pod.health == PodHealth::Ready)
    }

    fn has_all(&self, good: impl Fn(&PodFacts) -> bool) -> bool {
        let size = self.size();
        let wanted = |pod: &&PodFacts| names::trailing_number(&pod.name).is_some_and(|number| number < size);
        self.live().filter(wanted).filter(|pod| good(pod)).count() == size as usize
    }

    /// The pod of this number, alive or not.
    pub(crate) fn pod(&self, number: u32) -> Option<&'a PodFacts> {
        self.pods.iter().copied().find(|pod| names::trailing_number(&pod.name) == Some(number))
    }

    /// Its oldest pod, a live one before all that are not.
    pub(crate) fn oldest(&self) -> Option<&'a PodFacts> {
        oldest(self.pods.iter().copied())
    }

    /// Since when all its pods are ready, if they are.
    pub(crate) fn ready_since(&self) -> Option<jiff::Timestamp> {
        self.is_ready().then(|| self.live().filter_map(|pod| pod.ready_since).max()).flatten()
    }

    /// What deleting its pods costs.
    pub(crate) fn cost(&self) -> i64 {
        self.live().map(|pod| pod.deletion_cost).fold(0, i64::saturating_add)
    }
}

/// The oldest of `pods`, a live one before all that are not.
pub(crate) fn oldest<'a>(pods: impl Iterator<Item = &'a PodFacts>) -> Option<&'a PodFacts> {
    pods.min_by(|a, b| (a.terminating, a.created, &a.name).cmp(&(b.terminating, b.created, &b.name)))
}

/// 3 for `llm-3` after `llm`; none for anything that is not written so.
fn number_after(prefix: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}
