//! What to write, as a value.

use controller_api::pod_group::PodGroup;
use controller_api::v1alpha1::model_serving::ModelServingStatus;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};

/// What to write, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Carried out one after another; the next one only when all writes of the one before succeeded.
    pub steps: Vec<Step>,
    /// When to plan again although nothing changed: a grace period, a back-off.
    pub wake_at: Option<Timestamp>,
}

/// Writes that do not depend on each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Carried out in parallel.
    pub writes: Vec<Write>,
    /// Told when all writes succeeded.
    pub events: Vec<Event>,
}

/// One call to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The whole status.
    Status(Box<ModelServingStatus>),
    /// Created, never changed.
    CreateRevision(Box<ControllerRevision>),
    /// Created, never changed; a pod of that name that is ours already is a success.
    CreatePod(Box<Pod>),
    /// Server-side apply.
    ApplyService(Box<Service>),
    /// Server-side apply.
    ApplyPodGroup(Box<PodGroup>),
    /// Deleted if it still has this UID; gone already is a success.
    Delete(Deletion),
    /// The number of a revision that is used again: merge patch of `.revision`.
    RenumberRevision {
        /// The ControllerRevision.
        name: String,
        /// Its UID.
        uid: String,
        /// Its new number.
        number: i64,
    },
}

/// What is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// The UID that it must still have.
    pub uid: String,
}

/// The kinds that a ModelServing owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `scheduling.volcano.sh/v1beta1` PodGroup.
    PodGroup,
    /// `apps/v1` ControllerRevision.
    ControllerRevision,
}

/// Something that a person wants to know; shown by `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// A person should look.
    pub warning: bool,
    /// CamelCase; an interface.
    pub reason: &'static str,
    /// What was done: `Create`, `Delete`, `Update`, `Recover`.
    pub action: &'static str,
    /// A sentence.
    pub message: String,
}
