//! A pod: its template, and what makes it find its place in the group.

use controller_api::labels;
use controller_api::v1alpha1::model_serving::Role;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::{Build, instance_size, metadata, scheduler_name};
use crate::names;
use crate::revision::role_template_hash;

pub(super) fn build(build: &Build<'_>, group: &str, role: &Role, index: u32, number: u32) -> Pod {
    let role_id = names::role_id(&role.name, index);
    let template = match &role.worker_template {
        Some(worker) if number > 0 => worker,
        _ => &role.entry_template,
    };

    let mut metadata = metadata(build, group, names::pod(group, &role_id, number));
    let mut ours = metadata.labels.take().unwrap_or_default();
    ours.insert(labels::ROLE.to_owned(), role.name.clone());
    ours.insert(labels::ROLE_ID.to_owned(), role_id.clone());
    ours.insert(labels::ROLE_TEMPLATE_HASH.to_owned(), role_template_hash(role));
    if number == 0 {
        ours.insert(labels::ENTRY.to_owned(), "true".to_owned());
    }
    let given = template.metadata.as_ref();
    let mut labels = given.and_then(|given| given.labels.clone()).unwrap_or_default();
    // A template that carries the entry's mark must not make a worker one.
    labels.remove(labels::ENTRY);
    // Ours win: by them the pod is found again.
    labels.extend(ours);
    metadata.labels = Some(labels);
    let mut annotations = given.and_then(|given| given.annotations.clone()).unwrap_or_default();
    if build.gang {
        annotations.insert(labels::GANG_GROUP_NAME.to_owned(), group.to_owned());
        annotations.insert(labels::GANG_TASK.to_owned(), role_id.clone());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);

    let mut spec = template.spec.clone().unwrap_or_default();
    spec.scheduler_name = Some(scheduler_name(build.serving).to_owned());
    let namespace = build.serving.metadata.namespace.as_deref().unwrap_or_default();
    let contract = [
        (labels::GROUP_SIZE, instance_size(role).to_string()),
        (labels::ENTRY_ADDRESS, format!("{}.{namespace}", names::pod(group, &role_id, 0))),
        (labels::WORKER_INDEX, number.to_string()),
    ];
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        tell(container, &contract);
    }
    Pod { metadata, spec: Some(spec), status: None }
}

/// Appends `variables`; those that the user set under these names go.
fn tell(container: &mut Container, variables: &[(&str, String)]) {
    let env = container.env.get_or_insert_default();
    env.retain(|given| variables.iter().all(|(name, _)| given.name != *name));
    env.extend(variables.iter().map(|(name, value)| EnvVar {
        name: (*name).to_owned(),
        value: Some(value.clone()),
        value_from: None,
    }));
}
