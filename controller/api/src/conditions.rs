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

/// The gateways get the object that a ModelServer or a ModelRoute asks for (as in the Gateway API).
pub const ACCEPTED: &str = "Accepted";
/// Everything that the object names is there (as in the Gateway API).
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// A ModelServer has endpoints that can be picked.
pub const ENDPOINTS_READY: &str = "EndpointsReady";
/// The gateways take the HTTPRoutes that a ModelRoute became, and find what these lead to.
pub const ACCEPTED_BY_GATEWAYS: &str = "AcceptedByGateways";

/// Reason of [`ACCEPTED`], true: an older ModelServer selects the same pods, and its InferencePool serves for both.
pub const SHARES_POOL: &str = "SharesPool";
/// Reason of [`ACCEPTED`], true: no Gateway is named, so that pickers alone resolve the ModelRoute.
pub const RESOLVED_BY_PICKER: &str = "ResolvedByPicker";
/// Reason of [`ACCEPTED`], true: the gateway cannot match all rules, or an older ModelRoute has some of the names.
pub const PARTIALLY_ACCEPTED: &str = "PartiallyAccepted";
/// Reason of [`ACCEPTED`], false: somebody else's object has the name.
pub const NAME_CLASH: &str = "NameClash";
/// Reason of [`ACCEPTED`], false: the spec asks for what an InferencePool or an HTTPRoute cannot be.
pub const INVALID: &str = "Invalid";
/// Reason of [`ACCEPTED`], false: the cluster does not serve a kind.
pub const KIND_MISSING: &str = "KindMissing";
/// Reason of [`ACCEPTED`], false: older ModelRoutes have all the names.
pub const CONFLICTED: &str = "Conflicted";
/// Reason of [`ACCEPTED`], false: a gateway can match no rule.
pub const NOT_MATCHABLE: &str = "NotMatchable";
/// Reason of [`RESOLVED_REFS`], false: there is no Service of the picker, or it has not that port.
pub const PICKER_NOT_FOUND: &str = "PickerNotFound";
/// Reason of [`RESOLVED_REFS`], false: a target ModelServer is not there.
pub const MODEL_SERVER_NOT_FOUND: &str = "ModelServerNotFound";
/// Reason of [`ENDPOINTS_READY`], false: the selector selects no pod.
pub const NO_ENDPOINTS: &str = "NoEndpoints";
/// Reason of [`ENDPOINTS_READY`], false: pods are there, and none is ready.
pub const NONE_READY: &str = "NoneReady";
/// Reason of [`ACCEPTED_BY_GATEWAYS`], false: a gateway does not take an HTTPRoute, or not what it leads to.
pub const REFUSED_BY_GATEWAY: &str = "RefusedByGateway";
/// Reason of [`ACCEPTED_BY_GATEWAYS`], false: a gateway has said nothing yet about an HTTPRoute as it is.
pub const GATEWAY_PENDING: &str = "GatewayPending";
