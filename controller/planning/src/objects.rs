//! The objects that a plan creates, built from a revision's roles; and the same objects read back.

mod facts;
mod fingerprint;
mod pod;
mod pod_group;
mod requests;
mod service;

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::pod_group::PodGroup;
use controller_api::v1alpha1::model_serving::{ModelServing, Role};
pub use facts::{pod_facts, pod_group_facts, service_facts};
pub use fingerprint::{pod_group_fingerprint, service_fingerprint};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;

use crate::observed::GangSupport;
use crate::plugins::{Chain, PluginError};
use crate::{names, plugins};

/// What all objects of one group of one ModelServing share.
#[derive(Clone, Copy, Debug)]
pub struct Build<'a> {
    /// Their owner.
    pub serving: &'a ModelServing,
    /// The name of the revision that they are built from.
    pub revision: &'a str,
    /// The group is a gang.
    pub gang: bool,
    /// What is done to each pod.
    pub plugins: &'a Chain,
}

/// The scheduler of every pod; an empty name means the default.
pub fn scheduler_name(serving: &ModelServing) -> &str {
    serving.spec.scheduler_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(VOLCANO)
}

/// The scheduler that knows gangs.
pub const VOLCANO: &str = "volcano";

/// Pods in an instance of `role`: the entry pod and its workers. Workers without a template are none.
pub fn instance_size(role: &Role) -> u32 {
    let workers = if role.worker_template.is_some() { u32::try_from(role.worker_replicas).unwrap_or(0) } else { 0 };
    workers.saturating_add(1)
}

/// The workers of an instance are created only when its entry pod is ready.
pub fn workers_wait(serving: &ModelServing) -> bool {
    let annotations = serving.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(labels::STARTUP_POLICY)).is_some_and(|policy| policy == "LeaderReady")
}

/// Instances of `role` in a group; 1 if it does not say.
pub fn instances(role: &Role) -> u32 {
    u32::try_from(role.replicas.unwrap_or(1)).unwrap_or(0)
}

/// Pod `number` of instance `index` of `role` in `group`; number 0 is the entry pod.
///
/// # Errors
/// A plugin could not do its work.
pub fn pod(build: &Build<'_>, group: &str, role: &Role, index: u32, number: u32) -> Result<Pod, PluginError> {
    let mut pod = pod::build(build, group, role, index, number);
    let role_id = names::role_id(&role.name, index);
    let place = plugins::Place { serving: build.serving, group, role, role_id: &role_id, number };
    build.plugins.apply(&mut pod, &place)?;
    Ok(pod)
}

/// The headless service by which the pods of an instance find its entry pod; none for a role without workers.
pub fn headless_service(build: &Build<'_>, group: &str, role: &Role, index: u32) -> Option<Service> {
    service::build(build, group, role, index)
}

/// The gang of `group`, whose `roles` have the spec's counts.
pub fn pod_group(build: &Build<'_>, group: &str, roles: &[Role], gangs: GangSupport) -> PodGroup {
    pod_group::build(build, group, roles, gangs)
}

/// `serving` as the owner that controls an object, and that is not gone before it.
pub(crate) fn owner_reference(serving: &ModelServing) -> OwnerReference {
    OwnerReference {
        api_version: ModelServing::api_version(&()).into_owned(),
        kind: ModelServing::kind(&()).into_owned(),
        name: serving.metadata.name.clone().unwrap_or_default(),
        uid: serving.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Name, place, owner, and the labels by which a group's objects are found.
fn metadata(build: &Build<'_>, group: &str, name: String) -> ObjectMeta {
    let serving = &build.serving.metadata;
    ObjectMeta {
        name: Some(name),
        namespace: serving.namespace.clone(),
        labels: Some(BTreeMap::from([
            (labels::NAME.to_owned(), serving.name.clone().unwrap_or_default()),
            (labels::GROUP_NAME.to_owned(), group.to_owned()),
            (labels::REVISION.to_owned(), build.revision.to_owned()),
        ])),
        owner_references: Some(vec![owner_reference(build.serving)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
