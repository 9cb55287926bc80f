//! Where gangs are scheduled: one control plane and one operator for all tests, and for each test a namespace and
//! nodes of its own, to which its pods are bound and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::Operator;
use tests::poll;
use tokio::sync::OnceCell;

/// From a change until operator, scheduler and nodes have dealt with it, on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// How long a gang is watched for changes that must not be.
const A_WHILE: Duration = Duration::from_secs(3);
/// What the scheduler says of a node that is full.
const NO_ROOM: &str = "Insufficient cpu";
/// What a pod takes, in processors. A node has one more than its pods take, so that the nodes of a rack have in sum
/// what none of them has: the scheduler cannot tell by adding up.
const PROCESSORS: u32 = 2;
/// The label of a test's nodes.
const STAGE: &str = "example.com/stage";
/// The label of the nodes of a rack.
const RACK: &str = "example.com/rack";

struct Cluster {
    plane: ControlPlane,
    operator: Operator,
}

impl Cluster {
    async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED
            .get_or_try_init(async || {
                // The queue may use what all nodes have together. One node that no test's pods are for makes that so
                // much that a gang waits for its nodes only, and never for another test's gang.
                let plane = ControlPlaneOptions::default().with_volcano().with_nodes(1).start().await?;
                let operator = Operator::start(plane.kubeconfig()).await?;
                Ok(Self { plane, operator })
            })
            .await
    }
}

pub(crate) struct Stage {
    cluster: &'static Cluster,
    namespace: Namespace,
}

impl Stage {
    pub(crate) async fn new(label: &str) -> Result<Self> {
        let cluster = Cluster::shared().await?;
        Ok(Self { cluster, namespace: cluster.plane.namespace(label).await? })
    }

    /// A node for so many pods; its full name.
    pub(crate) async fn node(&self, name: &str, pods: u32) -> Result<String> {
        let (stage, name) = (self.namespace.name(), self.full(name));
        self.cluster.plane.create_node(&name, pods * PROCESSORS + 1, &[(STAGE, stage)]).await?;
        Ok(name)
    }

    /// A node in a rack.
    pub(crate) async fn node_in(&self, rack: &str, name: &str, pods: u32) -> Result<String> {
        let (stage, rack, name) = (self.namespace.name(), self.full(rack), self.full(name));
        self.cluster.plane.create_node(&name, pods * PROCESSORS + 1, &[(STAGE, stage), (RACK, &rack)]).await?;
        Ok(name)
    }

    /// A HyperNode of the lowest tier: the nodes that are labelled with the rack, those to come included.
    pub(crate) async fn rack(&self, rack: &str) -> Result<()> {
        let name = self.full(rack);
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("topology.volcano.sh", "v1alpha1", "HyperNode"));
        let racks: Api<DynamicObject> = Api::all_with(self.namespace.client(), &kind);
        let rack = serde_json::from_value(json!({
            "apiVersion": "topology.volcano.sh/v1alpha1", "kind": "HyperNode", "metadata": {"name": name},
            "spec": {
                "tier": 1, "tierName": "rack",
                "members": [{"type": "Node", "selector": {"labelMatch": {"matchLabels": {RACK: name}}}}],
            },
        }))?;
        racks.create(&PostParams::default(), &rack).await.with_context(|| format!("cannot create the rack {name}"))?;
        Ok(())
    }

    fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace.name())
    }

    /// A ModelServing `llm` of so many groups; `more` is merged into `spec.template`.
    pub(crate) async fn create(&self, groups: u32, roles: &[Role], more: Value) -> Result<()> {
        let roles: Vec<Value> = roles.iter().map(|role| role.manifest(self.namespace.name())).collect();
        let mut template = json!({"roles": roles});
        for (key, value) in more.as_object().into_iter().flatten() {
            template[key] = value.clone();
        }
        let serving = json!({
            "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing", "metadata": {"name": "llm"},
            "spec": {"replicas": groups, "schedulerName": "volcano", "template": template},
        });
        let request = http::Request::post(self.namespace.api::<ModelServing>().resource_url())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serving.to_string().into_bytes())?;
        self.namespace.client().request::<Value>(request).await.context("the ModelServing is refused")?;
        Ok(())
    }

    async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.namespace.api::<Pod>().list(&ListParams::default()).await?.items)
    }

    /// The nodes of the pods that are bound, by the pods' names.
    pub(crate) async fn bound(&self) -> Result<BTreeMap<String, String>> {
        let bound = |pod: Pod| Some((pod.metadata.name?, pod.spec?.node_name?));
        Ok(self.pods().await?.into_iter().filter_map(bound).collect())
    }

    /// A PodGroup as it is.
    pub(crate) async fn gang(&self, name: &str) -> Result<Value> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("scheduling.volcano.sh", "v1beta1", "PodGroup"));
        let gangs: Api<DynamicObject> = Api::namespaced_with(self.namespace.client(), self.namespace.name(), &kind);
        Ok(serde_json::to_value(gangs.get(name).await?)?)
    }

    /// Waits until the scheduler says of the gang that it has seen all its `pods`, has looked at our nodes, and will not
    /// bind it: some had a place, and then there was none left.
    pub(crate) async fn wait_refused(&self, gang: &str, pods: u32) -> Result<()> {
        let all = format!("/{pods} tasks in gang unschedulable");
        self.until(&format!("the gang {gang} of {pods} pods to be unschedulable"), async || {
            let gang = self.gang(gang).await.ok()?;
            let refused = |condition: &Value| {
                let message = condition["message"].as_str().unwrap_or_default();
                condition["type"] == "Unschedulable" && message.contains(&all) && message.contains(NO_ROOM)
            };
            gang["status"]["conditions"].as_array()?.iter().any(refused).then_some(())
        })
        .await
    }

    /// Waits until the scheduler says of each of these pods that it is not bound, and of one that its nodes are full.
    pub(crate) async fn wait_no_room(&self, names: &[&str]) -> Result<()> {
        self.until(&format!("no room for {names:?}"), async || {
            let pods = self.pods().await.ok()?;
            let named =
                pods.iter().filter(|pod| pod.metadata.name.as_deref().is_some_and(|name| names.contains(&name)));
            let refusals: Vec<&str> = named.filter_map(refusal).collect();
            let full = refusals.iter().any(|refusal| refusal.contains(NO_ROOM));
            (full && refusals.len() == names.len()).then_some(())
        })
        .await
    }

    /// Waits until exactly so many pods are bound, and says where.
    pub(crate) async fn wait_bound(&self, pods: usize) -> Result<BTreeMap<String, String>> {
        self.until(&format!("{pods} bound pods"), async || {
            let bound = self.bound().await.ok()?;
            (bound.len() == pods).then_some(bound)
        })
        .await
    }

    /// Watches for a while that nobody changes what is wanted of a gang: the scheduler writes into PodGroups too. (Not by
    /// their generation: a PodGroup has no status of its own, so that each of the scheduler's conditions counts there.)
    pub(crate) async fn wait_settled(&self, gang: &str) -> Result<()> {
        let before = self.gang(gang).await?;
        let changed = poll::until("a change", A_WHILE, async || {
            let now = self.gang(gang).await.ok()?;
            (now["spec"] != before["spec"]).then_some(now)
        });
        match changed.await {
            Err(_) => Ok(()),
            Ok(now) => anyhow::bail!("the gang {gang} was {before}, and is {now}"),
        }
    }

    /// Waits until the ModelServing says that so many groups are available.
    pub(crate) async fn wait_available(&self, groups: i32) -> Result<()> {
        let api = self.namespace.api::<ModelServing>();
        self.until(&format!("{groups} available groups"), async || {
            (api.get("llm").await.ok()?.status?.available_replicas == groups).then_some(())
        })
        .await
    }

    /// A failure tells what there is.
    async fn until<T>(&self, what: &str, look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        match poll::until(what, SOON, look).await {
            Ok(seen) => Ok(seen),
            Err(error) => Err(error.context(format!(
                "bound are {:?}; gang: {}; the operator said:\n{}",
                self.bound().await?,
                self.gang("llm-0").await.unwrap_or_default(),
                self.cluster.operator.log()
            ))),
        }
    }
}

/// Why the pod is not bound.
fn refusal(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|found| found.type_ == "PodScheduled" && found.status == "False")?;
    found.message.as_deref()
}

/// A role.
pub(crate) struct Role {
    pub(crate) name: &'static str,
    pub(crate) instances: u32,
    /// Pods of an instance, the entry pod included.
    pub(crate) pods: u32,
}

impl Role {
    fn manifest(&self, stage: &str) -> Value {
        let template = json!({"spec": {
            "nodeSelector": {STAGE: stage},
            "containers": [{"name": "engine", "image": "engine:1", "resources": {"requests": {"cpu": PROCESSORS.to_string()}}}],
        }});
        let workers = self.pods.saturating_sub(1);
        let mut role = json!({
            "name": self.name, "replicas": self.instances, "entryTemplate": template, "workerReplicas": workers,
        });
        if workers > 0 {
            role["workerTemplate"] = template;
        }
        role
    }
}
