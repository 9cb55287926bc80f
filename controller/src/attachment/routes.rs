//! One pass over one ModelRoute.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use controller_api::http_route::HttpRoute;
use controller_api::v1alpha1::model_route::ModelRoute;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use planning::attachment::claims::share_a_name;
use planning::attachment::model_route::{Answer, Around, answer};
use serde_json::json;
use tracing::warn;

use super::{Attachments, named};
use crate::apply::{Cluster, FIELD_MANAGER, Failure, outcome};
use crate::events::Events;
use crate::observe::store::{Key, Read};
use crate::queue::{Outcome, Passes};

/// What makes passes over ModelRoutes.
#[derive(Debug)]
pub struct Routes {
    attachments: Arc<Attachments>,
    cluster: Cluster,
    events: Events,
}

impl Routes {
    /// Passes from what is known to this cluster.
    #[must_use]
    pub fn new(attachments: Arc<Attachments>, cluster: Cluster, events: Events) -> Self {
        Self { attachments, cluster, events }
    }
}

impl Passes for Routes {
    async fn reconcile(&self, key: &Key) -> Outcome {
        let known = &self.attachments;
        let (route, rivals) = {
            let routes = known.routes.lock();
            let route = match routes.get(key) {
                None => return Outcome::Gone,
                Some(Read::Bad { error, .. }) => {
                    warn!(%key, %error, "A ModelRoute cannot be read and is left alone.");
                    return Outcome::Settled;
                }
                Some(Read::Good(route)) => Arc::clone(route),
            };
            let rivals: Vec<_> = routes.good().filter(|other| share_a_name(&route, other)).cloned().collect();
            (route, rivals)
        };
        let servers = known.servers_of(&key.namespace);
        let found: Vec<Arc<HttpRoute>> = {
            let nameless = || HttpRoute::new("", Default::default());
            let routes = known.http_routes.lock();
            routes.of_namespace(&key.namespace).map(|(key, read)| named(read, nameless, key)).collect()
        };
        let served = known.has_http_routes.load(Ordering::Relaxed);
        let around = Around { rivals: &rivals, servers: &servers, served, routes: &found };
        let answer = answer(&route, around, jiff::Timestamp::now());
        if answer == Answer::default() {
            return Outcome::Settled;
        }
        let written = self.write(key, &route, &found, answer).await;
        outcome(&self.events, key, &*route, written)
    }
}

impl Routes {
    async fn write(
        &self,
        key: &Key,
        route: &ModelRoute,
        found: &[Arc<HttpRoute>],
        answer: Answer,
    ) -> Result<(), Failure> {
        let Answer { apply, delete, status, urgent: _, events } = answer;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api: Api<HttpRoute> = Api::namespaced(self.cluster.client(), &key.namespace);
        for mut wanted in apply {
            let name = wanted.metadata.name.clone().unwrap_or_default();
            let before = found.iter().find(|found| found.metadata.name.as_ref() == Some(&name));
            // Server-side apply would take over somebody's new object without a word.
            if before.is_none()
                && let Some(found) = self.cluster.get(&api, "HTTPRoute", &name).await?
            {
                self.attachments.http_routes.lock().wrote(found);
                return Ok(());
            }
            // A successor of the same name is not ours to change.
            wanted.metadata.uid = before.and_then(|before| before.metadata.uid.clone());
            let body = Patch::Apply(&wanted);
            let applied = self.cluster.write("apply", "HTTPRoute", &name, api.patch(&name, &params, &body)).await?;
            self.attachments.http_routes.lock().wrote(applied);
        }
        // What takes the place of these is there.
        for (name, uid) in delete {
            self.cluster.delete_owned(&api, "HTTPRoute", &name, &uid).await?;
            self.attachments.http_routes.lock().lost(&Key::new(&key.namespace, &name), &uid);
        }
        if let Some(status) = status {
            let api: Api<ModelRoute> = Api::namespaced(self.cluster.client(), &key.namespace);
            let body = Patch::Apply(json!({
                "apiVersion": ModelRoute::api_version(&()),
                "kind": ModelRoute::kind(&()),
                "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": route.metadata.uid},
                "status": status,
            }));
            let patch = api.patch_status(&key.name, &params, &body);
            let applied = self.cluster.write("apply", "ModelRoute/status", &key.name, patch).await?;
            self.attachments.routes.lock().wrote(applied);
        }
        for event in events {
            self.events.tell(route, event);
        }
        Ok(())
    }
}
