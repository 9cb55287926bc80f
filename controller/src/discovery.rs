//! Kinds that may come and go while we run: Volcano's gangs, LeaderWorkerSets, those of the Gateway API.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use planning::observed::GangSupport;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// A kind of others.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its CustomResourceDefinition.
    definition: &'static str,
    /// A field that newer releases of the kind have, as a path in its schema.
    field: &'static str,
}

/// Volcano's gangs: parts of a gang are new in 1.14.
pub const POD_GROUPS: Kind =
    Kind { definition: "podgroups.scheduling.volcano.sh", field: "spec/properties/subGroupPolicy" };
/// LeaderWorkerSets: 0.8 has no generation in their status, and refuses one.
pub const LEADER_WORKER_SETS: Kind =
    Kind { definition: "leaderworkersets.leaderworkerset.x-k8s.io", field: "status/properties/observedGeneration" };

/// InferencePools of the Gateway API Inference Extension.
pub const INFERENCE_POOLS: Kind =
    Kind { definition: "inferencepools.inference.networking.k8s.io", field: "spec/properties/targetPorts" };
/// HTTPRoutes of the Gateway API.
pub const HTTP_ROUTES: Kind =
    Kind { definition: "httproutes.gateway.networking.k8s.io", field: "spec/properties/rules" };

/// The longest that one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// What is known of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The cluster does not have it.
    Absent,
    /// The cluster serves it.
    Served {
        /// With the field that newer releases have.
        newer: bool,
    },
}

impl Known {
    /// What that means for gangs.
    #[must_use]
    pub fn gangs(self) -> GangSupport {
        match self {
            Self::Nothing | Self::Absent => GangSupport::Absent,
            Self::Served { newer: false } => GangSupport::Groups,
            Self::Served { newer: true } => GangSupport::SubGroups,
        }
    }
}

/// Does with what is known of a kind what is to be done, and leaves it for the next as soon as something else becomes
/// known. Ends with the sender.
pub async fn whenever<W: Future<Output = ()>>(mut known: watch::Receiver<Known>, does: impl Fn(Known) -> W) {
    loop {
        let now = *known.borrow_and_update();
        let doing = async {
            does(now).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = doing => {}
            changed = known.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows a kind's definition and tells what becomes known. Never ends.
pub async fn follow(client: Client, kind: Kind, known: watch::Sender<Known>) {
    let name = kind.definition;
    let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(api, config));
    let mut listed = false;
    let mut failing = false;
    while let Some(event) = events.next().await {
        let now = match event {
            Ok(Event::Init) => {
                listed = false;
                continue;
            }
            Ok(Event::InitDone) if listed => continue,
            Ok(Event::InitDone | Event::Delete(_)) => Known::Absent,
            Ok(Event::InitApply(_) | Event::Apply(_)) => {
                listed = true;
                definition(&client, kind).await
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(name, %error, "CustomResourceDefinitions cannot be watched: may the ClusterRole?");
                }
                sleep(RETRY).await;
                continue;
            }
        };
        failing = false;
        let changed = known.send_if_modified(|known| std::mem::replace(known, now) != now);
        if changed {
            info!(name, known = ?now, "What the cluster serves is known.");
        }
    }
}

/// Reads the definition.
async fn definition(client: &Client, kind: Kind) -> Known {
    let name = kind.definition;
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    loop {
        let request = http::Request::get(&path).body(Vec::new());
        let Ok(request) = request else { return Known::Absent };
        match timeout(CALL_DEADLINE, client.request::<Value>(request)).await {
            Ok(Ok(definition)) => return known(&definition, kind.field),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Known::Absent,
            Ok(Err(error)) => debug!(name, %error, "A definition was not read; tried again."),
            Err(_) => debug!(name, "A definition was not read in time; tried again."),
        }
        sleep(RETRY).await;
    }
}

/// What a definition says.
fn known(definition: &Value, field: &str) -> Known {
    let list = |pointer| definition.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let established =
        list("/status/conditions").any(|condition| condition["type"] == "Established" && condition["status"] == "True");
    if !established {
        return Known::Absent;
    }
    let field = format!("/schema/openAPIV3Schema/properties/{field}");
    let newer = list("/spec/versions").any(|version| version["served"] == true && version.pointer(&field).is_some());
    Known::Served { newer }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(established: &str, fields: &Value) -> Value {
        json!({
            "spec": {"versions": [{
                "name": "v1beta1",
                "served": true,
                "schema": {"openAPIV3Schema": {"properties": {"spec": {"properties": fields}}}},
            }]},
            "status": {"conditions": [{"type": "Established", "status": established}]},
        })
    }

    #[test]
    fn what_gangs_can_do_is_read_from_their_schema() {
        let gangs = |definition: Value| known(&definition, POD_GROUPS.field).gangs();
        let newer = json!({"minMember": {}, "subGroupPolicy": {}});
        assert_eq!(gangs(definition("True", &json!({"minMember": {}}))), GangSupport::Groups);
        assert_eq!(gangs(definition("True", &newer)), GangSupport::SubGroups);
        assert_eq!(gangs(definition("False", &newer)), GangSupport::Absent);
    }
}
