//! Keys of labels and annotations, and names of environment variables: Kthena's, so that its users' selectors hold.

/// The ModelServing that an object belongs to.
pub const NAME: &str = "modelserving.volcano.sh/name";
/// The serving group, `<serving>-<ordinal>`.
pub const GROUP_NAME: &str = "modelserving.volcano.sh/group-name";
/// The role.
pub const ROLE: &str = "modelserving.volcano.sh/role";
/// The role instance, `<role>-<index>`.
pub const ROLE_ID: &str = "modelserving.volcano.sh/role-id";
/// `true` on the entry pod of a role instance.
pub const ENTRY: &str = "modelserving.volcano.sh/entry";
/// The revision that an object was built from.
pub const REVISION: &str = "modelserving.volcano.sh/revision";
/// The hash of the role's template that a pod was built from.
pub const ROLE_TEMPLATE_HASH: &str = "modelserving.volcano.sh/role-template-hash";

/// Annotation of a ModelServing: Volcano's queue for its gangs.
pub const QUEUE_NAME: &str = "scheduling.volcano.sh/queue-name";
/// Annotation of a ModelServing: `true` holds its rollout, as `spec.rolloutStrategy.paused` does.
pub const PAUSED: &str = "modelserving.volcano.sh/paused";
/// Annotation of a ModelServing: the revision to serve in place of the template, by number or name, as
/// `spec.rolloutStrategy.rollbackTo` does.
pub const ROLLBACK_TO: &str = "modelserving.volcano.sh/rollback-to";
/// Annotation of a ModelServing, copied to its newest revision: why the change was made.
pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotation of a ModelServing: `LeaderReady` creates the workers of a role instance only when its entry pod is ready.
pub const STARTUP_POLICY: &str = "modelserving.volcano.sh/startup-policy";
/// Annotation of a pod: what deleting it costs; the cheapest go first.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Annotation of a pod and a PodGroup: the gang.
pub const GANG_GROUP_NAME: &str = "scheduling.k8s.io/group-name";
/// Annotation of a PodGroup: the tiers that its topologies name, as `group=rack,role=host`.
pub const TIER_NAMES: &str = "modelserving.volcano.sh/tier-names";
/// Annotation of a pod: its task within the gang.
pub const GANG_TASK: &str = "volcano.sh/task-spec";

/// The picker's Service, on the Service of a single pool that leads to the same pods.
pub const PICKER_SERVICE: &str = "networking.serving.volcano.sh/picker-service";
/// Label of an EndpointSlice: the Service that it is of (Kubernetes').
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of an EndpointSlice: who keeps it (Kubernetes').
pub const ENDPOINTS_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`ENDPOINTS_MANAGED_BY`] on those that we make.
pub const ENDPOINTS_MANAGER: &str = "kthena-controller-manager";
/// Label of Endpoints: Kubernetes makes no EndpointSlices of them (Kubernetes').
pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of a ModelServer: `FailOpen` or `FailClose`, in place of the operator's flag.
pub const FAILURE_MODE: &str = "networking.serving.volcano.sh/failure-mode";
/// Annotation of a ModelServer: how many ports each pod serves, from `workloadPort.port` upwards; 1 to 8.
pub const DATA_PARALLEL_RANKS: &str = "networking.serving.volcano.sh/data-parallel-ranks";

/// Annotation of an InferencePool behind plain Envoy Gateway: how the picker sees bodies; `full-duplex`, `buffered`,
/// `on-demand`.
pub const REQUEST_BODY_MODE: &str = "networking.serving.volcano.sh/request-body-mode";

/// Environment of every container: the address of the instance's entry pod.
pub const ENTRY_ADDRESS: &str = "ENTRY_ADDRESS";
/// Environment of every container: 0 for the entry pod, `k` for worker `k`.
pub const WORKER_INDEX: &str = "WORKER_INDEX";
/// Environment of every container: pods in the role instance.
pub const GROUP_SIZE: &str = "GROUP_SIZE";
