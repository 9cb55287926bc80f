//! Kthena's kinds as it lists them: name, how much of it is ready, how it fares, how old it is.

use std::fmt::Debug;

use anyhow::{Result, anyhow};
use controller_api::conditions::READY;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;
use kube::api::ListParams;
use planning::history::{Progress, progress};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::ObjectsArgs;
use crate::cluster::Cluster;
use crate::print;

/// A kind that is listed.
pub(super) trait Listed:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize
{
    /// How much of it is ready, of how much; `-` where there is nothing to count.
    fn ready(&self) -> String;
    /// A word on how it fares.
    fn status(&self) -> String;
}

impl Listed for ModelServing {
    fn ready(&self) -> String {
        let ready = self.status.as_ref().map_or(0, |status| status.available_replicas);
        format!("{ready}/{}", self.spec.replicas.unwrap_or(1))
    }

    fn status(&self) -> String {
        let word = match progress(self) {
            Progress::Complete(_) => "Ready",
            Progress::Going(_) => "Progressing",
            Progress::Held(_) => "Held",
        };
        word.to_owned()
    }
}

impl Listed for ModelServer {
    fn ready(&self) -> String {
        let status = self.status.as_ref();
        let count = |count: Option<i32>| count.unwrap_or_default();
        let ready = count(status.and_then(|status| status.ready_endpoints));
        format!("{ready}/{}", count(status.and_then(|status| status.endpoints)))
    }

    fn status(&self) -> String {
        word(self.status.iter().flat_map(|status| &status.conditions))
    }
}

impl Listed for ModelRoute {
    fn ready(&self) -> String {
        "-".to_owned()
    }

    fn status(&self) -> String {
        word(self.status.iter().flat_map(|status| &status.conditions))
    }
}

/// `Ready`, or the reason why it is not.
fn word<'a>(mut conditions: impl Iterator<Item = &'a Condition>) -> String {
    match conditions.find(|condition| condition.type_ == READY) {
        Some(ready) if ready.status == "True" => READY.to_owned(),
        Some(ready) => ready.reason.clone(),
        None => "Unknown".to_owned(),
    }
}

/// Prints those of a namespace, of all namespaces, or the one that was named.
pub(super) async fn list<K: Listed>(cluster: &Cluster, asked: &ObjectsArgs) -> Result<()> {
    let api = cluster.api::<K>(asked.all_namespaces);
    let kind = K::kind(&());
    let mut found = match &asked.name {
        Some(name) => {
            let one = cluster.call(api.get_opt(name)).await?;
            vec![one.ok_or_else(|| anyhow!("there is no {kind} {name:?} in namespace {:?}", cluster.namespace))?]
        }
        None => cluster.call(api.list(&ListParams::default())).await?.items,
    };
    for object in &mut found {
        object.meta_mut().managed_fields = None;
    }
    match (asked.output, &asked.name, found.as_slice()) {
        (Some(format), Some(_), [one]) => print::data(one, format),
        (Some(format), ..) => {
            print::data(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": found}), format)
        }
        (None, _, []) => print::line(&format!("there are no {kind}s here: is it another namespace (-n, -A)?")),
        (None, ..) => table(&found, asked.all_namespaces),
    }
}

fn table<K: Listed>(found: &[K], all_namespaces: bool) -> Result<()> {
    let now = Timestamp::now();
    let cells = |object: &K| {
        let metadata = object.meta();
        let created = metadata.creation_timestamp.as_ref();
        let age = created.map_or_else(|| "-".to_owned(), |created| age(now.duration_since(created.0)));
        [metadata.name.clone().unwrap_or_default(), object.ready(), object.status(), age]
    };
    if !all_namespaces {
        let rows: Vec<[String; 4]> = found.iter().map(cells).collect();
        return print::table(["NAME", "READY", "STATUS", "AGE"], &rows);
    }
    let rows: Vec<[String; 5]> = found
        .iter()
        .map(|object| {
            let [name, ready, status, age] = cells(object);
            [object.meta().namespace.clone().unwrap_or_default(), name, ready, status, age]
        })
        .collect();
    print::table(["NAMESPACE", "NAME", "READY", "STATUS", "AGE"], &rows)
}

/// As kubectl has it: in the largest unit of which there are some.
fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_age_is_in_the_largest_unit_of_which_there_are_some() {
        let told =
            [-5, 0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|seconds| age(SignedDuration::from_secs(seconds)));
        assert_eq!(told, ["0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }

    fn server(status: &Value) -> ModelServer {
        serde_json::from_value(json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer", "metadata": {"name": "llm"},
            "spec": {"inferenceEngine": "vLLM", "workloadSelector": {}}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_is_not_ready_says_the_reason() {
        let condition = |status: &str, reason: &str| {
            json!([{
                "type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }])
        };
        let told = |server: &ModelServer| (server.ready(), server.status());
        let ready =
            server(&json!({"endpoints": 3, "readyEndpoints": 2, "conditions": condition("True", "AsSpecified")}));
        assert_eq!(told(&ready), ("2/3".to_owned(), "Ready".to_owned()));
        let refused = server(&json!({"endpoints": 0, "conditions": condition("False", "NameClash")}));
        assert_eq!(told(&refused), ("0/0".to_owned(), "NameClash".to_owned()));
        assert_eq!(told(&server(&json!({}))), ("0/0".to_owned(), "Unknown".to_owned()));
    }
}
