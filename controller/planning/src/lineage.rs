//! The revisions that matter in a pass, and how each compares with the one to go to.

use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus, Role};

use crate::observed::Observed;
use crate::revision::{History, Revision, role_template_hash, with_scaling_of};

/// A revision's roles with the spec's counts: what a group or an instance of it is built from.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    /// The value of the label `revision`.
    pub(crate) revision: String,
    /// The roles, counts as in the spec.
    pub(crate) roles: Vec<Role>,
    /// For each role, whether its pods are as the target's would be.
    current: Vec<bool>,
    /// The roles are the target's, whatever the revision is called.
    pub(crate) is_target: bool,
}

impl Blueprint {
    /// The role of this name.
    pub(crate) fn role(&self, name: &str) -> Option<&Role> {
        self.roles.iter().find(|role| role.name == name)
    }

    /// The role's pods are as the target's would be.
    fn is_current(&self, role: &str) -> bool {
        self.roles.iter().zip(&self.current).any(|(own, current)| *current && own.name == role)
    }
}

/// The blueprints of all revisions that are in use, or may come into use in this pass.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// What to go to; its role-template hashes, one for each role.
    target: Blueprint,
    hashes: Vec<String>,
    others: Vec<Blueprint>,
    /// The revision that groups come from, if it is another one and there is one.
    came_from: Option<String>,
}

impl Lineage {
    pub(crate) fn new(
        serving: &ModelServing,
        observed: &Observed,
        status: &ModelServingStatus,
        history: &History,
        target: &Revision,
    ) -> Self {
        let came_from = status.current_revision.clone().filter(|name| *name != target.name);
        let mut names: Vec<&str> = Vec::new();
        let labels = (observed.pods.iter().map(|pod| pod.revision.as_str()))
            .chain(observed.services.iter().map(|service| service.revision.as_str()))
            .chain(observed.pod_groups.iter().map(|group| group.revision.as_str()))
            .chain(came_from.as_deref());
        for label in labels {
            if label != target.name && !names.contains(&label) {
                names.push(label);
            }
        }
        // Most of the time there is one revision, and nothing to compare.
        let compared: &[Role] = if names.is_empty() { &[] } else { &target.roles };
        let hashes: Vec<String> = compared.iter().map(role_template_hash).collect();
        let others = names
            .into_iter()
            .filter_map(|name| history.find(name))
            .map(|revision| {
                let current: Vec<bool> = revision
                    .roles
                    .iter()
                    .map(|role| {
                        let hash = role_template_hash(role);
                        target.roles.iter().zip(&hashes).any(|(own, known)| own.name == role.name && *known == hash)
                    })
                    .collect();
                Blueprint {
                    revision: revision.name.clone(),
                    roles: with_scaling_of(&revision.roles, &serving.spec.template.roles),
                    is_target: revision.roles.len() == target.roles.len() && current.iter().all(|current| *current),
                    current,
                }
            })
            .collect::<Vec<_>>();
        let came_from = came_from.filter(|name| others.iter().any(|other| other.revision == *name));
        let target = Blueprint {
            revision: target.name.clone(),
            roles: target.roles.clone(),
            current: vec![true; target.roles.len()],
            is_target: true,
        };
        Self { target, hashes, others, came_from }
    }

    /// What to go to.
    pub(crate) fn target(&self) -> &Blueprint {
        &self.target
    }

    /// The blueprint of the revision of this name, if its content is known.
    pub(crate) fn find(&self, revision: &str) -> Option<&Blueprint> {
        if revision == self.target.revision {
            return Some(&self.target);
        }
        self.others.iter().find(|other| other.revision == revision)
    }

    /// What those are built from that keep the revision which the others leave.
    pub(crate) fn held(&self) -> &Blueprint {
        self.came_from.as_deref().and_then(|name| self.find(name)).unwrap_or(&self.target)
    }

    /// Whether a pod of `role` with these labels is as the target's would be. A pod of a revision that nobody knows is
    /// judged by its hash; without one (Kthena v0.3) it is left alone.
    pub(crate) fn is_current(&self, role: &str, revision: &str, role_template_hash: &str) -> bool {
        if let Some(blueprint) = self.find(revision) {
            return blueprint.is_current(role);
        }
        let known = self.target.roles.iter().zip(&self.hashes).find(|(own, _)| own.name == role);
        known.is_some_and(|(_, hash)| role_template_hash.is_empty() || hash == role_template_hash)
    }
}
