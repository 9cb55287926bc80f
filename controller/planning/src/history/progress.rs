//! How far a rollout is.

use controller_api::conditions::{READY, STALLED};
use controller_api::v1alpha1::model_serving::ModelServing;

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything is as the spec says.
    Complete(String),
    /// It goes on.
    Going(String),
    /// Nothing will happen until a person does something.
    Held(String),
}

impl Progress {
    /// For a person.
    pub fn message(&self) -> &str {
        match self {
            Self::Complete(message) | Self::Going(message) | Self::Held(message) => message,
        }
    }
}

/// How far `serving` is, from its status.
pub fn progress(serving: &ModelServing) -> Progress {
    let name = serving.metadata.name.as_deref().unwrap_or_default();
    let none = Default::default();
    let status = serving.status.as_ref().unwrap_or(&none);
    if status.observed_generation < serving.metadata.generation.unwrap_or(0) {
        return Progress::Going(format!("waiting for the operator to see the change of {name}"));
    }
    let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    if let Some(stalled) = condition(STALLED).filter(|stalled| stalled.status == "True") {
        return Progress::Held(format!("{name} is stalled: {}", stalled.message));
    }
    let wanted = serving.spec.replicas.unwrap_or(1);
    let (updated, ready) = (status.updated_replicas, status.available_replicas);
    let as_it_should = condition(READY).map(|ready| ready.status == "True");
    // An operator that does not know that condition counts.
    if as_it_should.unwrap_or(status.replicas == wanted && updated >= wanted && ready >= wanted) {
        return Progress::Complete(format!(
            "{name} is rolled out: {ready} of {wanted} groups are ready, {updated} updated"
        ));
    }
    let counts = format!("{updated} of {wanted} groups are updated, {ready} ready");
    if crate::is_paused(serving) && updated < wanted {
        return Progress::Held(format!("{name} is paused: {counts}; resume it with kthena rollout resume {name}"));
    }
    if updated < wanted {
        return Progress::Going(format!("{name}: {counts}"));
    }
    if status.replicas > wanted {
        let extra = status.replicas - wanted;
        return Progress::Going(format!("{name}: {counts}; {extra} to remove"));
    }
    Progress::Going(format!("{name}: {ready} of {wanted} groups are ready"))
}
