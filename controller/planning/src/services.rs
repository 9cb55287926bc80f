//! The headless service of each role instance that has workers: written with its pods, repaired when it was deleted or
//! altered, and removed when the last pod of the instance is gone.

use controller_api::v1alpha1::model_serving::Role;

use crate::draft::{Draft, Pass};
use crate::lineage::Blueprint;
use crate::plan::{ChildKind, Deletion, Write};
use crate::topology::Group;
use crate::{names, objects};

/// Writes the service of an instance that exists or is about to.
pub(crate) fn tend(
    pass: &Pass<'_>,
    name: &str,
    group: Option<&Group<'_>>,
    (blueprint, role): (&Blueprint, &Role),
    index: u32,
    draft: &mut Draft,
) {
    let Some(plugins) = pass.plugins else { return };
    if role.worker_template.is_none() {
        return;
    }
    let Some(wanted) = objects::headless_service(&pass.build(blueprint, plugins), name, role, index) else { return };
    let service_name = names::pod(name, &names::role_id(&role.name, index), 0);
    let existing = group.and_then(|group| group.services.iter().find(|service| service.name == service_name));
    // One that is being deleted is written again when it is gone.
    let right = existing
        .is_some_and(|existing| existing.terminating || existing.fingerprint == objects::service_fingerprint(&wanted));
    if !right {
        draft.builds.push(Write::ApplyService(Box::new(wanted)));
    }
    draft.services.insert(service_name);
}

/// The service of an instance that is away for a while stays.
pub(crate) fn keep(group: &str, role_id: &str, draft: &mut Draft) {
    draft.services.insert(names::pod(group, role_id, 0));
}

/// The services of a group that is away for a while stay.
pub(crate) fn keep_all(group: &Group<'_>, draft: &mut Draft) {
    draft.services.extend(group.services.iter().map(|service| service.name.clone()));
}

/// Removes the services that no instance has, of a group that is `gone` all of them.
pub(crate) fn sweep(group: &Group<'_>, gone: bool, draft: &mut Draft) {
    for service in group.services.iter().filter(|service| !service.terminating) {
        let pods_left =
            group.instances.iter().any(|instance| instance.role == service.role && instance.id == service.role_id);
        if gone || !(pods_left || draft.services.contains(&service.name)) {
            draft.leftovers.push(Deletion {
                kind: ChildKind::Service,
                name: service.name.clone(),
                uid: service.uid.clone(),
            });
        }
    }
}
