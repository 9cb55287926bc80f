//! What a person is told on the ModelServing (`kubectl describe`): events.k8s.io/v1.
//!
//! Telling is never waited for and never fails a pass. An event that repeats within minutes becomes a series; an
//! object that has too much to say is cut short.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use planning::plan::Event;
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::limiter::Limiter;

/// Who reports on workloads: Kthena's name.
const REPORTER: &str = "modelserving-controller";
/// Who reports on ModelServers and ModelRoutes: the controller `networking`.
const NETWORKING_REPORTER: &str = "networking-controller";
/// Events that wait to be written.
const QUEUE: usize = 512;
/// Events a second, and at once.
const RATE: (f64, u32) = (20.0, 100);
/// What one object may say at once, and how long until it may say one thing more.
const BURST_OF_ONE: f64 = 25.0;
const REFILL_OF_ONE: Duration = Duration::from_secs(30);
/// The same event within this time is one more of a series.
const SERIES: Duration = Duration::from_mins(6);
/// The longest note that the API server takes is 1,024 bytes.
const NOTE_LIMIT: usize = 1000;
/// The longest that one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Where events are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<Notice>,
    dropped: Counter,
}

/// Where events are written: [`Recorder::run`].
pub struct Recorder {
    client: Client,
    instance: String,
    receiver: mpsc::Receiver<Notice>,
    dropped: Counter,
    told: HashMap<Notice, Told>,
    budgets: HashMap<String, (f64, Instant)>,
}

impl Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Notice {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    warning: bool,
    reason: String,
    action: String,
    note: String,
}

/// An event that was written.
#[derive(Debug)]
struct Told {
    name: String,
    count: i32,
    last: Instant,
}

/// A pair: what is handed in at the first is written by the second. `instance` is this process.
pub fn channel(client: Client, instance: String, dropped: Counter) -> (Events, Recorder) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let events = Events { sender, dropped: dropped.clone() };
    let (told, budgets) = (HashMap::new(), HashMap::new());
    (events, Recorder { client, instance, receiver, dropped, told, budgets })
}

impl Events {
    /// Tells something about an object.
    pub fn tell<K: Resource<DynamicType = ()>>(&self, about: &K, event: Event) {
        let Event { warning, reason, action, message } = event;
        let meta = about.meta();
        let mut note = message;
        if note.len() > NOTE_LIMIT {
            note.truncate(note.floor_char_boundary(NOTE_LIMIT));
            note.push('…');
        }
        let notice = Notice {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            warning,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note,
        };
        if self.sender.try_send(notice).is_err() {
            self.dropped.inc();
        }
    }
}

/// Who reports on objects of an API version.
fn reporter(api_version: &str) -> &'static str {
    let group = api_version.split('/').next();
    if group == Some(&*ModelServer::group(&())) { NETWORKING_REPORTER } else { REPORTER }
}

impl Recorder {
    /// Writes events until nobody can hand in any more.
    pub async fn run(mut self) {
        let limiter = Limiter::new(RATE.0, RATE.1);
        while let Some(notice) = self.receiver.recv().await {
            if !self.afford(&notice.uid, Instant::now()) {
                self.dropped.inc();
                continue;
            }
            limiter.turn().await;
            match timeout(CALL_DEADLINE, self.write(notice)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    debug!(%error, "An event was not written.");
                    self.dropped.inc();
                }
                Err(_) => {
                    self.dropped.inc();
                }
            }
        }
    }

    async fn write(&mut self, notice: Notice) -> kube::Result<()> {
        let now = Instant::now();
        self.told.retain(|_, told| now.duration_since(told.last) < SERIES);
        let time = MicroTime(jiff::Timestamp::now());
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), &notice.namespace);
        if let Some(told) = self.told.get_mut(&notice) {
            told.count += 1;
            told.last = now;
            let series = json!({"series": {"count": told.count, "lastObservedTime": time}});
            return api.patch(&told.name, &PatchParams::default(), &Patch::Merge(series)).await.map(drop);
        }
        let name = format!("{}.{:x}", notice.name, time.0.as_nanosecond());
        let event = self.event(&notice, &name, time);
        api.create(&PostParams::default(), &event).await?;
        self.told.insert(notice, Told { name, count: 1, last: now });
        Ok(())
    }

    fn event(&self, notice: &Notice, name: &str, time: MicroTime) -> ApiEvent {
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(notice.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(notice.action.clone()),
            event_time: Some(time),
            note: Some(notice.note.clone()),
            reason: Some(notice.reason.clone()),
            regarding: Some(ObjectReference {
                api_version: Some(notice.api_version.clone()),
                kind: Some(notice.kind.clone()),
                name: Some(notice.name.clone()),
                namespace: Some(notice.namespace.clone()),
                uid: Some(notice.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(reporter(&notice.api_version).to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
            ..ApiEvent::default()
        }
    }

    /// Whether an object may say one thing more.
    fn afford(&mut self, uid: &str, now: Instant) -> bool {
        let refilled = |(left, at): (f64, Instant)| {
            let earned = now.duration_since(at).as_secs_f64() / REFILL_OF_ONE.as_secs_f64();
            (left + earned).min(BURST_OF_ONE)
        };
        if self.budgets.len() > QUEUE {
            self.budgets.retain(|_, budget| refilled(*budget) < BURST_OF_ONE);
        }
        let left = self.budgets.get(uid).map_or(BURST_OF_ONE, |budget| refilled(*budget));
        let affordable = left >= 1.0;
        self.budgets.insert(uid.to_owned(), (if affordable { left - 1.0 } else { left }, now));
        affordable
    }
}
