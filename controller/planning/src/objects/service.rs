//! The headless service of a role instance: its name is the entry pod's, so that `<entry pod>.<namespace>` resolves.

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::v1alpha1::model_serving::Role;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{Build, metadata};
use crate::names;

pub(super) fn build(build: &Build<'_>, group: &str, role: &Role, index: u32) -> Option<Service> {
    role.worker_template.as_ref()?;
    let role_id = names::role_id(&role.name, index);
    let mut metadata = metadata(build, group, names::pod(group, &role_id, 0));
    let place = [(labels::ROLE.to_owned(), role.name.clone()), (labels::ROLE_ID.to_owned(), role_id)];
    metadata.labels.get_or_insert_default().extend(place.clone());
    // The entry pod alone: the address must never be a worker's.
    let selector = BTreeMap::from(place)
        .into_iter()
        .chain([(labels::GROUP_NAME.to_owned(), group.to_owned()), (labels::ENTRY.to_owned(), "true".to_owned())])
        .collect();
    Some(Service {
        metadata,
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // Workers look for the entry pod while it starts.
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}
