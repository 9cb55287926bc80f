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

/// Reason of [`READY`], true: all groups are ready, and none is left to update.
pub const AS_SPECIFIED: &str = "AsSpecified";
/// Reason of a condition that is false while [`AVAILABLE`] or [`READY`] lacks groups.
pub const GROUPS_NOT_READY: &str = "GroupsNotReady";
/// Reason of [`READY`], false, and of [`UPDATE_IN_PROGRESS`]: groups are left to update, and the rollout is held.
pub const ROLLOUT_PAUSED: &str = "RolloutPaused";
/// Reason of [`STALLED`]: a rollback names a revision that there is not.
pub const UNKNOWN_REVISION: &str = "UnknownRevision";
/// Reason of [`STALLED`]: a revision that is in use cannot be read.
pub const UNREADABLE_REVISION: &str = "UnreadableRevision";
/// Reason of [`STALLED`]: a plugin cannot be used or could not do its work.
pub const PLUGIN_FAILED: &str = "PluginFailed";
/// Reason of [`STALLED`]: something else has the name of an object that is needed.
pub const NAME_TAKEN: &str = "NameTaken";
/// Reason of [`STALLED`]: the API server refuses a write, and will until somebody changes something: a quota, a right.
pub const WRITE_REFUSED: &str = "WriteRefused";
