//! Watches, turned into facts: filtered by label on the server, reduced at once, kept in the [`store`].

pub mod store;
pub mod tolerant;

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use controller_api::labels;
use controller_api::leader_worker_set::LeaderWorkerSet;
use controller_api::pod_group::PodGroup;
use controller_api::v1alpha1::model_serving::ModelServing;
use futures_util::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::attachment::Attachments;
use crate::leader_worker_sets::LeaderWorkerSets;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::readiness::Readiness;
use store::{Child, Store, Told};
use tolerant::Tolerant;

/// Objects per page of a list: what is parsed at a time is garbage a moment later.
const PAGE: u32 = 200;
/// Between two tries to list or watch: what happens meanwhile is not seen.
const RETRY: Duration = Duration::from_secs(1);

/// Everything a watch needs to know.
#[derive(Clone)]
pub struct Observer {
    /// The API server.
    pub client: Client,
    /// Where facts go.
    pub store: Arc<Store>,
    /// Whom they may wake.
    pub queue: Arc<Queue>,
    /// Who waits for the first lists.
    pub readiness: Arc<Readiness>,
    /// Who hears of ModelServings.
    pub sets: Arc<LeaderWorkerSets>,
    /// Where ModelServers, ModelRoutes and what they depend on go.
    pub attachments: Arc<Attachments>,
    /// Where failures are counted.
    pub metrics: Arc<Metrics>,
}

impl Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl Observer {
    /// Watches the ModelServings. Never ends.
    pub async fn servings(self) {
        let Self { store, queue, sets, .. } = &self;
        let api = Api::<Tolerant<ModelServing>>::all(self.client.clone());
        let tell = |told| {
            let keys = store.servings().tell(told);
            sets.served(&keys);
            queue.wake(keys);
        };
        self.follow(api, "ModelServing", watcher::Config::default(), tell).await;
    }

    /// Watches the children of a kind that carry `label`. Never ends.
    pub async fn children<K>(self, kind: &'static str, label: &'static str)
    where
        K: Child + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let Self { store, queue, .. } = &self;
        let api = Api::<K>::all(self.client.clone());
        self.follow(api, kind, labelled(label), |told| queue.wake(store.tell(told))).await;
    }

    /// Watches the gangs. Never ends; their kind may, though: drop it then.
    pub async fn pod_groups(self) {
        let Self { store, queue, .. } = &self;
        let api = Api::<Tolerant<PodGroup>>::all(self.client.clone());
        let tell = |told| {
            let Some(told) = readable(told) else { return };
            queue.wake(store.tell::<PodGroup>(told));
        };
        self.follow(api, "PodGroup", labelled(labels::GROUP_NAME), tell).await;
    }

    /// Watches the LeaderWorkerSets. Never ends; their kind may, though: drop it then.
    pub async fn leader_worker_sets(self) {
        let api = Api::<Tolerant<LeaderWorkerSet>>::all(self.client.clone());
        self.follow(api, "LeaderWorkerSet", watcher::Config::default(), |told| self.sets.tell(told)).await;
    }

    /// Watches the objects of a kind that `config` selects. Never ends.
    pub(crate) async fn follow<K>(
        &self,
        api: Api<K>,
        kind: &'static str,
        config: watcher::Config,
        mut tell: impl FnMut(Told<K>),
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut events = pin!(watcher(api, config.page_size(PAGE)));
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if failing && !matches!(event, Event::Init) {
                        failing = false;
                        info!(kind, "The watch works again.");
                    }
                    let listed = matches!(event, Event::InitDone);
                    tell(told(event));
                    if listed {
                        self.readiness.reached(kind);
                    }
                }
                Err(error) => {
                    self.metrics.watch_failed(kind);
                    let error = advice(&error);
                    if !failing {
                        warn!(kind, %error, "The watch failed; it is tried again.");
                    }
                    failing = true;
                    self.readiness.waits(kind, error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn labelled(label: &str) -> watcher::Config {
    watcher::Config::default().labels(label)
}

fn told<K>(event: Event<K>) -> Told<K> {
    match event {
        Event::Init => Told::ListBegins,
        Event::InitApply(object) => Told::Listed(object),
        Event::InitDone => Told::ListEnds,
        Event::Apply(object) => Told::Changed(object),
        Event::Delete(object) => Told::Gone(object),
    }
}

/// Passes on what reads as its kind.
fn readable<K: Resource>(told: Told<Tolerant<K>>) -> Option<Told<K>> {
    let whole = |object: Tolerant<K>| match object.object {
        Ok(whole) => Some(whole),
        Err(error) => {
            let (name, namespace) = (&object.metadata.name, &object.metadata.namespace);
            warn!(?name, ?namespace, %error, "An object does not read as its kind and is ignored.");
            None
        }
    };
    Some(match told {
        Told::ListBegins => Told::ListBegins,
        Told::ListEnds => Told::ListEnds,
        Told::Listed(object) => Told::Listed(whole(object)?),
        Told::Changed(object) => Told::Changed(whole(object)?),
        Told::Gone(object) => Told::Gone(whole(object)?),
    })
}

/// What failed, and what to do about it.
fn advice(error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => return error.to_string(),
    };
    match status.code {
        404 => format!("{}: apply the CustomResourceDefinitions of deploy/crds", status.message),
        403 => format!("{}: the ClusterRole must allow get, list and watch", status.message),
        _ => status.message.clone(),
    }
}
