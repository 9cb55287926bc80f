//! The history of a ModelServing for a person: what there was, what changed, what undoing would do, how far it is.

mod difference;
mod progress;

use controller_api::v1alpha1::model_serving::{ModelServing, Role};
pub use difference::{Change, difference};
use jiff::Timestamp;
pub use progress::{Progress, progress};

use crate::leader_worker_set;
use crate::revision::{Entry, History, with_scaling_of};

/// A revision as a line of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub number: i64,
    /// Its name, the value of the label `revision` of its pods.
    pub name: String,
    /// When it was first used.
    pub created: Option<Timestamp>,
    /// Why, if the user said so.
    pub change_cause: Option<String>,
    /// What it is to the groups now.
    pub state: State,
    /// Why it cannot be used.
    pub unreadable: Option<String>,
}

/// What a revision is to the groups now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing: it is kept for a rollback.
    Past,
    /// They are of it.
    Current,
    /// They are leaving it.
    Leaving,
    /// They are going to it.
    Updating,
}

impl State {
    /// In lower case; nothing for a revision of the past.
    pub fn word(self) -> &'static str {
        match self {
            Self::Past => "",
            Self::Current => "current",
            Self::Leaving => "leaving",
            Self::Updating => "updating",
        }
    }
}

/// All revisions, oldest first.
pub fn lines(serving: &ModelServing, history: &History) -> Vec<Line> {
    let status = serving.status.as_ref();
    let from = status.and_then(|status| status.current_revision.as_deref());
    let to = status.and_then(|status| status.update_revision.as_deref());
    let state = |name: &str| match (Some(name) == from, Some(name) == to) {
        (true, true) => State::Current,
        (true, false) => State::Leaving,
        (false, true) => State::Updating,
        (false, false) => State::Past,
    };
    let readable = history.entries().iter().map(|entry| Line {
        number: entry.revision.number,
        name: entry.revision.name.clone(),
        created: entry.created,
        change_cause: entry.change_cause.clone(),
        state: state(&entry.revision.name),
        unreadable: None,
    });
    let unreadable = history.unreadable.iter().map(|one| Line {
        number: one.number,
        name: one.name.clone(),
        created: None,
        change_cause: None,
        state: state(&one.name),
        unreadable: Some(one.reason.clone()),
    });
    let mut lines: Vec<Line> = readable.chain(unreadable).collect();
    lines.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    lines
}

/// The revision before `entry`, and what `entry` changed against it.
pub fn change_of<'h>(history: &'h History, entry: &Entry) -> Option<(&'h Entry, Vec<Change>)> {
    let before = history.entries().iter().rev().find(|before| before.revision.number < entry.revision.number)?;
    Some((before, difference(&before.revision.roles, &entry.revision.roles)))
}

/// What undoing writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Undo {
    /// The number of the revision that is gone back to.
    pub number: i64,
    /// `spec.template.roles`, with the counts of now.
    pub roles: Vec<Role>,
    /// What changes.
    pub changes: Vec<Change>,
    /// The reason that was given for that revision; the one of now would be wrong for it.
    pub change_cause: Option<String>,
}

/// Why nothing can be undone, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UndoError {
    /// The rollout is held.
    #[error("{0} is paused: resume it first (kthena rollout resume {0})")]
    Paused(String),
    /// A rollback is asked for in the object, and goes before the template.
    #[error("{0} asks for revision {1} in the object itself, which goes before the template: {2}")]
    Pinned(String, String, String),
    /// Another object writes the template.
    #[error("{0} belongs to the LeaderWorkerSet {1}, which would undo the undoing: change that one")]
    Owned(String, String),
    /// There is no such revision.
    #[error("{0} has no revision {1}; {2}")]
    Unknown(String, String, String),
    /// There is no revision but the one of the template.
    #[error("{0} has no revision before the one it has: there is nothing to undo")]
    Nothing(String),
    /// The template is that revision's.
    #[error("{0} is at revision {1} already: there is nothing to undo")]
    Same(String, i64),
}

/// What to write to go back to revision `to` (number or name), or without it to the one before.
///
/// # Errors
/// Why that cannot be done, and what to do.
pub fn undo(serving: &ModelServing, history: &History, to: Option<&str>) -> Result<Undo, UndoError> {
    let name = serving.metadata.name.clone().unwrap_or_default();
    if let Some(owner) = leader_worker_set::owner(serving) {
        return Err(UndoError::Owned(name, owner.name.clone()));
    }
    if let Some((place, wanted)) = crate::revision::pinned(serving) {
        return Err(UndoError::Pinned(name, wanted, format!("change or remove {place}")));
    }
    if crate::is_paused(serving) {
        return Err(UndoError::Paused(name));
    }
    let roles = &serving.spec.template.roles;
    let now = history.by_content(roles).map(|revision| revision.number);
    let entry = match to {
        Some(wanted) => {
            let known: Vec<String> = history.entries().iter().map(|entry| entry.revision.number.to_string()).collect();
            let known =
                if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            history.named(wanted).ok_or_else(|| UndoError::Unknown(name.clone(), wanted.to_owned(), known))?
        }
        // A template that has not been served yet is undone to what was served last.
        None => history
            .entries()
            .iter()
            .rev()
            .find(|entry| now.is_none_or(|now| entry.revision.number < now))
            .ok_or_else(|| UndoError::Nothing(name.clone()))?,
    };
    let number = entry.revision.number;
    if now == Some(number) {
        return Err(UndoError::Same(name, number));
    }
    let after = with_scaling_of(&entry.revision.roles, roles);
    let change_cause = entry.change_cause.clone();
    Ok(Undo { number, changes: difference(roles, &after), roles: after, change_cause })
}

#[cfg(test)]
mod tests;
