//! `leaderworkerset.x-k8s.io/v1` `LeaderWorkerSet`, as far as it is read: SIG Apps owns the kind.

/// The API group.
pub const GROUP: &str = "leaderworkerset.x-k8s.io";
/// The kind.
pub const KIND: &str = "LeaderWorkerSet";

/// Label of a pod: the LeaderWorkerSet.
pub const NAME_LABEL: &str = "leaderworkerset.sigs.k8s.io/name";
/// Label of a pod: its group's number.
pub const GROUP_INDEX_LABEL: &str = "leaderworkerset.sigs.k8s.io/group-index";
/// Label of a pod: its number in the group; 0 is the leader.
pub const WORKER_INDEX_LABEL: &str = "leaderworkerset.sigs.k8s.io/worker-index";
/// Label of a pod: the same for all pods of a group, and for no others.
pub const GROUP_KEY_LABEL: &str = "leaderworkerset.sigs.k8s.io/group-key";

/// Environment of every container: where the leader is reached.
pub const LEADER_ADDRESS_ENV: &str = "LWS_LEADER_ADDRESS";
/// Environment of every container: pods in the group, the leader included.
pub const GROUP_SIZE_ENV: &str = "LWS_GROUP_SIZE";
/// Environment of every container: 0 for the leader.
pub const WORKER_INDEX_ENV: &str = "LWS_WORKER_INDEX";
