//! Which of several alike parts are built, removed and replaced: the groups of a ModelServing, or the instances of a
//! role in a group.
//!
//! *Scaling* takes the lowest free numbers, and removes first what is half torn down (so that a removal that was cut
//! short goes on, and never takes one part too many), then what is not ready, then the cheapest, then the highest
//! number; what the partition protects goes last.
//!
//! *Replacing* what is outdated costs nothing where the part is not ready anyway: such parts go at once, so a bad
//! update can always be repaired. A ready part goes only while at least `replicas - maxUnavailable` stay ready, new
//! ones and those in excess counted; an update that does not become ready therefore stops by itself.
//!
//! *Surge*: while outdated parts remain, up to `maxSurge` parts are built above `replicas`, at the lowest free
//! numbers, which then are the highest; they go when all others are new and ready.

use std::collections::BTreeSet;

use crate::limits::Limits;

/// A part with a live pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its ordinal or index.
    pub(crate) number: u32,
    /// It is of another revision than the one to go to.
    pub(crate) outdated: bool,
    /// It has lost pods: its removal began, or it waits for its repair.
    pub(crate) torn: bool,
    /// All its pods are ready.
    pub(crate) ready: bool,
    /// What deleting its pods costs.
    pub(crate) cost: i64,
}

/// Whether parts are moving to another revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rollout {
    /// The last one has not come to its end.
    pub(crate) unfinished: bool,
    /// It is held: nothing is replaced, nothing in excess is built.
    pub(crate) paused: bool,
}

/// What is to be done, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// To build, as soon as nothing of them is left.
    pub(crate) build: Vec<u32>,
    /// To remove: there are too many.
    pub(crate) remove: BTreeSet<u32>,
    /// To tear down because they are outdated; a later pass builds them again.
    pub(crate) replace: BTreeSet<u32>,
}

/// What to do with `parts`, which are in the order of their numbers.
pub(crate) fn change(parts: &[Part], limits: &Limits, rollout: Rollout) -> Change {
    let protected = |part: &Part| part.number < limits.partition;
    let outdated = parts.iter().filter(|part| part.outdated && !protected(part)).count();
    let unready = parts.iter().filter(|part| !part.outdated && !part.ready && !protected(part)).count();
    let replicas = limits.replicas as usize;
    let below = parts.iter().filter(|part| part.number < limits.replicas).count();
    // Numbers that are free because their parts were replaced while others, above, stand in for them.
    let holes = if parts.len() == replicas { replicas - below } else { 0 };

    let surge = if rollout.unfinished || outdated > 0 { limits.max_surge as usize } else { 0 };
    let least = if rollout.paused { replicas } else { replicas + surge.min(outdated + holes) };
    let most = if outdated + unready + holes > 0 { replicas + surge } else { replicas };

    let mut change = Change::default();
    if parts.len() < least {
        change.build = free_numbers(parts).take(least - parts.len()).collect();
    }
    if parts.len() > most {
        let mut order: Vec<&Part> = parts.iter().collect();
        order.sort_by_key(|part| (protected(part), !part.torn, part.ready, part.cost, std::cmp::Reverse(part.number)));
        change.remove = order.iter().take(parts.len() - most).map(|part| part.number).collect();
    }
    if !rollout.paused {
        let stay = parts.iter().filter(|part| !change.remove.contains(&part.number));
        change.replace = replaced(stay, limits);
    }
    change
}

fn replaced<'a>(parts: impl Iterator<Item = &'a Part> + Clone, limits: &Limits) -> BTreeSet<u32> {
    let mut ready = parts.clone().filter(|part| part.ready).count();
    let fewest = limits.replicas.saturating_sub(limits.max_unavailable) as usize;
    let mut outdated: Vec<&Part> = parts.filter(|part| part.outdated && part.number >= limits.partition).collect();
    outdated.sort_by_key(|part| (part.ready, std::cmp::Reverse(part.number)));
    let mut replaced = BTreeSet::new();
    for part in outdated {
        if part.ready {
            if ready <= fewest {
                break;
            }
            ready -= 1;
        }
        replaced.insert(part.number);
    }
    replaced
}

/// The numbers that no part has, lowest first.
fn free_numbers(parts: &[Part]) -> impl Iterator<Item = u32> {
    let taken: BTreeSet<u32> = parts.iter().map(|part| part.number).collect();
    (0..).filter(move |number| !taken.contains(number))
}
