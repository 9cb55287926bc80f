//! Kubernetes objects into what the brain is told of the world.
//!
//! Pure: the same translation serves files and a cluster's watch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use controller_api::inference_pool::InferencePool;
use controller_api::labels;
use controller_api::v1alpha1::{model_route as route, model_server as server};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scheduling::{
    Declared, DeclaredEndpoint, DeclaredPool, EngineKind, KvConnector, ModelRoute, ModelServer, PdGroup, PoolName,
    Role, Rule, StringMatch, Target,
};

/// The objects as they were read, for people to look at.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// `v1/Pod`.
    pub pods: Vec<Arc<Pod>>,
    /// `inference.networking.k8s.io/v1` `InferencePool`.
    pub inference_pools: Vec<Arc<InferencePool>>,
    /// `networking.serving.volcano.sh/v1alpha1` `ModelServer`.
    pub model_servers: Vec<Arc<server::ModelServer>>,
    /// `networking.serving.volcano.sh/v1alpha1` `ModelRoute`.
    pub model_routes: Vec<Arc<route::ModelRoute>>,
}

/// An object that says something which cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {field}: {reason}")]
pub struct InvalidResource {
    /// Its kind.
    pub kind: &'static str,
    /// `namespace/name`.
    pub name: String,
    /// The path of the field.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// `namespace/name`; the namespace is `default` where a file leaves it out.
#[must_use]
pub fn full_name(metadata: &ObjectMeta) -> String {
    format!("{}/{}", namespace(metadata), metadata.name.as_deref().unwrap_or_default())
}

fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

/// What the objects declare together.
///
/// # Errors
/// The first [`InvalidResource`].
pub fn declare(resources: &Resources) -> Result<Declared, InvalidResource> {
    let (declared, invalid) = declare_all(resources);
    invalid.into_iter().next().map_or(Ok(declared), Err)
}

/// What those objects declare that say something which can be; and the others.
#[must_use]
pub fn declare_all(resources: &Resources) -> (Declared, Vec<InvalidResource>) {
    let Resources { pods, inference_pools, model_servers, model_routes } = resources;
    let mut invalid = Vec::new();
    let mut model_servers = valid(model_servers.iter().map(|server| declare_server(server)), &mut invalid);
    model_servers.sort_by(|one, other| one.name.cmp(&other.name));
    let pools = inference_pools.iter().map(|pool| declare_pool(pool, pods, &model_servers));
    let declared = Declared {
        workers: declare_workers(inference_pools, pods, &model_servers),
        pools: valid(pools, &mut invalid),
        model_routes: valid(model_routes.iter().map(|route| declare_route(route)), &mut invalid),
        model_servers,
    };
    (declared, invalid)
}

fn valid<T>(declared: impl Iterator<Item = Result<T, InvalidResource>>, invalid: &mut Vec<InvalidResource>) -> Vec<T> {
    declared.filter_map(|it| it.map_err(|error| invalid.push(error)).ok()).collect()
}

fn declare_pool(
    pool: &InferencePool,
    pods: &[Arc<Pod>],
    servers: &[ModelServer],
) -> Result<DeclaredPool, InvalidResource> {
    let invalid = |field: &str, reason: &str| InvalidResource {
        kind: "InferencePool",
        name: full_name(&pool.metadata),
        field: field.to_owned(),
        reason: reason.to_owned(),
    };
    let labels = &pool.spec.selector.match_labels;
    if labels.is_empty() {
        return Err(invalid("spec.selector.matchLabels", "must name at least one label"));
    }
    let mut ports: Vec<u16> = pool.spec.target_ports.iter().map(|port| port.number).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() || ports.contains(&0) || ports.len() != pool.spec.target_ports.len() || ports.len() > 8 {
        return Err(invalid("spec.targetPorts", "must be 1 to 8 different ports of 1 to 65535"));
    }
    let namespace = namespace(&pool.metadata);
    // Keyed by address, because a pod that has ended may still show an address that was given on.
    let mut endpoints: BTreeMap<SocketAddr, DeclaredEndpoint> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| self::namespace(&pod.metadata) == namespace) {
        let Some((address, pod_labels)) = address(pod).zip(selected(pod, labels)) else { continue };
        let (name, ready) = (Arc::<str>::from(full_name(&pod.metadata)), ready(pod));
        for port in &ports {
            let endpoint = DeclaredEndpoint {
                address: SocketAddr::new(address, *port),
                name: Arc::clone(&name),
                labels: Arc::clone(&pod_labels),
                ready,
                engine: engine(namespace, &pod_labels, *port, servers),
            };
            if ready || !endpoints.contains_key(&endpoint.address) {
                endpoints.insert(endpoint.address, endpoint);
            }
        }
    }
    let picker = pool.spec.endpoint_picker_ref.as_ref();
    Ok(DeclaredPool {
        name: PoolName::new(namespace, pool.metadata.name.as_deref().unwrap_or_default()),
        picker: picker.map(|picker| (picker.name.as_str().into(), picker.port.as_ref().map(|port| port.number))),
        endpoints: endpoints.into_values().collect(),
    })
}

/// The pod's labels when the selector selects it.
fn selected(pod: &Pod, selector: &BTreeMap<String, String>) -> Option<Arc<BTreeMap<String, String>>> {
    let labels = pod.metadata.labels.as_ref()?;
    selector.iter().all(|(key, value)| labels.get(key) == Some(value)).then(|| Arc::new(labels.clone()))
}

/// The address of a pod that has not ended.
fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    status.pod_ip.as_ref().filter(|_| !ended)?.parse().ok()
}

/// Running, Ready and not being deleted. A file need not state phase or conditions.
fn ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let running = status.phase.as_deref().is_none_or(|phase| phase == "Running");
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions.is_empty() || conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    running && ready && pod.metadata.deletion_timestamp.is_none()
}

/// The engine of the ModelServer that selects the pod; one of the same port goes first.
fn engine(namespace: &str, labels: &BTreeMap<String, String>, port: u16, servers: &[ModelServer]) -> EngineKind {
    let selects = |server: &&ModelServer| {
        server.name.split_once('/').is_some_and(|(its, _)| its == namespace)
            && server.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let same_port = servers.iter().filter(selects).find(|server| server.port == Some(port));
    same_port.or_else(|| servers.iter().find(selects)).map(|server| server.engine).unwrap_or_default()
}

fn declare_server(object: &server::ModelServer) -> Result<ModelServer, InvalidResource> {
    // The traffic policy has no reader yet.
    let server::ModelServerSpec {
        model,
        inference_engine,
        workload_selector,
        workload_port,
        traffic_policy: _,
        kv_connector,
    } = &object.spec;
    let invalid = |(field, reason): (&str, &str)| InvalidResource {
        kind: "ModelServer",
        name: full_name(&object.metadata),
        field: field.to_owned(),
        reason: reason.to_owned(),
    };
    let port = workload_port.as_ref().map(|port| port.port);
    if port == Some(0) {
        return Err(invalid(("spec.workloadPort.port", "must be 1 to 65535")));
    }
    // Each data-parallel rank has a port of its own: all ports of the pool are the server's.
    let ranks = object.metadata.annotations.as_ref().and_then(|all| all.get(labels::DATA_PARALLEL_RANKS));
    let port = port.filter(|_| !ranks.is_some_and(|ranks| ranks.parse().is_ok_and(|ranks: u16| ranks > 1)));
    Ok(ModelServer {
        name: full_name(&object.metadata).into(),
        model: model.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        engine: match inference_engine {
            server::InferenceEngine::Vllm => EngineKind::Vllm,
            server::InferenceEngine::Sglang => EngineKind::Sglang,
        },
        selector: workload_selector.match_labels.clone(),
        port,
        pd_group: workload_selector.pd_group.as_ref().map(declare_pd_group).transpose().map_err(invalid)?,
        connector: declare_connector(*inference_engine, kv_connector.as_ref()),
    })
}

fn declare_pd_group(group: &server::PdGroup) -> Result<PdGroup, (&'static str, &'static str)> {
    let server::PdGroup { group_key, prefill_labels, decode_labels } = group;
    if decode_labels.is_empty() {
        let field = "spec.workloadSelector.pdGroup.decodeLabels";
        return Err((field, "must name at least one label of the decode pods: no label matches no pod"));
    }
    if prefill_labels.is_empty() {
        let field = "spec.workloadSelector.pdGroup.prefillLabels";
        return Err((field, "must name at least one label of the prefill pods: no label matches no pod"));
    }
    Ok(PdGroup {
        group_key: group_key.as_deref().filter(|key| !key.is_empty()).map(Into::into),
        prefill_labels: prefill_labels.clone(),
        decode_labels: decode_labels.clone(),
    })
}

/// SGLang's own way where none is named; `http` is what Kthena does for vLLM then.
fn declare_connector(engine: server::InferenceEngine, connector: Option<&server::KvConnector>) -> KvConnector {
    match connector.map(|connector| connector.r#type) {
        Some(server::KvConnectorType::Http) => KvConnector::Http,
        Some(server::KvConnectorType::Lmcache) => KvConnector::Lmcache,
        Some(server::KvConnectorType::Nixl) => KvConnector::Nixl,
        Some(server::KvConnectorType::Mooncake) => KvConnector::Mooncake,
        None if engine == server::InferenceEngine::Sglang => KvConnector::Sglang,
        None => KvConnector::Http,
    }
}

/// Every prefill pod of a ModelServer with a `pdGroup`, at the server's port or, without one, at the
/// ports of the pools of its namespace: which of them count is decided where the pool is known.
fn declare_workers(pools: &[Arc<InferencePool>], pods: &[Arc<Pod>], servers: &[ModelServer]) -> Vec<DeclaredEndpoint> {
    let mut workers: BTreeMap<SocketAddr, DeclaredEndpoint> = BTreeMap::new();
    for server in servers.iter().filter(|server| server.pd_group.is_some()) {
        for pod in pods {
            let Some((address, labels)) = address(pod).zip(pod.metadata.labels.as_ref()) else { continue };
            let (name, namespace) = (Arc::<str>::from(full_name(&pod.metadata)), namespace(&pod.metadata));
            if server.role_of_pod(&name, labels) != Some(Role::Prefill) {
                continue;
            }
            let here = pools.iter().filter(|pool| self::namespace(&pool.metadata) == namespace);
            let ports: BTreeSet<u16> = match server.port {
                Some(port) => [port].into(),
                None => here.flat_map(|pool| &pool.spec.target_ports).map(|port| port.number).collect(),
            };
            let (labels, ready) = (Arc::new(labels.clone()), ready(pod));
            for address in ports.into_iter().map(|port| SocketAddr::new(address, port)) {
                let (name, labels, engine) = (Arc::clone(&name), Arc::clone(&labels), server.engine);
                // As in a pool: a pod that has ended may still show an address that was given on.
                if ready || !workers.contains_key(&address) {
                    workers.insert(address, DeclaredEndpoint { address, name, labels, ready, engine });
                }
            }
        }
    }
    workers.into_values().collect()
}

fn declare_route(object: &route::ModelRoute) -> Result<ModelRoute, InvalidResource> {
    // Gateways attach routes themselves, and limits have no reader yet.
    let route::ModelRouteSpec { model_name, lora_adapters, parent_refs: _, rules, rate_limit: _ } = &object.spec;
    let invalid = |field: String, reason: String| InvalidResource {
        kind: "ModelRoute",
        name: full_name(&object.metadata),
        field,
        reason,
    };
    let model: Option<Arc<str>> = model_name.as_deref().filter(|name| !name.is_empty()).map(Into::into);
    if model.is_none() && lora_adapters.is_empty() {
        return Err(invalid("spec.modelName".to_owned(), "modelName and loraAdapters cannot both be empty".to_owned()));
    }
    let rule = |(index, rule): (usize, &route::Rule)| {
        let path = format!("spec.rules[{index}]");
        declare_rule(namespace(&object.metadata), rule)
            .map_err(|(field, reason)| invalid(format!("{path}.{field}"), reason))
    };
    Ok(ModelRoute {
        name: full_name(&object.metadata).into(),
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        model,
        adapters: lora_adapters.iter().map(|name| name.as_str().into()).collect(),
        rules: rules.iter().enumerate().map(rule).collect::<Result<_, _>>()?,
    })
}

type FieldError = (String, String);

fn declare_rule(namespace: &str, rule: &route::Rule) -> Result<Rule, FieldError> {
    let route::Rule { name: _, model_match, target_models } = rule;
    let (headers, uri, body_model) = match model_match {
        None => (Vec::new(), None, None),
        Some(route::ModelMatch { headers, uri, body }) => {
            let header = |(name, condition): (&String, &route::StringMatch)| {
                let field = format!("modelMatch.headers.{name}");
                Ok((name.to_lowercase(), declare_match(condition, &field)?))
            };
            (
                headers.iter().map(header).collect::<Result<_, FieldError>>()?,
                uri.as_ref().map(|condition| declare_match(condition, "modelMatch.uri")).transpose()?,
                body.as_ref().and_then(|body| body.model.clone()),
            )
        }
    };
    // In a cluster the CRD fills in 100. Where none is set at all, as in files, all are equal.
    let weight = if target_models.iter().all(|target| target.weight.is_none()) { 1 } else { 100 };
    let target = |(index, target): (usize, &route::TargetModel)| {
        let weight = target.weight.unwrap_or(weight);
        if weight > 100 {
            return Err((format!("targetModels[{index}].weight"), format!("{weight} is not in 0 to 100")));
        }
        Ok(Target { model_server: format!("{namespace}/{}", target.model_server_name).into(), weight })
    };
    let targets = target_models.iter().enumerate().map(target).collect::<Result<_, _>>()?;
    Ok(Rule { headers, uri, body_model, targets })
}

fn declare_match(condition: &route::StringMatch, field: &str) -> Result<StringMatch, FieldError> {
    let route::StringMatch { exact, prefix, regex } = condition;
    Ok(match (exact, prefix, regex) {
        (Some(exact), _, _) => StringMatch::Exact(exact.clone()),
        (None, Some(prefix), _) => StringMatch::Prefix(prefix.clone()),
        (None, None, Some(regex)) => {
            StringMatch::Regex(regex::Regex::new(regex).map_err(|error| (format!("{field}.regex"), error.to_string()))?)
        }
        (None, None, None) => StringMatch::Any,
    })
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
