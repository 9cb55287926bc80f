//! Events: what a pass does, in sentences, so that `kubectl describe` tells the story. Each follows from a write, so an
//! idle pass tells nothing, and nothing is told twice.

use std::collections::BTreeMap;

use controller_api::v1alpha1::model_serving::ModelServingStatus;

use crate::conditions::holds;
use crate::draft::{Draft, Pass};
use crate::names;
use crate::plan::Event;
use crate::recovery;
use crate::status::Tally;
use crate::topology::Topology;

/// Names that a sentence lists at most.
const LISTED: usize = 5;
/// Instances that have an event each; of more, each role has one.
const INDIVIDUAL: usize = 10;

/// Of the revision that is written: a new one, or one that is used again.
pub(crate) fn of_revision(object: &str, number: i64, again: bool) -> Event {
    let what = if again { "is used again, as" } else { "was recorded as" };
    event("RevisionCreated", "Create", format!("Revision {object} {what} number {number}"))
}

/// Of the status that is written.
pub(crate) fn of_status(
    pass: &Pass<'_>,
    topology: &Topology<'_>,
    tally: &Tally,
    draft: &Draft,
    after: &ModelServingStatus,
) -> Vec<Event> {
    let before = pass.status;
    let mut events = Vec::new();
    let target = &pass.lineage.target().revision;
    if before.update_revision.as_ref().is_some_and(|before| before != target) && tally.to_update > 0 {
        let held = if pass.rollout.paused { "; the rollout is paused" } else { "" };
        let message =
            format!("{} of {} groups are to be updated to revision {target}{held}", tally.to_update, tally.live);
        events.push(event("RolloutStarted", "Update", message));
    }
    let came_from = before.current_revision.as_ref().filter(|before| *before != target);
    if came_from.is_some() && after.current_revision.as_ref() == Some(target) && tally.live > 0 {
        events.push(event("RolloutComplete", "Update", format!("All {} groups are at revision {target}", tally.live)));
    }
    for recovery in &draft.recoveries.added {
        let wait = recovery::wait(recovery.count).as_secs();
        let wait = if wait > 0 { format!(", not before {wait} s from now") } else { String::new() };
        events.push(Event {
            warning: true,
            reason: "Recovering",
            action: "Recover",
            message: format!(
                "Building {} again{wait} (recovery {} in a row): {}",
                recovery.part, recovery.count, recovery.reason
            ),
        });
    }
    events.extend(running(before, topology, after));
    if holds(after, "Available") && !holds(before, "Available") {
        events.push(event("Available", "Update", format!("All {} groups are ready", tally.wanted)));
    }
    let stalled = |status: &ModelServingStatus| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == "Stalled");
        condition.map(|condition| condition.message.clone())
    };
    if let Some(message) = stalled(after).filter(|message| stalled(before).as_ref() != Some(message)) {
        events.push(Event { warning: true, reason: "Stalled", action: "Update", message });
    }
    events
}

/// The instances that have become ready: as many as there are more of their role than the status said, the latest.
fn running(before: &ModelServingStatus, topology: &Topology<'_>, after: &ModelServingStatus) -> Vec<Event> {
    let mut instances = Vec::new();
    for role in &after.roles {
        let known = before.roles.iter().find(|known| known.name == role.name).map_or(0, |known| known.ready_replicas);
        let more = usize::try_from(role.ready_replicas.saturating_sub(known)).unwrap_or(0);
        if more == 0 {
            continue;
        }
        let mut ready: Vec<_> = topology
            .live()
            .flat_map(|group| group.live_of(&role.name).map(move |instance| (group.name, instance)))
            .filter(|(_, instance)| instance.is_ready())
            .map(|(group, instance)| (instance.ready_since(), group.to_owned(), instance.id.to_owned()))
            .collect();
        ready.sort_by_key(|(since, ..)| std::cmp::Reverse(*since));
        ready.truncate(more);
        ready.sort_by(|a, b| (&a.1, &a.2).cmp(&(&b.1, &b.2)));
        instances.extend(ready.into_iter().map(|(_, group, role_id)| (group, role_id)));
    }
    of_instances("RoleRunning", "Update", "Running", &instances)
}

/// Of the pods that are deleted.
pub(crate) fn of_deletes(tally: &Tally, draft: &Draft) -> Vec<Event> {
    let story = &draft.story;
    let mut events = Vec::new();
    if !story.groups_removed.is_empty() {
        let message = format!("Removing {}, to come to {}", listed(&story.groups_removed), tally.wanted);
        events.push(event("ScaledDown", "Delete", message));
    }
    if !story.groups_replaced.is_empty() {
        let message = format!(
            "Replacing {}; {} of {} groups are updated",
            listed(&story.groups_replaced),
            tally.updated,
            tally.wanted
        );
        events.push(event("RolloutProgress", "Update", message));
    }
    events.extend(of_instances("RoleDeleting", "Delete", "Deleting", &story.instances_deleted));
    events
}

/// Of the pods that are created.
pub(crate) fn of_builds(pass: &Pass<'_>, tally: &Tally, draft: &Draft) -> Vec<Event> {
    let story = &draft.story;
    let mut events = Vec::new();
    if !story.groups_built.is_empty() {
        let message = format!("Creating {}, to come to {}", listed(&story.groups_built), tally.wanted);
        let reason = if pass.settled { "GroupCreated" } else { "ScaledUp" };
        events.push(event(reason, "Create", message));
    }
    events.extend(of_instances("RoleCreating", "Create", "Creating", &story.instances_built));
    events
}

/// Kthena's sentence for each instance, or one for each role when there are many.
fn of_instances(reason: &'static str, action: &'static str, state: &str, instances: &[(String, String)]) -> Vec<Event> {
    let role = |role_id: &str| role_id.rsplit_once('-').map_or(role_id, |(role, _)| role).to_owned();
    if instances.len() <= INDIVIDUAL {
        let sentence = |(group, role_id): &(String, String)| {
            format!("Role {}/{role_id} in ServingGroup {group} is now {state}", role(role_id))
        };
        return instances.iter().map(|instance| event(reason, action, sentence(instance))).collect();
    }
    let mut by_role: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, role_id) in instances {
        by_role.entry(role(role_id)).or_default().push(names::instance(group, role_id));
    }
    let sentence = |(role, all): (String, Vec<String>)| {
        event(reason, action, format!("{} instances of role {role} are now {state}: {}", all.len(), listed(&all)))
    };
    by_role.into_iter().map(sentence).collect()
}

/// `llm-0, llm-1 and 3 more`.
fn listed(names: &[String]) -> String {
    let text = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn event(reason: &'static str, action: &'static str, message: String) -> Event {
    Event { warning: false, reason, action, message }
}
