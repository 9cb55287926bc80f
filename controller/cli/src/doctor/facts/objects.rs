//! Kubernetes objects, as far as the checks look at them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use controller_api::http_route::{HttpRouteStatus, ParentReference, RouteParentStatus};
use controller_api::inference_pool::InferencePool;
use controller_api::labels;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::{self as core, Container, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Source;
use super::policies::{self, Policies};

/// The group of InferencePools, and the one that they had before v1.
pub(crate) const POOLS: &str = "inference.networking.k8s.io";
pub(crate) const OLD_POOLS: &str = "inference.networking.x-k8s.io";

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) pods: Vec<Pod>,
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) pools: Vec<InferencePool>,
    /// InferencePools of the group that gateways no longer read.
    pub(crate) old_pools: Vec<Name>,
    pub(crate) servers: Vec<ModelServer>,
    pub(crate) model_routes: Vec<ModelRoute>,
    pub(crate) routes: Vec<Route>,
    pub(crate) gateways: BTreeSet<Name>,
    pub(crate) policies: Policies,
}

/// Namespace and name; the namespace is `default` where a file leaves it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        Self::new(namespace, metadata.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A pod, or what a workload makes its pods of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: Name,
    /// `Pod`, or the workload's kind.
    pub(crate) kind: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The ports that its containers declare, with their names.
    pub(crate) ports: Vec<(String, u16)>,
    /// The arguments and the environment of its containers, as `NAME=VALUE`.
    pub(crate) words: Vec<String>,
    /// Whether it may get requests; `None` of what is not a pod yet.
    pub(crate) ready: Option<bool>,
}

impl Pod {
    /// Whether it has all of these labels; no labels select nothing.
    pub(crate) fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        !labels.is_empty() && labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// `Pod default/llama-0`.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// An HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Route {
    pub(crate) name: Name,
    pub(crate) generation: i64,
    pub(crate) parents: Vec<ParentReference>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) said: Vec<RouteParentStatus>,
}

/// Where an HTTPRoute leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Backend {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

impl Backend {
    /// Whether it is an InferencePool, of the group as it is or as it was.
    pub(crate) fn is_pool(&self) -> bool {
        self.kind == "InferencePool" && [POOLS, OLD_POOLS].contains(&self.group.as_str())
    }
}

/// `Kind namespace/name` of any object.
pub(crate) fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or("object without a kind");
    let name = text("/metadata/name").unwrap_or("without a name");
    format!("{kind} {}/{name}", text("/metadata/namespace").unwrap_or("default"))
}

impl Objects {
    /// Whether a pool calls its picker by this Service.
    pub(crate) fn is_pickers(&self, service: &Service) -> bool {
        let name = Name::of(&service.metadata);
        self.pools.iter().any(|pool| {
            let picker = pool.spec.endpoint_picker_ref.as_ref();
            picker.is_some_and(|picker| picker.name == name.name)
                && Name::of(&pool.metadata).namespace == name.namespace
        })
    }

    /// Takes an object in, and says what is known now; of other kinds nothing.
    ///
    /// # Errors
    /// When a field is not what its kind says.
    pub(crate) fn add(&mut self, object: Value) -> Result<Vec<Source>, String> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        Ok(match (group, kind.as_str()) {
            ("", "Pod") => {
                self.pods.extend(pod(read(object)?));
                vec![Source::Pods]
            }
            ("", "Service") => {
                self.services.push(read(object)?);
                vec![Source::Services]
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                self.slices.push(read(object)?);
                vec![Source::EndpointSlices]
            }
            (POOLS, "InferencePool") => {
                self.pools.push(read(object)?);
                vec![Source::InferencePools]
            }
            (OLD_POOLS, "InferencePool") => {
                self.old_pools.push(name_of(&object)?);
                vec![Source::InferencePools]
            }
            ("networking.serving.volcano.sh", "ModelServer") => {
                self.servers.push(read(object)?);
                vec![Source::ModelServers]
            }
            ("networking.serving.volcano.sh", "ModelRoute") => {
                self.model_routes.push(read(object)?);
                vec![Source::ModelRoutes]
            }
            ("gateway.networking.k8s.io", "HTTPRoute") => {
                self.routes.push(route(object)?);
                vec![Source::HttpRoutes]
            }
            ("gateway.networking.k8s.io", "Gateway") => {
                self.gateways.insert(name_of(&object)?);
                vec![Source::Gateways]
            }
            (policies::GROUP, "EnvoyExtensionPolicy") => {
                self.policies.add(&kind, object)?;
                vec![Source::Policies]
            }
            (policies::GROUP, "BackendTrafficPolicy" | "ClientTrafficPolicy") => {
                self.policies.add(&kind, object)?;
                Vec::new()
            }
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet") => {
                let name = name_of(&object)?;
                let template = object.pointer("/spec/template").cloned().unwrap_or_default();
                self.pods.push(made_pod(name, &kind, template, BTreeMap::new())?);
                vec![Source::Pods, Source::Workloads]
            }
            ("workload.serving.volcano.sh", "ModelServing") => {
                let name = name_of(&object)?;
                self.pods.extend(serving_pods(&name, &object)?);
                vec![Source::Pods, Source::Workloads]
            }
            _ => Vec::new(),
        })
    }
}

/// Whether a Service leads to a pod by its selector.
pub(crate) fn leads_to(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Name::of(&service.metadata).namespace == pod.name.namespace && selector.is_some_and(|selector| pod.has(selector))
}

fn read<T: DeserializeOwned>(object: Value) -> Result<T, String> {
    serde_json::from_value(object).map_err(|error| error.to_string())
}

fn name_of(object: &Value) -> Result<Name, String> {
    let metadata: ObjectMeta = read(object.get("metadata").cloned().unwrap_or_default())?;
    Ok(Name::of(&metadata))
}

/// A pod that has not ended.
fn pod(pod: core::Pod) -> Option<Pod> {
    let status = pod.status.unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    // A file need not state phase or conditions.
    let running = status.phase.as_deref().is_none_or(|phase| phase == "Running");
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions.is_empty() || conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    Some(Pod {
        name: Name::of(&pod.metadata),
        kind: "Pod".to_owned(),
        labels: pod.metadata.labels.unwrap_or_default(),
        ports: ports(&containers),
        words: words(&containers),
        ready: Some(running && ready),
    })
}

fn ports(containers: &[Container]) -> Vec<(String, u16)> {
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.container_port).ok()?)))
        .collect()
}

fn words(containers: &[Container]) -> Vec<String> {
    let of = |container: &Container| {
        let environment = container.env.clone().unwrap_or_default();
        let environment = environment.into_iter().map(|it| format!("{}={}", it.name, it.value.unwrap_or_default()));
        let arguments = container.args.clone().unwrap_or_default().into_iter();
        container.command.clone().unwrap_or_default().into_iter().chain(arguments).chain(environment)
    };
    containers.iter().flat_map(of).collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Option<ObjectMeta>,
    spec: Option<core::PodSpec>,
}

fn made_pod(name: Name, kind: &str, template: Value, more: BTreeMap<String, String>) -> Result<Pod, String> {
    let template: Template = if template.is_null() { Template::default() } else { read(template)? };
    let mut labels = template.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
    labels.extend(more);
    let containers = template.spec.map(|spec| spec.containers).unwrap_or_default();
    Ok(Pod { name, kind: kind.to_owned(), labels, ports: ports(&containers), words: words(&containers), ready: None })
}

/// The pods of each role: its entry, and its workers where it has any.
fn serving_pods(name: &Name, serving: &Value) -> Result<Vec<Pod>, String> {
    let mut pods = Vec::new();
    for role in serving.pointer("/spec/template/roles").and_then(Value::as_array).into_iter().flatten() {
        let role_name = role.get("name").and_then(Value::as_str).unwrap_or_default();
        let labels = |entry: bool| {
            let mut labels = BTreeMap::from([
                (labels::NAME.to_owned(), name.name.clone()),
                (labels::ROLE.to_owned(), role_name.to_owned()),
            ]);
            if entry {
                labels.insert(labels::ENTRY.to_owned(), "true".to_owned());
            }
            labels
        };
        for (field, entry) in [("entryTemplate", true), ("workerTemplate", false)] {
            if let Some(template) = role.get(field) {
                pods.push(made_pod(name.clone(), "ModelServing", template.clone(), labels(entry))?);
            }
        }
    }
    Ok(pods)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RouteObject {
    metadata: ObjectMeta,
    spec: RouteSpec,
    status: HttpRouteStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RouteSpec {
    parent_refs: Vec<ParentReference>,
    rules: Vec<RouteRule>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RouteRule {
    backend_refs: Vec<Backend>,
}

fn route(object: Value) -> Result<Route, String> {
    let RouteObject { metadata, spec, status } = read(object)?;
    let mut backends: Vec<Backend> = Vec::new();
    for backend in spec.rules.into_iter().flat_map(|rule| rule.backend_refs) {
        if !backends.contains(&backend) {
            backends.push(backend);
        }
    }
    Ok(Route {
        name: Name::of(&metadata),
        generation: metadata.generation.unwrap_or_default(),
        parents: spec.parent_refs,
        backends,
        said: status.parents,
    })
}
