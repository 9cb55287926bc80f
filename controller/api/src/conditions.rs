//! Types and reasons of conditions: an interface that scripts and alerts wait for.

/// All groups are ready (Kthena's).
pub const AVAILABLE: &str = "Available";
/// Groups are being built, repaired or scaled (Kthena's).
pub const PROGRESSING: &str = "Progressing";
/// Groups are moving to another revision (Kthena's).
pub const UPDATE_IN_PROGRESS: &str = "UpdateInProgress";
/// kstatus: the object is as its spec says.
pub const READY: &str = "Ready";
/// kstatus: present while work is going on.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: present while something must be mended by a person.
pub const STALLED: &str = "Stalled";

/// Reason of [`AVAILABLE`].
pub const ALL_GROUPS_READY: &str = "AllGroupsReady";
/// Reason of [`PROGRESSING`].
pub const GROUP_PROGRESSING: &str = "GroupProgressing";
/// Reason of [`UPDATE_IN_PROGRESS`].
pub const GROUPS_UPDATING: &str = "GroupsUpdating";
