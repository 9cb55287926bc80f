//! Whether an update could be carried out.

use controller_api::v1alpha1::model_serving::{ModelServingSpec, RecoveryPolicy, RolloutType};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Findings;

pub(super) fn check(spec: &ModelServingSpec, found: &mut Findings) {
    for (position, role) in spec.template.roles.iter().enumerate() {
        let limits = Limits {
            path: format!("spec.template.roles[{position}]"),
            max_unavailable: role.max_unavailable.as_ref(),
            partition: role.partition.as_ref(),
            max_surge: role.max_surge.as_ref(),
        };
        limits.check(found);
    }
    let Some(rollout) = &spec.rollout_strategy else { return };
    if let Some(update) = &rollout.rolling_update_configuration {
        let limits = Limits {
            path: "spec.rolloutStrategy.rollingUpdateConfiguration".to_owned(),
            max_unavailable: update.max_unavailable.as_ref(),
            partition: update.partition.as_ref(),
            max_surge: update.max_surge.as_ref(),
        };
        limits.check(found);
        if rollout.kind == RolloutType::RoleRollingUpdate {
            found.add(
                limits.path,
                "rollingUpdateConfiguration is only valid when rolloutStrategy.type is ServingGroupRollingUpdate: \
                 remove it, and set maxUnavailable, partition and maxSurge on the roles",
            );
        }
    }
    if rollout.kind == RolloutType::RoleRollingUpdate
        && spec.recovery_policy == Some(RecoveryPolicy::ServingGroupRecreate)
    {
        found.add(
            "spec.rolloutStrategy.type",
            "incompatible recoveryPolicy and rolloutStrategy.type: with ServingGroupRecreate each role that \
             RoleRollingUpdate replaces would take its whole group with it; set recoveryPolicy to RoleRecreate or None",
        );
    }
    let nothing = match &rollout.rollback_to {
        None => false,
        Some(IntOrString::Int(number)) => *number < 1,
        Some(IntOrString::String(name)) => name.is_empty(),
    };
    if nothing {
        found.add(
            "spec.rolloutStrategy.rollbackTo",
            "rollbackTo must be the number or the name of a revision; remove it to serve the template",
        );
    }
}

/// The limits of an update of groups or of a role's instances.
struct Limits<'a> {
    path: String,
    max_unavailable: Option<&'a IntOrString>,
    partition: Option<&'a IntOrString>,
    max_surge: Option<&'a IntOrString>,
}

impl Limits<'_> {
    fn check(&self, found: &mut Findings) {
        let fields = [
            ("maxUnavailable", self.max_unavailable, 100),
            ("partition", self.partition, 100),
            ("maxSurge", self.max_surge, 9999),
        ];
        for (name, value, most) in fields {
            if let Some(message) = value.and_then(|value| malformed(name, value, most)) {
                found.add(format!("{}.{name}", self.path), message);
            }
        }
        if self.max_unavailable.is_some_and(is_zero) && self.max_surge.is_none_or(is_zero) {
            found.add(
                format!("{}.maxUnavailable", self.path),
                "maxUnavailable cannot be 0 unless maxSurge is greater than 0, or an update could not begin: raise \
                 one of them",
            );
        }
    }
}

/// Why `value` is neither a count nor a percentage up to `most`.
fn malformed(name: &str, value: &IntOrString, most: u32) -> Option<String> {
    match value {
        IntOrString::Int(number) if *number >= 0 => None,
        IntOrString::Int(number) => Some(format!("{name} must be a non-negative integer, not {number}")),
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
            let percent = digits.and_then(|digits| digits.parse::<u32>().ok());
            percent.is_none_or(|percent| percent > most).then(|| {
                format!("{name} must be a valid percent value (0-{most}%), such as 25%, or an integer; not {text:?}")
            })
        }
    }
}

/// Zero, however many there are.
fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(text) => text.strip_suffix('%').is_some_and(|digits| digits.parse() == Ok(0_u32)),
    }
}
