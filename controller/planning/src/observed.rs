//! What there is, reduced to what a plan depends on: a fleet of 10,000 pods must fit in little memory.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;

/// The children of one ModelServing, all of them controlled by it (owner UID), terminating ones included; and what
/// the cluster can do.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By name.
    pub pods: Vec<Arc<PodFacts>>,
    /// By name.
    pub services: Vec<Arc<ServiceFacts>>,
    /// By name.
    pub pod_groups: Vec<Arc<PodGroupFacts>>,
    /// By name.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Whether gangs can be asked for.
    pub gangs: GangSupport,
    /// How the last plan for this generation of the spec fared.
    pub attempt: Attempt,
}

/// How the last plan for a generation of the spec fared. All that a plan depends on and that no object says for sure:
/// so it is not lost with the process, it is in the status as `Stalled` too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attempt {
    /// This process has carried none out yet: what the status says of it holds.
    #[default]
    Unknown,
    /// Nothing stood in its way, or the spec is new.
    Unhindered,
    /// A write was refused, and will be until a person changes something.
    Refused {
        /// [`NAME_TAKEN`](controller_api::conditions::NAME_TAKEN) or
        /// [`WRITE_REFUSED`](controller_api::conditions::WRITE_REFUSED).
        reason: &'static str,
        /// For a person: what was refused, and why.
        message: String,
    },
}

/// Which of Volcano's `PodGroup` fields the cluster knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GangSupport {
    /// There is no such kind: no gangs, pods are created without.
    #[default]
    Absent,
    /// Gangs of groups (before Volcano 1.14).
    Groups,
    /// Gangs of groups, and of role instances within them (`subGroupPolicy`).
    SubGroups,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Label `group-name`.
    pub group: String,
    /// Label `role`.
    pub role: String,
    /// Label `role-id`.
    pub role_id: String,
    /// Label `revision`.
    pub revision: String,
    /// Label `role-template-hash`; empty on pods of Kthena v0.3.
    pub role_template_hash: String,
    /// What deleting it costs.
    pub deletion_cost: i64,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It has a deletion timestamp.
    pub terminating: bool,
    /// How it fares.
    pub health: PodHealth,
    /// Since when it is ready, if it is.
    pub ready_since: Option<Timestamp>,
}

/// How a pod fares.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PodHealth {
    /// Running, its Ready condition true.
    Ready,
    /// None of the others: not scheduled, starting, or not ready for a while.
    #[default]
    NotReady,
    /// Phase Failed, or a container restarted and the pod is not ready since.
    Failed {
        /// When it stopped being healthy, from its own status; its creation if nothing says more.
        since: Option<Timestamp>,
        /// For a person: `OOMKilled (exit code 137)`, `Evicted`.
        reason: String,
        /// Phase Failed: the kubelet will not start it again.
        ended: bool,
    },
    /// Phase Succeeded: it will not come back by itself.
    Finished,
}

/// A headless service of a role instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Label `group-name`.
    pub group: String,
    /// Label `role`.
    pub role: String,
    /// Label `role-id`.
    pub role_id: String,
    /// Label `revision`; empty on services of Kthena.
    pub revision: String,
    /// It has a deletion timestamp.
    pub terminating: bool,
    /// A fingerprint of what a plan sets on it (labels, selector, `clusterIP`, `publishNotReadyAddresses`), as
    /// [`crate::objects::service_fingerprint`] computes it: a difference is repaired.
    pub fingerprint: u64,
}

/// A gang.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodGroupFacts {
    /// Its name, which is the group's.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Label `revision`; empty on PodGroups of Kthena.
    pub revision: String,
    /// It has a deletion timestamp.
    pub terminating: bool,
    /// A fingerprint of what a plan sets on it, as [`crate::objects::pod_group_fingerprint`] computes it.
    pub fingerprint: u64,
}
