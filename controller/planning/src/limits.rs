//! How many, and how many at a time: the spec's numbers and percentages, resolved.

use controller_api::v1alpha1::model_serving::{ModelServing, Role, RolloutType};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects;

/// The limits of a rolling update of alike parts: the groups of a ModelServing, or the instances of a role in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How many parts there shall be.
    pub(crate) replicas: u32,
    /// How many may be missing because of an update.
    pub(crate) max_unavailable: u32,
    /// How many may exist above `replicas` during an update.
    pub(crate) max_surge: u32,
    /// Parts with a lower number keep their revision.
    pub(crate) partition: u32,
}

impl Limits {
    /// Of the groups. With `RoleRollingUpdate` groups are never replaced as a whole, so there is no partition among
    /// them and none in excess.
    pub(crate) fn of_groups(serving: &ModelServing) -> Self {
        let replicas = u32::try_from(serving.spec.replicas.unwrap_or(1)).unwrap_or(0);
        let by_group = rollout_type(serving) == RolloutType::ServingGroupRollingUpdate;
        let strategy = serving.spec.rollout_strategy.as_ref().filter(|_| by_group);
        let update = strategy.and_then(|strategy| strategy.rolling_update_configuration.as_ref());
        Self::resolved(
            replicas,
            update.and_then(|update| update.max_unavailable.as_ref()),
            update.and_then(|update| update.max_surge.as_ref()),
            update.and_then(|update| update.partition.as_ref()),
        )
    }

    /// Of the instances of `role` in one group; only `RoleRollingUpdate` updates them one by one.
    pub(crate) fn of_instances(serving: &ModelServing, role: &Role) -> Self {
        let replicas = objects::instances(role);
        if rollout_type(serving) == RolloutType::ServingGroupRollingUpdate {
            return Self::resolved(replicas, None, None, None);
        }
        Self::resolved(replicas, role.max_unavailable.as_ref(), role.max_surge.as_ref(), role.partition.as_ref())
    }

    fn resolved(
        replicas: u32,
        max_unavailable: Option<&IntOrString>,
        max_surge: Option<&IntOrString>,
        partition: Option<&IntOrString>,
    ) -> Self {
        let max_surge = max_surge.and_then(|value| resolve(value, replicas, Rounding::Up)).unwrap_or(0);
        let max_unavailable = max_unavailable.and_then(|value| resolve(value, replicas, Rounding::Down)).unwrap_or(1);
        Self {
            replicas,
            // Both 0 (10 % of 4) would hold the update for ever.
            max_unavailable: if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable },
            max_surge,
            partition: partition.and_then(|value| resolve(value, replicas, Rounding::Up)).unwrap_or(0),
        }
    }
}

/// What is replaced at a time.
pub(crate) fn rollout_type(serving: &ModelServing) -> RolloutType {
    serving.spec.rollout_strategy.as_ref().map(|strategy| strategy.kind).unwrap_or_default()
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

/// A number, or a percentage of `whole`; none for anything else, which admission refuses.
fn resolve(value: &IntOrString, whole: u32, rounding: Rounding) -> Option<u32> {
    match value {
        IntOrString::Int(number) => Some(u32::try_from(*number).unwrap_or(0)),
        IntOrString::String(text) => {
            let percent: u64 = text.trim().strip_suffix('%')?.parse().ok()?;
            let hundredths = percent.checked_mul(u64::from(whole))?;
            let number = match rounding {
                Rounding::Up => hundredths.div_ceil(100),
                Rounding::Down => hundredths / 100,
            };
            Some(u32::try_from(number).unwrap_or(u32::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> IntOrString {
        IntOrString::String(text.to_owned())
    }

    #[test]
    fn a_percentage_of_unavailable_is_rounded_down_the_others_up() {
        let half = percent("50%");
        let limits = Limits::resolved(3, Some(&half), Some(&half), Some(&half));
        assert_eq!(limits, Limits { replicas: 3, max_unavailable: 1, max_surge: 2, partition: 2 });
    }

    #[test]
    fn one_may_be_unavailable_by_default() {
        let limits = Limits::resolved(3, None, None, None);
        assert_eq!(limits, Limits { replicas: 3, max_unavailable: 1, max_surge: 0, partition: 0 });
    }

    #[test]
    fn an_update_that_may_neither_add_nor_remove_replaces_one_at_a_time() {
        assert_eq!(Limits::resolved(4, Some(&percent("10%")), None, None).max_unavailable, 1);
        assert_eq!(
            Limits::resolved(4, Some(&IntOrString::Int(0)), Some(&IntOrString::Int(0)), None).max_unavailable,
            1
        );
        assert_eq!(
            Limits::resolved(4, Some(&IntOrString::Int(0)), Some(&IntOrString::Int(1)), None).max_unavailable,
            0
        );
    }

    #[test]
    fn a_partition_may_exceed_the_replicas() {
        assert_eq!(Limits::resolved(3, None, None, Some(&IntOrString::Int(9))).partition, 9);
        assert_eq!(Limits::resolved(3, None, None, Some(&percent("34%"))).partition, 2);
    }
}
