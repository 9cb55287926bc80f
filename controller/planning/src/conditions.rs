//! Conditions: Kthena's, and those that `kstatus` tools wait for.
//!
//! `Available`, `Progressing`, `UpdateInProgress` and `Ready` are always there, true or false; `Reconciling` and
//! `Stalled` only while they are true, as `kstatus` wants it. A condition's time changes only with its status.

use controller_api::conditions as words;
use controller_api::v1alpha1::model_serving::ModelServingStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::draft::{Draft, Pass};
use crate::recovery::whole_seconds;
use crate::status::{Tally, generation};

/// Names of pods or messages that a condition lists at most.
const LISTED: usize = 3;

pub(crate) fn conditions(pass: &Pass<'_>, tally: &Tally, draft: &Draft) -> Vec<Condition> {
    let available = tally.is_available();
    let held = pass.rollout.paused && tally.to_update > 0;
    let stalled = !draft.obstacles.is_empty();
    // Pods that are about to go are not as the spec says, however many are ready.
    let settled = tally.is_settled() && draft.deletes.is_empty();
    let ready = settled && tally.to_update == 0 && !stalled;
    let ready_groups = format!("{} of {} groups are ready", tally.available, tally.wanted);
    let all_ready = "All Serving groups are ready".to_owned();
    let updated = format!("{} of {} groups are updated", tally.updated, tally.live);

    let mut list = List { pass, conditions: Vec::with_capacity(6) };
    if available {
        list.add(words::AVAILABLE, true, words::ALL_GROUPS_READY, all_ready.clone());
    } else {
        list.add(words::AVAILABLE, false, words::GROUPS_NOT_READY, ready_groups.clone());
    }
    list.add(
        words::PROGRESSING,
        !settled,
        words::GROUP_PROGRESSING,
        if settled { all_ready } else { doing(tally, draft) },
    );
    let updating = if held { words::ROLLOUT_PAUSED } else { words::GROUPS_UPDATING };
    list.add(words::UPDATE_IN_PROGRESS, tally.to_update > 0, updating, updated.clone());
    let (reason, message) = match draft.obstacles.first() {
        Some(obstacle) => (obstacle.reason, obstacles(draft)),
        None if ready => (words::AS_SPECIFIED, format!("{ready_groups}, {updated}")),
        None if !settled => (words::GROUPS_NOT_READY, doing(tally, draft)),
        None => (updating, updated),
    };
    list.add(words::READY, ready, reason, message.clone());
    if stalled {
        list.add(words::STALLED, true, reason, message);
    } else if !(ready || held && settled) {
        list.add(words::RECONCILING, true, reason, message);
    }
    list.conditions
}

/// What the groups still lack.
fn doing(tally: &Tally, draft: &Draft) -> String {
    let mut text = format!("{} of {} groups are ready", tally.available, tally.wanted);
    if !tally.unavailable.is_empty() {
        let ordinals: Vec<String> = tally.unavailable.iter().map(u32::to_string).collect();
        let more = if tally.live - tally.available > ordinals.len() { " …" } else { "" };
        text.push_str(&format!(", not ready: [{}{more}]", ordinals.join(" ")));
    }
    if tally.existing > tally.wanted {
        text.push_str(&format!(", {} to remove", tally.existing - tally.wanted));
    }
    if !draft.awaited.is_empty() {
        let names: Vec<&str> = draft.awaited.iter().take(LISTED).map(String::as_str).collect();
        let more = draft.awaited.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text.push_str(&format!(", waiting for the end of {}{more}", names.join(", ")));
    }
    text
}

fn obstacles(draft: &Draft) -> String {
    let messages: Vec<&str> = draft.obstacles.iter().take(LISTED).map(|obstacle| obstacle.message.as_str()).collect();
    messages.join("; ")
}

struct List<'a, 'b> {
    pass: &'b Pass<'a>,
    conditions: Vec<Condition>,
}

impl List<'_, '_> {
    fn add(&mut self, kind: &str, holds: bool, reason: &str, message: String) {
        let status = if holds { "True" } else { "False" };
        let before = self.pass.status.conditions.iter().find(|before| before.type_ == kind && before.status == status);
        let since: Timestamp = before.map_or(whole_seconds(self.pass.now), |before| before.last_transition_time.0);
        self.conditions.push(Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Time(since),
            observed_generation: Some(generation(self.pass)),
        });
    }
}

/// Whether `status` has this condition, true.
pub(crate) fn holds(status: &ModelServingStatus, kind: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}
