//! A gang: the group's pods are bound together or not at all.
//!
//! Every field that can be stated is stated, also where it is Volcano's default: what another hand writes into it is
//! then repaired by one apply.

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::pod_group::{PodGroup, PodGroupSpec, SubGroupPolicy};
use controller_api::v1alpha1::model_serving::{GangPolicy, GroupNetworkTopology, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::requests::{self, Amounts};
use super::{Build, instance_size, instances, metadata, workers_wait};
use crate::observed::GangSupport;

/// The queue of a gang that names none.
pub(super) const DEFAULT_QUEUE: &str = "default";

pub(super) fn build(build: &Build<'_>, group: &str, roles: &[Role], gangs: GangSupport) -> PodGroup {
    let template = &build.serving.spec.template;
    let gang_policy = template.gang_policy.as_ref();
    let topology = template.network_topology.as_ref();

    // Entry pods that workers wait for must be bound without them; room for all is still asked for.
    let gang_size = |role: &Role| if workers_wait(build.serving) { 1 } else { instance_size(role) };

    let mut members: u32 = 0;
    let mut resources = Amounts::new();
    for role in roles {
        let least = least_instances(gang_policy, role);
        let size = instance_size(role);
        members = members.saturating_add(least.saturating_mul(gang_size(role)));
        if let Some(entry) = &role.entry_template.spec {
            requests::add(&mut resources, &requests::of_pod(entry), least);
        }
        if let Some(worker) = role.worker_template.as_ref().and_then(|template| template.spec.as_ref()) {
            requests::add(&mut resources, &requests::of_pod(worker), least.saturating_mul(size.saturating_sub(1)));
        }
    }
    let serving_name = build.serving.metadata.name.clone().unwrap_or_default();
    let sub_groups = || {
        let policies = roles.iter().map(|role| SubGroupPolicy {
            name: role.name.clone(),
            label_selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from([
                    (labels::NAME.to_owned(), serving_name.clone()),
                    (labels::ROLE.to_owned(), role.name.clone()),
                ])),
                match_expressions: None,
            }),
            match_label_keys: Some(vec![labels::ROLE_ID.to_owned()]),
            sub_group_size: Some(signed(gang_size(role))),
            min_sub_groups: Some(signed(least_instances(gang_policy, role))),
            network_topology: topology.and_then(|topology| topology.role_policy.clone()),
        });
        policies.collect()
    };
    let queue = build.serving.metadata.annotations.as_ref().and_then(|all| all.get(labels::QUEUE_NAME));
    let priority_class = roles.iter().find_map(|role| role.entry_template.spec.as_ref()?.priority_class_name.clone());

    let mut metadata = metadata(build, group, group.to_owned());
    let mut annotations = BTreeMap::from([(labels::GANG_GROUP_NAME.to_owned(), group.to_owned())]);
    annotations.extend(topology.and_then(tier_names).map(|names| (labels::TIER_NAMES.to_owned(), names)));
    metadata.annotations = Some(annotations);
    PodGroup {
        metadata,
        spec: PodGroupSpec {
            min_member: Some(signed(members)),
            min_resources: Some(requests::quantities(resources)),
            queue: Some(queue.filter(|queue| !queue.is_empty()).map_or(DEFAULT_QUEUE, String::as_str).to_owned()),
            priority_class_name: Some(priority_class.unwrap_or_default()),
            network_topology: topology.and_then(|topology| topology.group_policy.clone()),
            sub_group_policy: (gangs == GangSupport::SubGroups).then(sub_groups),
        },
    }
}

/// The tiers that are named, if any. When Volcano's scheduler (1.14) has looked a name up, it writes the tier's number
/// in its place; from then on only this says what was asked for.
fn tier_names(topology: &GroupNetworkTopology) -> Option<String> {
    let policies = [("group", &topology.group_policy), ("role", &topology.role_policy)];
    let named = policies.iter().filter_map(|(of, policy)| {
        let name = policy.as_ref()?.highest_tier_name.as_deref().filter(|name| !name.is_empty())?;
        Some(format!("{of}={name}"))
    });
    let named: Vec<String> = named.collect();
    (!named.is_empty()).then(|| named.join(","))
}

/// How many instances of `role` must be schedulable with the group: all, unless the gang policy asks for fewer.
fn least_instances(policy: Option<&GangPolicy>, role: &Role) -> u32 {
    let all = instances(role);
    let asked = policy.and_then(|policy| policy.min_role_replicas.as_ref()?.get(&role.name));
    asked.map_or(all, |asked| all.min(u32::try_from(*asked).unwrap_or(0)))
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
