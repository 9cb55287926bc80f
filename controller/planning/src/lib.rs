//! The operator's brain: what a `ModelServing` asks for and what there is, in; what to write, out.
//!
//! Pure: no I/O, no clock, no chance. The truth is the cluster's objects, so [`plan`](fn@plan) may be asked again at
//! any time, by any process, and says the same; a cluster that is as it should be gives an empty [`Plan`].
//!
//! ```text
//! ModelServing ─> History ─> Lineage ─┐
//! Observed ────────────────> Topology ┼─> groups ─> instances ─> Draft ─> status, steps ──> Plan
//!                                 now ┘     change      recovery, forming
//! ```
//!
//! # The order of the steps
//! A process may end between any two writes; what it leaves behind must lead its successor to the same end.
//! 1. The *revision*, before anything is built from it: a revision without pods harms nobody.
//! 2. The *status*, which says what is meant: which units are being built (so that a pod that is missing is built, not
//!    taken for lost) and which are torn down (so that a tear-down counts once, and building again waits). An intention
//!    that was not carried out is found unfulfilled, and planned again.
//! 3. The *deletes* of pods. They were decided on what there is, and do not need what comes after; behind the creates,
//!    a pod that can never be created (no quota left, refused at admission) would keep a bad revision alive for ever.
//!    A group of which only some pods were deleted is the first choice of the next pass.
//! 4. The *PodGroups*, before their pods: a group whose gang cannot be written gets no pods.
//! 5. *Services and pods*, by fixed names: what exists already is not created twice.
//! 6. What nothing uses any more: *services, PodGroups, revisions*.

pub mod attachment;
mod change;
mod conditions;
mod draft;
#[cfg(test)]
mod examples_tests;
mod forming;
mod gangs;
mod groups;
pub mod history;
mod instances;
pub mod leader_worker_set;
mod limits;
mod lineage;
pub mod names;
pub mod objects;
pub mod observed;
pub mod plan;
pub mod plugins;
mod quantity;
mod recovery;
pub mod revision;
mod services;
mod status;
mod story;
mod topology;
pub mod validation;

use std::collections::BTreeSet;

use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus};
use controller_api::{conditions as words, labels};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::change::Rollout;
use crate::draft::{Draft, Obstacle, Pass};
use crate::forming::Forming;
use crate::limits::Limits;
use crate::lineage::Lineage;
use crate::observed::{Attempt, GangSupport, Observed};
use crate::plan::{Event, Plan, Step, Write};
use crate::recovery::Recoveries;
use crate::revision::{History, Revision, Target, with_scaling_of};
use crate::status::Tally;
use crate::topology::{Topology, View};

/// Revisions that no group uses and that are kept, if the spec does not say how many.
const REVISION_HISTORY_LIMIT: i32 = 10;

/// What to write so that the cluster becomes what `serving` asks for.
///
/// Times in the status are whole seconds, as the API server keeps them.
pub fn plan(serving: &ModelServing, observed: &Observed, now: Timestamp) -> Plan {
    if serving.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let mut obstacles = BTreeSet::new();
    let none = ModelServingStatus::default();
    let status = serving.status.as_ref().unwrap_or(&none);
    let history = History::read(serving, &observed.revisions);
    let (target, known) = target(serving, status, &history, &mut obstacles);
    let plugins = plugins::Chain::new(&serving.spec.plugins)
        .map_err(|error| obstacles.insert(Obstacle::new(words::PLUGIN_FAILED, error.to_string())))
        .ok();
    let lineage = Lineage::new(serving, observed, status, &history, &target.revision);
    let name = serving.metadata.name.as_deref().unwrap_or_default();
    let rollout = Rollout {
        unfinished: status.current_revision.as_ref().is_some_and(|current| *current != target.revision.name),
        // What cannot be built does not replace what there is.
        paused: is_paused(serving) || !known || plugins.is_none(),
    };
    let view = View { serving: name, rollout: limits::rollout_type(serving), paused: rollout.paused };
    let pass = Pass {
        serving,
        name,
        status,
        observed,
        now,
        lineage: &lineage,
        forming: Forming::of(status),
        view,
        policy: serving.spec.recovery_policy.unwrap_or_default(),
        limits: Limits::of_groups(serving),
        rollout,
        settled: serving.metadata.generation == Some(status.observed_generation)
            && status.update_revision.as_ref() == Some(&target.revision.name),
        gang: observed.gangs != GangSupport::Absent && objects::scheduler_name(serving) == objects::VOLCANO,
        plugins: plugins.as_ref().filter(|_| !target.revision.name.is_empty()),
    };
    let topology = Topology::new(view, observed, &lineage);
    let mut draft = Draft::new(Recoveries::new(serving, status, now), obstacles);
    find_unreadable(&history, observed, &mut draft);
    groups::tend(&pass, &topology, &mut draft);
    assemble(&pass, &topology, &history, target, draft)
}

/// What the groups go to. False if a rollback names a revision that there is not: then they stay at the one that they
/// went to before, and nothing is replaced.
fn target(
    serving: &ModelServing,
    status: &ModelServingStatus,
    history: &History,
    obstacles: &mut BTreeSet<Obstacle>,
) -> (Target, bool) {
    let unknown = match history.target(serving) {
        Ok(target) => return (target, true),
        Err(unknown) => unknown,
    };
    obstacles.insert(Obstacle::new(words::UNKNOWN_REVISION, unknown.to_string()));
    let roles = &serving.spec.template.roles;
    let before = status.update_revision.as_deref().and_then(|name| history.find(name));
    let revision = match before.or_else(|| history.by_content(roles)) {
        Some(revision) => Revision { roles: with_scaling_of(&revision.roles, roles), ..revision.clone() },
        // There has never been one: nothing is built.
        None => Revision { name: String::new(), number: 0, roles: roles.clone() },
    };
    (Target { revision, create: None, renumber: None }, false)
}

fn is_paused(serving: &ModelServing) -> bool {
    let field = serving.spec.rollout_strategy.as_ref().and_then(|strategy| strategy.paused).unwrap_or(false);
    let annotation = serving.metadata.annotations.as_ref().and_then(|all| all.get(labels::PAUSED));
    field || annotation.is_some_and(|value| value == "true")
}

/// A revision that cannot be read matters when pods are of it.
fn find_unreadable(history: &History, observed: &Observed, draft: &mut Draft) {
    for unreadable in &history.unreadable {
        if observed.pods.iter().any(|pod| pod.revision == unreadable.name) {
            let message = format!("revision {} cannot be read: {}", unreadable.object, unreadable.reason);
            draft.obstacles.insert(Obstacle::new(words::UNREADABLE_REVISION, message));
        }
    }
}

/// What the last attempt was refused: as long as there is something to write, it stands in the way.
fn refused(pass: &Pass<'_>) -> Option<Obstacle> {
    match &pass.observed.attempt {
        Attempt::Unhindered => None,
        Attempt::Refused { reason, message } => Some(Obstacle::new(reason, message.clone())),
        Attempt::Unknown => {
            let stalled = |condition: &&Condition| {
                condition.type_ == words::STALLED && condition.observed_generation == pass.serving.metadata.generation
            };
            let said = pass.status.conditions.iter().find(stalled)?;
            let reason = [words::NAME_TAKEN, words::WRITE_REFUSED].into_iter().find(|reason| *reason == said.reason)?;
            Some(Obstacle::new(reason, said.message.clone()))
        }
    }
}

/// The draft in the order of the steps.
fn assemble(pass: &Pass<'_>, topology: &Topology<'_>, history: &History, target: Target, mut draft: Draft) -> Plan {
    if target.create.is_some() || draft.writes_anything() {
        draft.obstacles.extend(refused(pass));
    }
    let tally = Tally::of(pass, topology, draft.changing);
    let status = status::status(pass, topology, &tally, &mut draft);
    for deletion in surplus(pass, history, &status) {
        draft.leftovers.push(deletion);
    }
    let mut plan = Plan { wake_at: draft.recoveries.wake_at, ..Plan::default() };

    let number = target.revision.number;
    if let Some(revision) = target.create {
        let object = revision.metadata.name.clone().unwrap_or_default();
        let events = vec![story::of_revision(&object, number, false)];
        add(&mut plan, vec![Write::CreateRevision(Box::new(revision))], events);
    }
    if let Some((name, uid, number)) = target.renumber {
        let events = vec![story::of_revision(&name, number, true)];
        add(&mut plan, vec![Write::RenumberRevision { name, uid, number }], events);
    }
    if status != *pass.status {
        let events = story::of_status(pass, topology, &tally, &draft, &status);
        add(&mut plan, vec![Write::Status(Box::new(status))], events);
    }
    let events = story::of_deletes(&tally, &draft);
    add(&mut plan, draft.deletes.drain(..).map(Write::Delete).collect(), events);
    add(&mut plan, std::mem::take(&mut draft.gangs), Vec::new());
    let events = story::of_builds(pass, &tally, &draft);
    add(&mut plan, std::mem::take(&mut draft.builds), events);
    add(&mut plan, draft.leftovers.into_iter().map(Write::Delete).collect(), Vec::new());
    plan
}

fn add(plan: &mut Plan, writes: Vec<Write>, events: Vec<Event>) {
    if !writes.is_empty() {
        plan.steps.push(Step { writes, events });
    }
}

/// Revisions that no object is of, beyond the history's limit.
fn surplus(pass: &Pass<'_>, history: &History, status: &ModelServingStatus) -> Vec<plan::Deletion> {
    let limit = pass.serving.spec.revision_history_limit.unwrap_or(REVISION_HISTORY_LIMIT);
    let limit = usize::try_from(limit).unwrap_or(0);
    if pass.observed.revisions.len() <= limit {
        return Vec::new();
    }
    let observed = pass.observed;
    let in_use: BTreeSet<&str> = (observed.pods.iter().map(|pod| pod.revision.as_str()))
        .chain(observed.services.iter().map(|service| service.revision.as_str()))
        .chain(observed.pod_groups.iter().map(|group| group.revision.as_str()))
        .chain(status.current_revision.as_deref())
        .chain(status.update_revision.as_deref())
        .collect();
    history.surplus(&in_use, limit)
}

#[cfg(test)]
mod tests;
