//! The PodGroup of each group: written before the group's pods, repaired, and removed with the group or when gangs are
//! no longer wanted.

use crate::draft::{Draft, Pass};
use crate::lineage::Blueprint;
use crate::objects;
use crate::plan::{ChildKind, Deletion, Write};
use crate::topology::Group;

/// Writes the PodGroup of a group that exists or is about to. False if its pods have to wait for it.
pub(crate) fn tend(
    pass: &Pass<'_>,
    name: &str,
    group: Option<&Group<'_>>,
    blueprint: &Blueprint,
    draft: &mut Draft,
) -> bool {
    let Some(plugins) = pass.plugins.filter(|_| pass.gang) else { return pass.plugins.is_some() };
    let existing = group.and_then(|group| group.pod_group);
    if existing.is_some_and(|existing| existing.terminating) {
        return false;
    }
    let build = pass.build(blueprint, plugins);
    let wanted = objects::pod_group(&build, name, &blueprint.roles, pass.observed.gangs);
    let fingerprint = objects::pod_group_fingerprint(&wanted);
    if existing.is_none_or(|existing| existing.fingerprint != fingerprint) {
        draft.gangs.push(Write::ApplyPodGroup(Box::new(wanted)));
    }
    true
}

/// Removes the PodGroup of a group that is `gone`, and all of them when there are to be none.
pub(crate) fn sweep(pass: &Pass<'_>, group: &Group<'_>, gone: bool, draft: &mut Draft) {
    let Some(existing) = group.pod_group.filter(|existing| !existing.terminating) else { return };
    if gone || !pass.gang {
        draft.leftovers.push(Deletion {
            kind: ChildKind::PodGroup,
            name: existing.name.clone(),
            uid: existing.uid.clone(),
        });
    }
}
