//! One pass over one ModelServer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use parking_lot::Mutex;
use planning::attachment::model_server::{Answer, Around, answer};
use planning::attachment::{Settings, picker_endpoints, picker_service};
use serde_json::json;
use tracing::warn;

use super::{Attachments, left_to_settle, named, of_namespace};
use crate::apply::{Cluster, FIELD_MANAGER, Failure, outcome};
use crate::events::Events;
use crate::observe::store::{Key, Read};
use crate::queue::{Outcome, Passes};

/// What makes passes over ModelServers.
#[derive(Debug)]
pub struct Servers {
    attachments: Arc<Attachments>,
    settings: Settings,
    cluster: Cluster,
    events: Events,
    /// When each status was written.
    written: Mutex<HashMap<Key, Instant>>,
}

impl Servers {
    /// Passes from what is known to this cluster.
    #[must_use]
    pub fn new(attachments: Arc<Attachments>, settings: Settings, cluster: Cluster, events: Events) -> Self {
        Self { attachments, settings, cluster, events, written: Mutex::default() }
    }
}

impl Passes for Servers {
    async fn reconcile(&self, key: &Key) -> Outcome {
        let known = &self.attachments;
        let server = match known.servers.lock().get(key) {
            None => {
                self.written.lock().remove(key);
                return Outcome::Gone;
            }
            Some(Read::Bad { error, .. }) => {
                warn!(%key, %error, "A ModelServer cannot be read and is left alone.");
                return Outcome::Settled;
            }
            Some(Read::Good(server)) => Arc::clone(server),
        };
        // Woken when they are listed.
        let Some(pods) = known.endpoints.lock().of(&key.namespace) else { return Outcome::Settled };
        let servers = known.servers_of(&key.namespace);
        let nameless = || InferencePool::new("", Default::default());
        let pool = known.pools.lock().get(key).map(|read| named(read, nameless, key));
        let service = Key::new(self.settings.home(&key.namespace), &self.settings.picker_service);
        let picker = known.pickers.lock().get(&service).map(|read| named(read, Service::default, &service));
        let elsewhere = self.settings.is_elsewhere(&key.namespace);
        let service = match picker_service::name(&key.name) {
            Some(own) => self.service(&Key::new(&key.namespace, &own), picker.is_some() || elsewhere).await,
            None => Ok(None),
        };
        let service = match service {
            Ok(service) => service,
            Err(failure) => return outcome(&self.events, key, &*server, Err(failure)),
        };
        let of_service = |slice: &Arc<EndpointSlice>| {
            let name = service.as_ref().and_then(|service| service.metadata.name.as_deref());
            name.is_some_and(|name| picker_endpoints::is_of(slice, name))
        };
        let mut slices = of_namespace(&known.slices.lock(), &key.namespace);
        slices.retain(of_service);
        let picker_slices: Vec<_> = known.picker_slices.lock().good().cloned().collect();
        let around = Around {
            settings: &self.settings,
            servers: &servers,
            pools: known.has_pools.load(Ordering::Relaxed),
            pool: pool.as_deref(),
            picker: picker.as_deref(),
            picker_slices: &picker_slices,
            service: service.as_deref(),
            slices: &slices,
            pods: &pods,
        };
        let answer = answer(&server, around, jiff::Timestamp::now());
        if answer == Answer::default() {
            return Outcome::Settled;
        }
        if !answer.urgent
            && answer.apply.is_none()
            && answer.delete.is_none()
            && answer.service.is_none()
            && answer.retire.is_none()
            && answer.slices.is_empty()
            && answer.drop_slices.is_empty()
            && let Some(left) = left_to_settle(&self.written, key)
        {
            return Outcome::After(left);
        }
        let written = self.write(key, &server, pool.as_deref(), service.as_deref(), answer).await;
        outcome(&self.events, key, &*server, written)
    }
}

impl Servers {
    /// The Service of this name. Only our own are watched, and server-side apply would take over somebody's new object
    /// without a word; others are asked for where that may be needed.
    async fn service(&self, key: &Key, needed: bool) -> Result<Option<Arc<Service>>, Failure> {
        if let Some(read) = self.attachments.services.lock().get(key) {
            return Ok(Some(named(read, Service::default, key)));
        }
        if !needed {
            return Ok(None);
        }
        let services: Api<Service> = Api::namespaced(self.cluster.client(), &key.namespace);
        Ok(self.cluster.get(&services, "Service", &key.name).await?.map(Arc::new))
    }

    async fn write_slices(
        &self,
        key: &Key,
        slices: Vec<EndpointSlice>,
        dropped: Vec<(String, String)>,
    ) -> Result<(), Failure> {
        const KIND: &str = "EndpointSlice";
        let api: Api<EndpointSlice> = Api::namespaced(self.cluster.client(), &key.namespace);
        for slice in slices {
            let name = slice.metadata.name.clone().unwrap_or_default();
            let written = match &slice.metadata.uid {
                Some(_) => {
                    let (params, body) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&slice));
                    self.cluster.write("apply", KIND, &name, api.patch(&name, &params, &body)).await?
                }
                None => {
                    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                    self.cluster.write("create", KIND, &name, api.create(&params, &slice)).await?
                }
            };
            self.attachments.slices.lock().wrote(written);
        }
        for (name, uid) in dropped {
            self.cluster.delete_owned(&api, KIND, &name, &uid).await?;
            self.attachments.slices.lock().lost(&Key::new(&key.namespace, &name), &uid);
        }
        Ok(())
    }

    async fn write(
        &self,
        key: &Key,
        server: &ModelServer,
        pool: Option<&InferencePool>,
        service: Option<&Service>,
        answer: Answer,
    ) -> Result<(), Failure> {
        let Answer { apply, delete, service: wanted, retire, slices, drop_slices, status, urgent: _, events } = answer;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let pools: Api<InferencePool> = Api::namespaced(self.cluster.client(), &key.namespace);
        if let Some(uid) = delete {
            self.cluster.delete_owned(&pools, "InferencePool", &key.name, &uid).await?;
            self.attachments.pools.lock().lost(key, &uid);
        }
        let services: Api<Service> = Api::namespaced(self.cluster.client(), &key.namespace);
        if let Some((name, uid)) = retire {
            self.cluster.delete_owned(&services, "Service", &name, &uid).await?;
            self.attachments.services.lock().lost(&Key::new(&key.namespace, &name), &uid);
        }
        if let Some(mut wanted) = wanted {
            let name = wanted.metadata.name.clone().unwrap_or_default();
            wanted.metadata.uid = service.and_then(|service| service.metadata.uid.clone());
            let body = Patch::Apply(&wanted);
            let applied = self.cluster.write("apply", "Service", &name, services.patch(&name, &params, &body)).await?;
            self.attachments.services.lock().wrote(applied);
        }
        self.write_slices(key, slices, drop_slices).await?;
        if let Some(mut wanted) = apply {
            // Server-side apply would take over somebody's new object without a word.
            if pool.is_none()
                && let Some(found) = self.cluster.get(&pools, "InferencePool", &key.name).await?
            {
                self.attachments.pools.lock().wrote(InferencePool { status: None, ..found });
                return Ok(());
            }
            // A successor of the same name is not ours to change.
            wanted.metadata.uid = pool.and_then(|pool| pool.metadata.uid.clone());
            let body = Patch::Apply(&wanted);
            let patch = pools.patch(&key.name, &params, &body);
            let applied = self.cluster.write("apply", "InferencePool", &key.name, patch).await?;
            self.attachments.pools.lock().wrote(InferencePool { status: None, ..applied });
        }
        if let Some(status) = status {
            let api: Api<ModelServer> = Api::namespaced(self.cluster.client(), &key.namespace);
            let body = Patch::Apply(json!({
                "apiVersion": ModelServer::api_version(&()),
                "kind": ModelServer::kind(&()),
                "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": server.metadata.uid},
                "status": status,
            }));
            let patch = api.patch_status(&key.name, &params, &body);
            let applied = self.cluster.write("apply", "ModelServer/status", &key.name, patch).await?;
            self.attachments.servers.lock().wrote(applied);
            self.written.lock().insert(key.clone(), Instant::now());
        }
        for event in events {
            self.events.tell(server, event);
        }
        Ok(())
    }
}
