//! Revisions: immutable, content-addressed snapshots of the roles, kept as ControllerRevisions.
//!
//! Two revisions are the same when their canonical content is, whatever they are called: a ModelServing that Kthena
//! has rolled out is taken over without a restart.

mod canonical;
mod history;

pub use canonical::role_template_hash;
pub(crate) use canonical::{plain, write as write_sorted};
use controller_api::v1alpha1::model_serving::Role;
pub(crate) use history::rollback as pinned;
pub use history::{Entry, History, Target, UnknownRevision, Unreadable};

/// The roles of a ModelServing as they were, or are.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// The value of the label `revision`; the ControllerRevision is called `<serving>-<name>`.
    pub name: String,
    /// Its place in the history, from 1; a revision that is used again gets the next number.
    pub number: i64,
    /// The roles.
    pub roles: Vec<Role>,
}

/// `revision_roles` with the counts and limits of `spec_roles`: how many there are is never a matter of the
/// revision. A role that the spec no longer has keeps its own.
pub fn with_scaling_of(revision_roles: &[Role], spec_roles: &[Role]) -> Vec<Role> {
    revision_roles
        .iter()
        .map(|role| {
            let mut role = role.clone();
            if let Some(spec) = spec_roles.iter().find(|spec| spec.name == role.name) {
                role.replicas = spec.replicas;
                role.max_unavailable.clone_from(&spec.max_unavailable);
                role.partition.clone_from(&spec.partition);
                role.max_surge.clone_from(&spec.max_surge);
            }
            role
        })
        .collect()
}

#[cfg(test)]
mod tests;
