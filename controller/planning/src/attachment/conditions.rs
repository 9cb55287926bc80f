//! Conditions of ModelServers and ModelRoutes, for people and for `kstatus`.

use controller_api::conditions as words;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::plan::Event;
use crate::recovery::whole_seconds;

/// Names that a message lists at most.
const LISTED: usize = 5;

/// A condition: whether it holds, why, and what a person should know.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) holds: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn yes(reason: &'static str, message: String) -> Self {
        Self { holds: true, reason, message }
    }

    pub(super) fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// The conditions of these verdicts, and their sum: `Ready`; `Stalled` while a person must mend something (one of the
/// first `stalling`), `Reconciling` while it is only a matter of time. A condition's time changes only with its status.
pub(super) fn conditions(
    verdicts: &[(&'static str, Verdict)],
    stalling: usize,
    generation: i64,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let mut list: Vec<(&str, Verdict)> = verdicts.to_vec();
    let bad = verdicts.iter().enumerate().find(|(_, (_, verdict))| !verdict.holds);
    let good = verdicts.iter().map(|(_, verdict)| verdict.message.as_str()).filter(|message| !message.is_empty());
    match bad {
        None => list.push((words::READY, Verdict::yes(words::AS_SPECIFIED, good.collect::<Vec<_>>().join("; ")))),
        Some((index, (_, verdict))) => {
            list.push((words::READY, verdict.clone()));
            let kind = if index < stalling { words::STALLED } else { words::RECONCILING };
            list.push((kind, Verdict { holds: true, ..verdict.clone() }));
        }
    }
    let condition = |(kind, verdict): (&str, Verdict)| {
        let status = if verdict.holds { "True" } else { "False" };
        let same = before.iter().find(|before| before.type_ == kind && before.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message,
            last_transition_time: Time(same.map_or(whole_seconds(now), |same| same.last_transition_time.0)),
            observed_generation: Some(generation),
        }
    };
    list.into_iter().map(condition).collect()
}

/// What is told of verdicts that a person must act on and that are new.
pub(super) fn events(verdicts: &[(&'static str, Verdict)], before: &[Condition]) -> Vec<Event> {
    let news = |(kind, verdict): &&(&str, Verdict)| {
        let known = before.iter().any(|before| {
            before.type_ == *kind && before.reason == verdict.reason && before.message == verdict.message
        });
        !verdict.holds && !known
    };
    let event = |(_, verdict): &(&str, Verdict)| Event {
        warning: true,
        reason: verdict.reason,
        action: "Attach",
        message: verdict.message.clone(),
    };
    verdicts.iter().filter(news).map(event).collect()
}

/// Whether nobody waits for the difference: only messages and counts changed.
pub(super) fn says_the_same(before: &[Condition], after: &[Condition]) -> bool {
    let say = |condition: &Condition| {
        (condition.type_.clone(), condition.status.clone(), condition.reason.clone(), condition.observed_generation)
    };
    before.len() == after.len() && before.iter().map(say).eq(after.iter().map(say))
}

/// Names in a sentence; many of them are cut short.
pub(super) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(LISTED).map(AsRef::as_ref).collect();
    match names.len().checked_sub(shown.len()).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", shown.join(", ")),
        None => shown.join(", "),
    }
}
