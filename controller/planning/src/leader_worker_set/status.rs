//! What the owner of a LeaderWorkerSet sees of it.

use controller_api::conditions::{AVAILABLE, NAME_TAKEN, PROGRESSING, STALLED, UPDATE_IN_PROGRESS};
use controller_api::leader_worker_set::{LeaderWorkerSet, LeaderWorkerSetStatus, NAME_LABEL, WORKER_INDEX_LABEL};
use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Refusal;

/// Reason of all conditions of a set that asks for what a ModelServing does not do.
const UNSUPPORTED: &str = "Unsupported";

/// A condition without its times.
struct Said {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The status of `set`, which `serving` serves as it is.
pub fn status_of(set: &LeaderWorkerSet, serving: &ModelServing, now: Timestamp) -> LeaderWorkerSetStatus {
    of(set, Some(serving), true, now)
}

/// The same where there may be no ModelServing yet, or one that is yet to change (not `settled`).
pub(super) fn of(
    set: &LeaderWorkerSet,
    serving: Option<&ModelServing>,
    settled: bool,
    now: Timestamp,
) -> LeaderWorkerSetStatus {
    let none = ModelServingStatus::default();
    let status = serving.and_then(|serving| serving.status.as_ref()).unwrap_or(&none);
    let seen = serving.and_then(|serving| serving.metadata.generation).unwrap_or(0);
    let current = settled && seen > 0 && status.observed_generation >= seen;
    let wanted = set.spec.replicas.unwrap_or(1);
    let holds = |kind| status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    let updating = current && holds(UPDATE_IN_PROGRESS);
    let available = current && holds(AVAILABLE) && !updating;

    let stalled = status.conditions.iter().find(|one| one.type_ == STALLED && one.status == "True");
    let progress = match stalled {
        Some(stalled) => stalled.message.clone(),
        None if available => "Nothing is in progress".to_owned(),
        None => format!("{} of {wanted} groups are ready", status.available_replicas),
    };
    let said = [
        if available {
            Said { kind: AVAILABLE, holds: true, reason: "AllGroupsReady", message: "All groups are ready".to_owned() }
        } else {
            Said { kind: AVAILABLE, holds: false, reason: "GroupsNotReady", message: progress.clone() }
        },
        Said {
            kind: PROGRESSING,
            holds: !available && stalled.is_none(),
            reason: if stalled.is_some() { "Stalled" } else { "GroupsProgressing" },
            message: progress,
        },
        Said {
            kind: UPDATE_IN_PROGRESS,
            holds: updating,
            reason: "GroupsUpdating",
            message: if updating {
                format!("{} of {wanted} groups have the newest template", status.updated_replicas)
            } else {
                "No update is in progress".to_owned()
            },
        },
    ];
    LeaderWorkerSetStatus {
        observed_generation: if current { set.metadata.generation } else { observed(set) },
        replicas: status.replicas,
        ready_replicas: status.available_replicas,
        updated_replicas: status.updated_replicas,
        hpa_pod_selector: Some(selector(set)),
        // What a change means for them is known once it was looked at: until then they stand.
        conditions: standing(set).filter(|_| !current).unwrap_or_else(|| conditions(set, said, now)),
    }
}

/// The conditions as they are, if they tell of groups.
fn standing(set: &LeaderWorkerSet) -> Option<Vec<Condition>> {
    let conditions = &set.status.as_ref()?.conditions;
    let available = conditions.iter().find(|condition| condition.type_ == AVAILABLE)?;
    let refused = available.reason == NAME_TAKEN || available.reason == UNSUPPORTED;
    (!refused).then(|| conditions.clone())
}

/// The status of a set that is not served; what `serving`, if it is the set's, still runs is counted.
pub(super) fn refused(
    set: &LeaderWorkerSet,
    serving: Option<&ModelServing>,
    refusal: &Refusal,
    now: Timestamp,
) -> LeaderWorkerSetStatus {
    let reason = match refusal {
        Refusal::NameTaken(_) => NAME_TAKEN,
        Refusal::Unsupported(_) => UNSUPPORTED,
    };
    let said = [AVAILABLE, PROGRESSING, UPDATE_IN_PROGRESS].map(|kind| Said {
        kind,
        holds: false,
        reason,
        message: refusal.to_string(),
    });
    let running = serving.and_then(|serving| serving.status.clone()).unwrap_or_default();
    LeaderWorkerSetStatus {
        observed_generation: set.metadata.generation,
        replicas: running.replicas,
        ready_replicas: running.available_replicas,
        updated_replicas: 0,
        hpa_pod_selector: Some(selector(set)),
        conditions: conditions(set, said, now),
    }
}

fn observed(set: &LeaderWorkerSet) -> Option<i64> {
    set.status.as_ref().and_then(|status| status.observed_generation)
}

/// The leaders: one pod per group.
fn selector(set: &LeaderWorkerSet) -> String {
    format!("{NAME_LABEL}={},{WORKER_INDEX_LABEL}=0", set.metadata.name.as_deref().unwrap_or_default())
}

/// The conditions with their times, which change with their status alone; those of others stay.
fn conditions<const N: usize>(set: &LeaderWorkerSet, said: [Said; N], now: Timestamp) -> Vec<Condition> {
    let mut conditions = set.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    for Said { kind, holds, reason, message } in said {
        let status = if holds { "True" } else { "False" };
        let before = conditions.iter().position(|condition| condition.type_ == kind);
        let since = before
            .and_then(|at| conditions.get(at))
            .filter(|condition| condition.status == status)
            .map_or(Time(now), |condition| condition.last_transition_time.clone());
        let condition = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: set.metadata.generation,
            last_transition_time: since,
        };
        match before.and_then(|at| conditions.get_mut(at)) {
            Some(place) => *place = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}
