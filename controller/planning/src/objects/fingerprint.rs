//! What a plan sets on an object, as one number: equal as long as there is nothing to repair.
//!
//! The same function is applied to the object that a plan wants and to the one that the cluster has. It sees only
//! fields that a plan sets, and takes a default for what it stands for.

use controller_api::labels;
use controller_api::pod_group::{PodGroup, SubGroupPolicy};
use controller_api::v1alpha1::model_serving::NetworkTopology;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::pod_group::DEFAULT_QUEUE;
use crate::quantity::Amount;
use crate::revision::write_sorted;

/// Of the labels, those that are ours.
const LABELS: [&str; 5] = [labels::NAME, labels::GROUP_NAME, labels::ROLE, labels::ROLE_ID, labels::REVISION];

/// A number that differs when anything differs that a plan sets on a headless service.
pub fn service_fingerprint(service: &Service) -> u64 {
    let spec = service.spec.as_ref();
    number(&json!({
        "labels": ours(&service.metadata),
        "selector": spec.and_then(|spec| spec.selector.as_ref()),
        "clusterIP": spec.and_then(|spec| spec.cluster_ip.as_ref()),
        "publishNotReadyAddresses": spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false),
    }))
}

/// A number that differs when anything differs that a plan sets on a gang.
pub fn pod_group_fingerprint(group: &PodGroup) -> u64 {
    let spec = &group.spec;
    let resources: serde_json::Map<String, Value> = spec
        .min_resources
        .iter()
        .flatten()
        .map(|(resource, quantity)| {
            let amount = quantity.0.parse::<Amount>();
            (resource.clone(), Value::String(amount.map_or_else(|_| quantity.0.clone(), |amount| amount.to_string())))
        })
        .collect();
    let annotation = |name| group.metadata.annotations.as_ref().and_then(|all| all.get(name));
    let named = annotation(labels::TIER_NAMES);
    let of_group = topology(spec.network_topology.as_ref(), names(named, "group="));
    let by_name = names(named, "role=");
    number(&json!({
        "labels": ours(&group.metadata),
        "group": annotation(labels::GANG_GROUP_NAME),
        "tierNames": named,
        "minMember": spec.min_member.unwrap_or(0),
        "minResources": resources,
        "queue": spec.queue.as_deref().filter(|queue| !queue.is_empty()).unwrap_or(DEFAULT_QUEUE),
        "priorityClassName": spec.priority_class_name.as_deref().unwrap_or_default(),
        "networkTopology": of_group,
        "subGroupPolicy": spec.sub_group_policy.iter().flatten().map(|part| sub_group(part, by_name)).collect::<Vec<_>>(),
    }))
}

/// Whether the annotation [`labels::TIER_NAMES`] names a tier for this.
fn names(annotation: Option<&String>, what: &str) -> bool {
    annotation.is_some_and(|named| named.split(',').any(|part| part.starts_with(what)))
}

fn sub_group(policy: &SubGroupPolicy, by_name: bool) -> Value {
    json!({
        "name": policy.name,
        "labelSelector": policy.label_selector,
        "matchLabelKeys": policy.match_label_keys,
        "subGroupSize": policy.sub_group_size.unwrap_or(1),
        "minSubGroups": policy.min_sub_groups.unwrap_or(0),
        "networkTopology": topology(policy.network_topology.as_ref(), by_name),
    })
}

/// Nothing, or the topology with its default mode. The tier of one that is `by_name` is in the annotation.
fn topology(topology: Option<&NetworkTopology>, by_name: bool) -> Value {
    topology.map_or(Value::Null, |topology| {
        if by_name {
            return json!({"mode": topology.mode.unwrap_or_default()});
        }
        json!({
            "mode": topology.mode.unwrap_or_default(),
            "highestTierAllowed": topology.highest_tier_allowed,
            "highestTierName": topology.highest_tier_name.as_deref().unwrap_or_default(),
        })
    })
}

fn ours(metadata: &ObjectMeta) -> Value {
    let labels = metadata.labels.iter().flatten().filter(|(key, _)| LABELS.contains(&key.as_str()));
    labels.map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
}

fn number(value: &Value) -> u64 {
    let mut text = String::new();
    write_sorted(value, &mut text);
    xxh3_64(text.as_bytes())
}
