//! When a unit is torn down and built again, and how long that waits.
//!
//! The record is in the status, written before the first delete. It carries the UID of the unit's oldest pod, so a
//! tear-down that takes several passes, or two processes, counts once.

use std::collections::BTreeMap;

use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus, Recovery};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::{PodFacts, PodHealth};
use crate::topology;

/// The second recovery in a row waits this long; each further one twice as long as the one before.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(10);
/// No recovery waits longer.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(300);
/// A unit that was ready for this long starts anew.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(600);
/// Parts that are remembered at most, latest first: a status must fit into an object.
const REMEMBERED: usize = 500;

/// Whether a pod is beyond hope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No.
    None,
    /// It will be at this time, if it does not become ready before.
    At(Timestamp),
    /// It is, for this reason.
    Due(String),
}

/// The recoveries that are remembered, as they are after this pass.
#[derive(Debug)]
pub(crate) struct Recoveries {
    now: Timestamp,
    grace: SignedDuration,
    entries: BTreeMap<String, Recovery>,
    /// Those that this pass adds.
    pub(crate) added: Vec<Recovery>,
    /// When something is due that is not yet.
    pub(crate) wake_at: Option<Timestamp>,
}

impl Recoveries {
    pub(crate) fn new(serving: &ModelServing, status: &ModelServingStatus, now: Timestamp) -> Self {
        let grace = serving.spec.template.restart_grace_period_seconds.unwrap_or(0).max(0);
        Self {
            now,
            grace: SignedDuration::from_secs(grace),
            entries: status.recoveries.iter().map(|entry| (entry.part.clone(), entry.clone())).collect(),
            added: Vec::new(),
            wake_at: None,
        }
    }

    /// Whether one of `pods` is beyond hope. One that the kubelet will restart has the grace period, from the moment
    /// that its own status names; with `ended_only` it is left to the kubelet for ever.
    pub(crate) fn fault<'a>(&mut self, pods: impl Iterator<Item = &'a PodFacts>, ended_only: bool) -> Fault {
        let mut later = None;
        for pod in pods {
            match self.fault_of(pod, ended_only) {
                Fault::None => {}
                Fault::At(time) => later = earliest(later, Some(time)),
                due @ Fault::Due(_) => return due,
            }
        }
        self.wake_at = earliest(self.wake_at, later);
        later.map_or(Fault::None, Fault::At)
    }

    fn fault_of(&self, pod: &PodFacts, ended_only: bool) -> Fault {
        match &pod.health {
            PodHealth::Failed { since, reason, ended } if *ended || !ended_only => {
                let due = since.or(pod.created).map(|since| since.saturating_add(self.grace).unwrap_or(Timestamp::MAX));
                match due {
                    Some(due) if due > self.now => Fault::At(due),
                    _ => Fault::Due(format!("pod {} failed: {reason}", pod.name)),
                }
            }
            PodHealth::Finished => Fault::Due(format!("pod {} ended, which it should not", pod.name)),
            PodHealth::Failed { .. } | PodHealth::Ready | PodHealth::NotReady => Fault::None,
        }
    }

    /// Remembers that `part`, of which `pods` are left, is torn down.
    pub(crate) fn record<'a>(&mut self, part: &str, pods: impl Iterator<Item = &'a PodFacts> + Clone, reason: &str) {
        let Some(oldest) = topology::oldest(pods.clone()) else { return };
        let count = match self.entries.get(part) {
            Some(entry) if continues(entry, pods) => return,
            Some(entry) => entry.count.saturating_add(1),
            None => 1,
        };
        let entry = Recovery {
            part: part.to_owned(),
            count,
            last_time: Time(whole_seconds(self.now)),
            cause: oldest.uid.clone(),
            reason: reason.to_owned(),
        };
        self.added.push(entry.clone());
        self.entries.insert(part.to_owned(), entry);
    }

    /// Whether `part` may be built now; otherwise the pass is repeated when it may.
    pub(crate) fn may_build(&mut self, part: &str) -> bool {
        let Some(entry) = self.entries.get(part) else { return true };
        let due = entry.last_time.0.saturating_add(wait(entry.count)).unwrap_or(Timestamp::MAX);
        if due <= self.now {
            return true;
        }
        self.wake_at = earliest(self.wake_at, Some(due));
        false
    }

    /// What is remembered, after what is no longer wanted and what has long been ready is forgotten. `ready_since`
    /// says of a part whether it is wanted, and since when it is ready.
    pub(crate) fn entries(&mut self, ready_since: impl Fn(&str) -> Option<Option<Timestamp>>) -> Vec<Recovery> {
        let mut entries = Vec::new();
        for entry in std::mem::take(&mut self.entries).into_values() {
            match ready_since(&entry.part) {
                None => {}
                Some(None) => entries.push(entry),
                Some(Some(since)) => {
                    let since = since.max(entry.last_time.0);
                    let end = since.saturating_add(FORGOTTEN_AFTER).unwrap_or(Timestamp::MAX);
                    if end > self.now {
                        self.wake_at = earliest(self.wake_at, Some(end));
                        entries.push(entry);
                    }
                }
            }
        }
        if entries.len() > REMEMBERED {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_time.0));
            entries.truncate(REMEMBERED);
            entries.sort_by(|a, b| a.part.cmp(&b.part));
        }
        entries
    }
}

/// The tear-down that `entry` tells of is not over: its cause is still there, or what is left is older than it.
fn continues<'a>(entry: &Recovery, mut pods: impl Iterator<Item = &'a PodFacts> + Clone) -> bool {
    pods.clone().any(|pod| pod.uid == entry.cause)
        || pods.all(|pod| pod.created.is_some_and(|created| created < entry.last_time.0))
}

/// How long building waits after the recovery of this number in a row.
pub(crate) fn wait(count: i32) -> SignedDuration {
    match count {
        ..=1 => SignedDuration::ZERO,
        _ => {
            let doublings = u32::try_from(count - 2).unwrap_or(0).min(16);
            FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT)
        }
    }
}

/// The earlier of two times.
pub(crate) fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// As the API server keeps times.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_recovery_is_at_once_and_later_ones_wait_longer_and_longer() {
        let seconds: Vec<i64> = (0..10).map(|count| wait(count).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(wait(i32::MAX), LONGEST_WAIT);
    }
}
