//! Carries out a plan: step by step, the writes of a step side by side. Decides nothing.
//!
//! Every answer goes into the store, so that the next pass sees it. Pods and revisions are created and never
//! overwritten; services, gangs and statuses are applied with one field manager; deletions carry UIDs.

mod failure;
mod outcome;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use controller_api::pod_group::PodGroup;
use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus};
use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use planning::plan::{ChildKind, Deletion, Step, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::events::Events;
use crate::lease::Fence;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::observe::store::{Child, Key, Store, controller};
pub use failure::Failure;
pub(crate) use outcome::outcome;

/// The field manager of everything that is written: Kthena's, so that its objects are taken over.
pub const FIELD_MANAGER: &str = "kthena-controller-manager";

/// Writes of one pass at a time.
const PARALLEL: usize = 16;
/// Writes of all passes at a time: each needs a connection.
const IN_FLIGHT: usize = 32;
/// The longest that one call may take, the client's own retries included.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// A pass starts no write after this time; the next pass goes on where it ended.
const PASS_DEADLINE: Duration = Duration::from_secs(30);

const NOT_THE_LEADER: &str = "this replica does not lead";

/// Where plans are carried out.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    store: Arc<Store>,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    events: Events,
    fence: Fence,
    in_flight: Arc<Semaphore>,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}

/// The ModelServing whose plan is carried out.
struct Pass<'a> {
    key: &'a Key,
    serving: &'a ModelServing,
    uid: &'a str,
    deadline: Instant,
}

impl Cluster {
    /// The cluster behind `client`; at most as fast as `limiter` allows, and only while `fence` holds.
    #[must_use]
    pub fn new(
        client: Client,
        store: Arc<Store>,
        limiter: Arc<Limiter>,
        metrics: Arc<Metrics>,
        events: Events,
        fence: Fence,
    ) -> Self {
        Self { client, store, limiter, metrics, events, fence, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    /// Carries out the steps of a plan for `serving`.
    ///
    /// # Errors
    /// The worst failure of the first step that was not carried out whole. All that was written stays.
    pub async fn apply(&self, key: &Key, serving: &ModelServing, steps: Vec<Step>) -> Result<(), Failure> {
        let uid = serving.metadata.uid.as_deref().unwrap_or_default();
        let pass = Pass { key, serving, uid, deadline: Instant::now() + PASS_DEADLINE };
        for Step { writes, events } in steps {
            let mut failures = Vec::new();
            let mut running = futures_util::stream::FuturesUnordered::new();
            let mut waiting = writes.into_iter();
            loop {
                while failures.is_empty() && running.len() < PARALLEL {
                    let Some(write) = waiting.next() else { break };
                    if let Err(failure) = self.may_go_on(&pass) {
                        failures.push(failure);
                    } else {
                        running.push(self.carry_out(&pass, write));
                    }
                }
                match running.next().await {
                    Some(Ok(())) => {}
                    Some(Err(failure)) => failures.push(failure),
                    None => break,
                }
            }
            if let Some(worst) = Failure::worst(failures) {
                return Err(worst);
            }
            for event in events {
                self.events.tell(serving, event);
            }
        }
        Ok(())
    }

    /// A plan is for one generation of the spec, a pass ends, and only the leader writes.
    fn may_go_on(&self, pass: &Pass<'_>) -> Result<(), Failure> {
        if !self.fence.holds() {
            return Err(Failure::Soon(NOT_THE_LEADER.to_owned()));
        }
        let generation = pass.serving.metadata.generation.unwrap_or_default();
        if !self.store.servings().is_at(pass.key, pass.uid, generation) {
            return Err(Failure::Outdated);
        }
        if Instant::now() >= pass.deadline { Err(Failure::OutOfTime) } else { Ok(()) }
    }

    async fn carry_out(&self, pass: &Pass<'_>, write: Write) -> Result<(), Failure> {
        match write {
            Write::Status(status) => self.status(pass, &status).await,
            Write::CreateRevision(revision) => self.create(pass, "ControllerRevision", *revision).await,
            Write::CreatePod(pod) => self.create(pass, "Pod", *pod).await,
            Write::ApplyService(service) => self.apply_child(pass, "Service", *service).await,
            Write::ApplyPodGroup(group) => self.apply_child(pass, "PodGroup", *group).await,
            Write::Delete(deletion) => self.delete(pass, &deletion).await,
            Write::RenumberRevision { name, uid, number } => self.renumber(pass, &name, &uid, number).await,
        }
    }

    async fn status(&self, pass: &Pass<'_>, status: &ModelServingStatus) -> Result<(), Failure> {
        let what = "the status";
        let api: Api<ModelServing> = self.api(pass);
        let body = json!({
            "apiVersion": ModelServing::api_version(&()),
            "kind": ModelServing::kind(&()),
            // With its UID: a successor of the same name must not inherit the status.
            "metadata": {"name": &*pass.key.name, "namespace": &*pass.key.namespace, "uid": pass.uid},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let body = Patch::Apply(body);
        let written = self.call("apply", "ModelServing/status", api.patch_status(&pass.key.name, &params, &body)).await;
        match written {
            Ok(serving) => {
                self.store.servings().wrote(serving);
                Ok(())
            }
            // The watch will tell.
            Err(error) if error.is_gone() => Err(Failure::Soon(format!("{what}: the ModelServing is gone"))),
            Err(error) => Err(error.failure(what)),
        }
    }

    async fn create<K: Kind>(&self, pass: &Pass<'_>, kind: &'static str, object: K) -> Result<(), Failure> {
        let api: Api<K> = self.api(pass);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let name = object.name_any();
        match self.call("create", kind, api.create(&params, &object)).await {
            Ok(created) => {
                self.store.wrote(created);
                Ok(())
            }
            // A create that timed out may have come through, and a watch lags.
            Err(error) if error.already_exists() => match self.ours(pass, &api, kind, &name).await? {
                true => Ok(()),
                // It went away in between.
                false => Err(Failure::Soon(format!("{kind} {name} is just being deleted"))),
            },
            Err(error) => Err(error.failure(&format!("{kind} {name}"))),
        }
    }

    async fn apply_child<K: Kind>(&self, pass: &Pass<'_>, kind: &'static str, object: K) -> Result<(), Failure> {
        let api: Api<K> = self.api(pass);
        let name = object.name_any();
        // Server-side apply would take over a foreign object of this name without a word.
        if !self.store.knows::<K>(pass.uid, &name) {
            self.ours(pass, &api, kind, &name).await?;
        }
        let mut object = object;
        object.meta_mut().managed_fields = None;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match self.call("apply", kind, api.patch(&name, &params, &Patch::Apply(&object))).await {
            Ok(applied) => {
                self.store.wrote(applied);
                Ok(())
            }
            Err(error) => Err(error.failure(&format!("{kind} {name}"))),
        }
    }

    /// Whether there is an object of this name, which is then put into the store.
    ///
    /// # Errors
    /// It belongs to somebody else, or the API server does not say.
    async fn ours<K: Kind>(&self, pass: &Pass<'_>, api: &Api<K>, kind: &str, name: &str) -> Result<bool, Failure> {
        let what = || format!("{kind} {name}");
        let Some(found) = self.get(api, kind, name).await? else { return Ok(false) };
        match controller(found.meta()) {
            Some(owner) if owner.uid == pass.uid => {
                self.store.wrote(found);
                Ok(true)
            }
            // A predecessor of the same name: the garbage collector is at it.
            Some(owner) if owner.name == *pass.key.name => {
                Err(Failure::Soon(format!("{} still belongs to the deleted ModelServing of this name", what())))
            }
            _ => Err(Failure::NameTaken { what: what(), owner: failure::owner(found.meta()) }),
        }
    }

    async fn delete(&self, pass: &Pass<'_>, deletion: &Deletion) -> Result<(), Failure> {
        match deletion.kind {
            ChildKind::Pod => self.delete_one::<Pod>(pass, "Pod", deletion).await,
            ChildKind::Service => self.delete_one::<Service>(pass, "Service", deletion).await,
            ChildKind::PodGroup => self.delete_one::<PodGroup>(pass, "PodGroup", deletion).await,
            ChildKind::ControllerRevision => {
                self.delete_one::<ControllerRevision>(pass, "ControllerRevision", deletion).await
            }
        }
    }

    async fn delete_one<K: Kind>(&self, pass: &Pass<'_>, label: &'static str, one: &Deletion) -> Result<(), Failure> {
        let Deletion { kind, name, uid } = one;
        let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        let api: Api<K> = self.api(pass);
        match self.call("delete", label, async { api.delete(name, &params).await.map(drop) }).await {
            Ok(()) => self.store.deleted(*kind, uid),
            Err(error) if error.is_gone() => self.store.lost(*kind, uid),
            // Another object has the name, unless something else was in the way.
            Err(error) if error.is_conflict() => match self.get(&api, label, name).await? {
                Some(found) if found.meta().uid.as_ref() == Some(uid) => {
                    return Err(error.failure(&format!("{label} {name}")));
                }
                _ => self.store.lost(*kind, uid),
            },
            Err(error) => return Err(error.failure(&format!("{label} {name}"))),
        }
        Ok(())
    }

    async fn renumber(&self, pass: &Pass<'_>, name: &str, uid: &str, number: i64) -> Result<(), Failure> {
        let api: Api<ControllerRevision> = self.api(pass);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let body = Patch::Merge(json!({"metadata": {"uid": uid}, "revision": number}));
        match self.call("patch", "ControllerRevision", api.patch(name, &params, &body)).await {
            Ok(revision) => {
                self.store.wrote(revision);
                Ok(())
            }
            Err(error) => Err(error.failure(&format!("ControllerRevision {name}"))),
        }
    }

    /// The API server.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reads the object of this name, if there is one.
    pub(crate) async fn get<K: Clone + Debug + DeserializeOwned>(
        &self,
        api: &Api<K>,
        kind: &str,
        name: &str,
    ) -> Result<Option<K>, Failure> {
        match timeout(CALL_DEADLINE, api.get_opt(name)).await {
            Ok(found) => found.map_err(failure::Refusal::Kube),
            Err(_) => Err(failure::Refusal::NoAnswer),
        }
        .map_err(|error| error.failure(&format!("{kind} {name}")))
    }

    /// One write outside of a plan.
    pub(crate) async fn write<T>(
        &self,
        verb: &'static str,
        kind: &'static str,
        name: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        if !self.fence.holds() {
            return Err(Failure::Soon(NOT_THE_LEADER.to_owned()));
        }
        self.call(verb, kind, call).await.map_err(|error| error.failure(&format!("{kind} {name}")))
    }

    /// Deletes the object if it still has this UID; gone already is a success.
    pub(crate) async fn delete_owned<K: Clone + Debug + DeserializeOwned + Resource>(
        &self,
        api: &Api<K>,
        kind: &'static str,
        name: &str,
        uid: &str,
    ) -> Result<(), Failure> {
        if !self.fence.holds() {
            return Err(Failure::Soon(NOT_THE_LEADER.to_owned()));
        }
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        match self.call("delete", kind, async { api.delete(name, &params).await.map(drop) }).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_gone() => Ok(()),
            // The watch will tell whose the name is now.
            Err(error) => Err(error.failure(&format!("{kind} {name}"))),
        }
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self, pass: &Pass<'_>) -> Api<K> {
        Api::namespaced(self.client.clone(), &pass.key.namespace)
    }

    /// One write: in its turn, within its deadline, counted.
    async fn call<T>(
        &self,
        verb: &'static str,
        kind: &'static str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, failure::Refusal> {
        let _permit = self.in_flight.acquire().await;
        self.limiter.turn().await;
        let answer = match timeout(CALL_DEADLINE, call).await {
            Ok(answer) => answer.map_err(failure::Refusal::Kube),
            Err(_) => Err(failure::Refusal::NoAnswer),
        };
        self.metrics.wrote(verb, kind, answer.as_ref().err().map_or("ok", failure::Refusal::label));
        answer
    }
}

/// An object that we own and write.
trait Kind:
    Child + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Child
        + Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}
