//! What can be served, and is yet unlikely to be meant: shown to whoever writes the object.

use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingSpec, RolloutType};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::templates::RESERVED;
use crate::objects;

/// What the author of `serving` should know; a sentence each, in the order of the fields.
#[must_use]
pub fn warnings(serving: &ModelServing) -> Vec<String> {
    let spec = &serving.spec;
    let scheduler = objects::scheduler_name(serving);
    let mut advice = Vec::new();
    for (position, plugin) in spec.plugins.iter().enumerate() {
        let scope = plugin.scope.iter().flat_map(|scope| &scope.roles);
        for name in scope.filter(|name| spec.template.roles.iter().all(|role| role.name != **name)) {
            advice.push(format!("spec.plugins[{position}].scope.roles: there is no role {name:?}"));
        }
    }
    update_limits(spec, &mut advice);
    if scheduler != "volcano" && (spec.template.gang_policy.is_some() || spec.template.network_topology.is_some()) {
        advice.push(format!(
            "spec.template: gangPolicy and networkTopology have no effect with schedulerName {scheduler:?}, only with \
             volcano"
        ));
    }
    for (position, role) in spec.template.roles.iter().enumerate() {
        let templates =
            [("entryTemplate", Some(&role.entry_template)), ("workerTemplate", role.worker_template.as_ref())];
        for (name, template) in templates {
            let path = format!("spec.template.roles[{position}].{name}");
            if let Some(other) = template.and_then(own_scheduler).filter(|other| *other != scheduler) {
                advice.push(format!(
                    "{path}.spec.schedulerName: {other:?} is replaced by spec.schedulerName {scheduler:?}"
                ));
            }
            let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
            for key in labels.into_iter().flatten().map(|(key, _)| key).filter(|key| RESERVED.contains(&key.as_str())) {
                advice.push(format!("{path}.metadata.labels[{key}]: is replaced by what the operator sets"));
            }
        }
    }
    advice
}

fn own_scheduler(template: &PodTemplateSpec) -> Option<&str> {
    template.spec.as_ref()?.scheduler_name.as_deref().filter(|name| !name.is_empty())
}

fn update_limits(spec: &ModelServingSpec, advice: &mut Vec<String>) {
    let rollout = spec.rollout_strategy.as_ref();
    let by_role = rollout.is_some_and(|rollout| rollout.kind == RolloutType::RoleRollingUpdate);
    if let Some(update) = rollout.and_then(|rollout| rollout.rolling_update_configuration.as_ref()) {
        let replicas = spec.replicas.unwrap_or(1);
        if update.max_surge.is_none() && rounds_to_nothing(update.max_unavailable.as_ref(), replicas) {
            advice.push(format!(
                "spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailable: less than one of {replicas} groups; \
                 one at a time is replaced"
            ));
        }
    }
    for (position, role) in spec.template.roles.iter().enumerate() {
        let limits = [&role.max_unavailable, &role.partition, &role.max_surge];
        if !by_role && limits.iter().any(|limit| limit.is_some()) {
            advice.push(format!(
                "spec.template.roles[{position}]: maxUnavailable, partition and maxSurge of a role have an effect only \
                 with rolloutStrategy.type RoleRollingUpdate"
            ));
        }
        let replicas = role.replicas.unwrap_or(1);
        if by_role && role.max_surge.is_none() && rounds_to_nothing(role.max_unavailable.as_ref(), replicas) {
            advice.push(format!(
                "spec.template.roles[{position}].maxUnavailable: less than one of {replicas} instances; one at a time \
                 is replaced"
            ));
        }
    }
}

/// A percentage that comes to less than one of those that there are.
fn rounds_to_nothing(limit: Option<&IntOrString>, replicas: i32) -> bool {
    let Some(IntOrString::String(text)) = limit else { return false };
    let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()).unwrap_or_default();
    percent > 0 && replicas > 0 && percent * i64::from(replicas) < 100
}
