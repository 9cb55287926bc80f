//! A LeaderWorkerSet served as a ModelServing.

use controller_api::leader_worker_set::{GROUP, KIND};
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The LeaderWorkerSet that controls `serving`.
pub fn owner(serving: &ModelServing) -> Option<&OwnerReference> {
    let owners = serving.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == KIND
            && owner.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
    })
}
