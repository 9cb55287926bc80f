//! Whether a `ModelServing` can be served at all: what admission asks.
//!
//! The API server checks most of it by itself, with the rules in the CustomResourceDefinition. They are repeated here,
//! because the command line and an API server with older definitions ask too; what its rules cannot say is only here:
//! plugins, images, labels, and whether a number makes sense beside another.
//!
//! An object that was once accepted must stay editable, whatever an autoscaler made of its `replicas`: what depends on
//! them is a warning.

mod advice;
mod names;
mod rollout;
mod templates;

use std::fmt;

use controller_api::v1alpha1::model_serving::{ModelServing, Role, ServingGroupTemplate};

pub use self::advice::warnings;
pub use self::names::is_label;
use crate::plugins;

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Its path: `spec.template.roles[0].name`.
    pub field: String,
    /// What is wrong, and what to change.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.message)
    }
}

/// The errors that were found so far.
#[derive(Debug, Default)]
struct Findings(Vec<FieldError>);

impl Findings {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), message: message.into() });
    }
}

/// Everything that is wrong with `serving`; nothing for one that can be served.
#[must_use]
pub fn validate(serving: &ModelServing) -> Vec<FieldError> {
    let mut found = Findings::default();
    names::check(serving, &mut found);
    let spec = &serving.spec;
    if spec.replicas.is_some_and(|replicas| replicas < 0) {
        found.add("spec.replicas", "replicas must be a non-negative integer");
    }
    if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
        found.add("spec.revisionHistoryLimit", "revisionHistoryLimit must be a non-negative integer");
    }
    for (position, message) in plugins::validate(&spec.plugins) {
        found.add(format!("spec.plugins[{position}]"), message);
    }
    rollout::check(spec, &mut found);
    group(&spec.template, &mut found);
    found.0
}

fn group(template: &ServingGroupTemplate, found: &mut Findings) {
    if template.restart_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        found.add(
            "spec.template.restartGracePeriodSeconds",
            "restartGracePeriodSeconds must be a non-negative integer: 0 rebuilds at once",
        );
    }
    if template.roles.is_empty() {
        found.add("spec.template.roles", "roles must be specified: name at least one");
    }
    if template.roles.len() > 4 {
        found
            .add("spec.template.roles", format!("there are {} roles, and at most 4 are allowed", template.roles.len()));
    }
    for (position, role) in template.roles.iter().enumerate() {
        role_at(&format!("spec.template.roles[{position}]"), role, found);
        if template.roles.iter().take(position).any(|other| other.name == role.name) {
            found.add(
                format!("spec.template.roles[{position}].name"),
                format!("roles name must be unique: rename one of the roles {:?}", role.name),
            );
        }
    }
    gang(template, found);
}

fn role_at(path: &str, role: &Role, found: &mut Findings) {
    if role.replicas.is_some_and(|replicas| replicas < 0) {
        found.add(format!("{path}.replicas"), "role replicas must be a non-negative integer");
    }
    if role.worker_replicas < 0 {
        found.add(format!("{path}.workerReplicas"), "workerReplicas must be a non-negative integer");
    }
    if role.worker_replicas > 0 && role.worker_template.is_none() {
        found.add(
            format!("{path}.workerTemplate"),
            "workerTemplate is required when workerReplicas is greater than 0: add it, or set workerReplicas to 0",
        );
    }
    templates::check(&format!("{path}.entryTemplate"), &role.entry_template, true, found);
    if let Some(template) = &role.worker_template {
        templates::check(&format!("{path}.workerTemplate"), template, role.worker_replicas > 0, found);
    }
}

fn gang(template: &ServingGroupTemplate, found: &mut Findings) {
    let minimums = template.gang_policy.iter().filter_map(|policy| policy.min_role_replicas.as_ref()).flatten();
    for (name, minimum) in minimums {
        let field = format!("spec.template.gangPolicy.minRoleReplicas[{name}]");
        let Some(role) = template.roles.iter().find(|role| role.name == *name) else {
            let roles: Vec<_> = template.roles.iter().map(|role| role.name.as_str()).collect();
            found.add(
                field,
                format!("role {name} does not exist in template.roles: use one of {}, or remove it", roles.join(", ")),
            );
            continue;
        };
        let replicas = role.replicas.unwrap_or(1);
        if *minimum < 0 {
            found.add(
                field,
                format!("minRoleReplicas for role {name} must be non-negative: 0 leaves it out of the gang"),
            );
        } else if *minimum > replicas {
            found.add(
                field,
                format!(
                    "minRoleReplicas ({minimum}) for role {name} cannot exceed replicas ({replicas}): lower it, or \
                     raise the role's replicas"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests;
