//! The fleet from a Kubernetes cluster: pods, InferencePools, ModelServers and ModelRoutes are watched.
//!
//! Reads only. An API server that cannot be reached changes nothing: what was last seen stays in use, and the watches
//! try again for ever, ever more slowly. An object that says something which cannot be is left out, aloud; the
//! others count.

mod mirror;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::{model_route::ModelRoute, model_server::ModelServer};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use scheduling::Event;
use tokio::sync::Notify;
use tower::limit::RateLimitLayer;
use tracing::{info, warn};

use crate::declarations::Declarations;
use crate::fleet::Fleet;
use crate::health::Readiness;
use crate::resources::{InvalidResource, Resources, declare_all};

use mirror::Mirror;

/// Changes that come within this time are taken together: a rollout changes many pods at once.
const SETTLE: Duration = Duration::from_millis(50);

/// Requests per second and in a burst where the flags say 0: a picker only lists and watches.
const QPS: f32 = 20.0;
const BURST: u32 = 40;

/// Follows a cluster.
#[derive(Debug)]
pub struct Cluster {
    changed: Arc<Notify>,
    pods: Mirror<Pod>,
    pools: Mirror<InferencePool>,
    servers: Mirror<ModelServer>,
    routes: Mirror<ModelRoute>,
    declarations: Arc<Declarations>,
    told: BTreeSet<String>,
}

impl Cluster {
    /// A client for the cluster of `kubeconfig`, or for the one around this pod; of one namespace's objects, or of
    /// all. Nothing is asked of it yet.
    ///
    /// # Errors
    /// A kubeconfig that cannot be used, or none where there is no cluster around either.
    pub async fn connect(
        kubeconfig: Option<&Path>,
        namespace: Option<&str>,
        qps: f32,
        burst: u32,
    ) -> anyhow::Result<Self> {
        let config = match kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).context("--kubeconfig")?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .context("--kubeconfig")?
            }
            None => Config::incluster().context(
                "neither --config-dir nor --kubeconfig is given, and the process is not in a pod with a service account",
            )?,
        };
        let (qps, burst) = (if qps > 0.0 { qps } else { QPS }, if burst > 0 { burst } else { BURST });
        let limit = RateLimitLayer::new(u64::from(burst), Duration::from_secs_f32(burst as f32 / qps));
        let client = kube::client::ClientBuilder::try_from(config)?.with_layer(&limit).build();
        Ok(Self::of(&client, namespace))
    }

    fn of(client: &Client, namespace: Option<&str>) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            pods: Mirror::new(client, namespace, &changed, slim),
            pools: Mirror::new(client, namespace, &changed, |_| {}),
            servers: Mirror::new(client, namespace, &changed, |_| {}),
            routes: Mirror::new(client, namespace, &changed, |_| {}),
            changed,
            declarations: Arc::default(),
            told: BTreeSet::new(),
        }
    }

    /// What is in use.
    #[must_use]
    pub fn declarations(&self) -> Arc<Declarations> {
        Arc::clone(&self.declarations)
    }

    /// Watches for ever. `failed` is called for each object that is newly left out.
    pub async fn follow(mut self, fleet: Arc<Fleet>, readiness: Readiness, failed: Arc<dyn Fn() + Send + Sync>) {
        let watches = futures_util::future::join4(
            self.pods.watch(),
            self.pools.watch(),
            self.servers.watch(),
            self.routes.watch(),
        );
        let declare = async move {
            loop {
                self.changed.notified().await;
                tokio::time::sleep(SETTLE).await;
                if self.synced() {
                    self.take(&fleet, &*failed);
                    readiness.fleet_known();
                }
            }
        };
        tokio::select! {
            () = declare => {}
            _ = watches => {}
        }
    }

    /// Whether every kind was listed, or is not there to be listed.
    fn synced(&self) -> bool {
        let Self { changed: _, pods, pools, servers, routes, declarations: _, told: _ } = self;
        pods.known() && pools.known() && servers.known() && routes.known()
    }

    fn take(&mut self, fleet: &Fleet, failed: &dyn Fn()) {
        let resources = Resources {
            pods: self.pods.objects(),
            inference_pools: self.pools.objects(),
            model_servers: self.servers.objects(),
            model_routes: self.routes.objects(),
        };
        let (declared, invalid) = declare_all(&resources);
        let unread = [self.pods.invalid(), self.pools.invalid(), self.servers.invalid(), self.routes.invalid()];
        let errors: BTreeSet<String> =
            invalid.iter().map(InvalidResource::to_string).chain(unread.into_iter().flatten()).collect();
        for error in errors.difference(&self.told) {
            warn!(error, "Leaving out an object that cannot be used.");
            failed();
        }
        let endpoints: usize = declared.pools.iter().map(|pool| pool.endpoints.len()).sum();
        let pools = declared.pools.len();
        fleet.apply(Event::Declared(declared));
        let error = (!errors.is_empty()).then(|| errors.iter().map(String::as_str).collect::<Vec<_>>().join("; "));
        self.told = errors;
        if self.declarations.accept(resources, error) == 1 {
            info!(pools, endpoints, "The cluster's state is known.");
        }
    }
}

/// Keeps what is read: of thousands of pods the rest is most of the memory.
fn slim(pod: &mut Pod) {
    let metadata = std::mem::take(&mut pod.metadata);
    pod.metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        labels: metadata.labels,
        deletion_timestamp: metadata.deletion_timestamp,
        ..ObjectMeta::default()
    };
    let node_name = pod.spec.take().and_then(|spec| spec.node_name);
    pod.spec = Some(PodSpec { node_name, ..PodSpec::default() });
    let status = pod.status.take().unwrap_or_default();
    let conditions =
        status.conditions.map(|conditions| conditions.into_iter().filter(|it| it.type_ == "Ready").collect());
    pod.status = Some(PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        start_time: status.start_time,
        conditions,
        ..PodStatus::default()
    });
}
