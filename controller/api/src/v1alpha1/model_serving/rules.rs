//! What a `ModelServing` must hold, as far as the API server can tell by itself.
//!
//! An object that was once accepted must stay editable: no rule depends on `replicas` in a way that an autoscaler
//! could break through `/scale`, which is checked by these rules too.

use crate::cel::Rule;

/// On the whole object.
pub(super) const NAME_FORM: (&str, &str) = (
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name must start with a lowercase letter, end with a letter or digit, and hold only lowercase letters, \
     digits and '-': services are named after it",
);

/// On the whole object: `<name>-<ordinal>-<role>-<index>-<number>`, each number at its largest.
pub(super) const NAME_LENGTH: (&str, &str) = (
    "self.spec.template.roles.all(role, size(self.metadata.name) + size(string(self.spec.replicas)) + \
     size(role.name) + size(string(role.replicas)) + size(string(role.workerReplicas)) + 4 <= 63)",
    "the longest pod name, <name>-<replicas>-<role>-<role replicas>-<workerReplicas>, must not exceed 63 characters: \
     shorten metadata.name or the name of the role",
);

pub(super) const SPEC: &[Rule] = &[Rule::new(
    "!has(self.rolloutStrategy) || !has(self.recoveryPolicy) || self.rolloutStrategy.type != 'RoleRollingUpdate' || \
     self.recoveryPolicy != 'ServingGroupRecreate'",
    "rolloutStrategy.type RoleRollingUpdate needs recoveryPolicy RoleRecreate or None: with ServingGroupRecreate each \
     replaced role would take its whole group with it",
)];

/// Kthena makes the gang's minimum immutable, so a role can never be scaled below it. Here it may change: the PodGroup
/// follows it, as it follows a role's `replicas`. The policy itself stays once it is there, as in Kthena: without it
/// all pods of a group are one gang, which whoever leaves a field out seldom means.
pub(super) const TEMPLATE: &[Rule] = &[
    Rule::new(
        "!has(oldSelf.gangPolicy) || has(self.gangPolicy)",
        "gangPolicy is required once set: to make a gang of the whole group again, set gangPolicy to {}",
    ),
    Rule::new(
        "!has(self.gangPolicy) || !has(self.gangPolicy.minRoleReplicas) || \
         self.gangPolicy.minRoleReplicas.all(name, self.roles.exists(role, role.name == name))",
        "gangPolicy.minRoleReplicas names a role that does not exist in roles: correct the name, or remove the entry",
    ),
    Rule::new(
        "!has(self.gangPolicy) || !has(self.gangPolicy.minRoleReplicas) || self.roles.all(role, \
         !(role.name in self.gangPolicy.minRoleReplicas) || \
         self.gangPolicy.minRoleReplicas[role.name] <= role.replicas)",
        "gangPolicy.minRoleReplicas cannot exceed the replicas of the role: lower it, or raise the role's replicas",
    ),
];

pub(super) const MIN_ROLE_REPLICAS: &[Rule] = &[Rule::new(
    "self.all(name, self[name] >= 0)",
    "minRoleReplicas must be non-negative: 0 leaves the role out of the gang",
)];

pub(super) const ROLES: &[Rule] = &[Rule::new(
    "self.all(one, self.exists_one(other, other.name == one.name))",
    "roles name must be unique: rename one of them",
)];

pub(super) const ROLE: &[Rule] = &[
    Rule::new(
        "self.workerReplicas == 0 || has(self.workerTemplate)",
        "workerTemplate is required when workerReplicas is greater than 0: add it, or set workerReplicas to 0",
    ),
    NOT_BOTH_ZERO,
];

/// A digit may come first, because a pod's name begins with the ModelServing's.
pub(super) const ROLE_NAME: &[Rule] = &[Rule::new(
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "role name must hold only lowercase letters, digits and '-', and start and end with a letter or digit: pods are \
     named after it",
)];

pub(super) const ROLLOUT: &[Rule] = &[Rule::new(
    "self.type != 'RoleRollingUpdate' || !has(self.rollingUpdateConfiguration)",
    "rollingUpdateConfiguration is only valid when type is ServingGroupRollingUpdate: remove it, and set \
     maxUnavailable, partition and maxSurge on the roles",
)];

pub(super) const ROLLBACK_TO: &[Rule] = &[Rule::new(
    "type(self) == int ? self >= 1 : self != ''",
    "rollbackTo must be the number or the name of a revision; remove it to serve the template",
)];

pub(super) const ROLLING_UPDATE: &[Rule] = &[NOT_BOTH_ZERO];

/// What a percentage comes to depends on `replicas`, which an autoscaler changes, so only what is zero at any size is
/// refused.
const NOT_BOTH_ZERO: Rule = Rule::new(
    "!has(self.maxUnavailable) || !(string(self.maxUnavailable) in ['0', '0%', '00%']) || (has(self.maxSurge) && \
     !(string(self.maxSurge) in ['0', '0%', '00%', '000%', '0000%']))",
    "maxUnavailable cannot be 0 unless maxSurge is greater than 0, or an update could not begin: raise one of them",
);

pub(super) const MAX_UNAVAILABLE: &[Rule] = &[Rule::new(
    "type(self) == int ? self >= 0 : self.matches('^(100|[0-9]{1,2})%$')",
    "maxUnavailable must be a non-negative integer, such as 1, or a percentage of replicas from 0% to 100%, such as 25%",
)];

pub(super) const PARTITION: &[Rule] = &[Rule::new(
    "type(self) == int ? self >= 0 : self.matches('^(100|[0-9]{1,2})%$')",
    "partition must be greater than or equal to 0, such as 2, or a percentage of replicas from 0% to 100%, such as 50%",
)];

/// More may be there in addition than there shall be.
pub(super) const MAX_SURGE: &[Rule] = &[Rule::new(
    "type(self) == int ? self >= 0 : self.matches('^[0-9]{1,4}%$')",
    "maxSurge must be a non-negative integer, such as 1, or a percentage of replicas, such as 25%",
)];
