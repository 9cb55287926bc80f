//! InferencePools and the pods that they select.

use std::collections::{BTreeMap, BTreeSet};

use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_server::ModelServer;
use serde_json::{Value, json};

use super::{Check, Found, list};
use crate::doctor::facts::objects::{Name, POOLS, Pod};
use crate::doctor::facts::{Facts, Source};

pub(super) fn title(pool: &InferencePool) -> String {
    format!("InferencePool {}", Name::of(&pool.metadata))
}

/// The pods, and what workloads will make pods of, that have the labels in the namespace.
fn having<'a>(facts: &'a Facts, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&'a Pod> {
    facts.objects.pods.iter().filter(|pod| pod.name.namespace == namespace && pod.has(labels)).collect()
}

fn selected<'a>(facts: &'a Facts, pool: &InferencePool) -> Vec<&'a Pod> {
    having(facts, &Name::of(&pool.metadata).namespace, &pool.spec.selector.match_labels)
}

fn shown(labels: &BTreeMap<String, String>) -> String {
    list(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

/// A pool with other labels or ports, as it would be applied.
fn changed(pool: &InferencePool, labels: &BTreeMap<String, String>, ports: &[u16]) -> Value {
    let Name { namespace, name } = Name::of(&pool.metadata);
    let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
    let mut spec = json!(pool.spec);
    if let Some(fields) = spec.as_object_mut() {
        fields.insert("selector".to_owned(), json!({"matchLabels": labels}));
        fields.insert("targetPorts".to_owned(), ports.into());
    }
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": format!("{POOLS}/v1"), "kind": "InferencePool", "metadata": metadata, "spec": spec})
}

fn ports(pool: &InferencePool) -> Vec<u16> {
    pool.spec.target_ports.iter().map(|port| port.number).collect()
}

pub(super) const SELECTOR_MATCHES_NOTHING: Check = Check {
    id: "selector-matches-nothing",
    about: "a pool or a ModelServer selects no pod",
    needs: &[&[Source::InferencePools, Source::ModelServers], &[Source::Engines]],
    find: selector_matches_nothing,
};

fn selector_matches_nothing(facts: &Facts) -> Vec<Found> {
    let pools = facts.objects.pools.iter().filter_map(|pool| {
        nothing(facts, title(pool), &Name::of(&pool.metadata), &pool.spec.selector.match_labels, "spec.selector")
    });
    let servers = facts.objects.servers.iter().filter_map(|server| {
        let (name, selector) = (Name::of(&server.metadata), &server.spec.workload_selector);
        nothing(facts, format!("ModelServer {name}"), &name, &selector.match_labels, "spec.workloadSelector")
    });
    pools.chain(servers).collect()
}

fn nothing(
    facts: &Facts,
    object: String,
    name: &Name,
    labels: &BTreeMap<String, String>,
    field: &str,
) -> Option<Found> {
    let found = having(facts, &name.namespace, labels);
    if found.iter().any(|pod| pod.ready.is_some()) || (!facts.live && !found.is_empty()) {
        return None;
    }
    if let Some(workload) = found.first() {
        let problem = format!("there is no pod with {} yet", shown(labels));
        return Some(Found::warning(
            object,
            problem,
            format!("{} makes such pods: see why it has none (kubectl describe), or scale it up", workload.title()),
        ));
    }
    let problem = match labels.is_empty() {
        true => "its selector names no label, and so selects no pod".to_owned(),
        false => format!("no pod in namespace {} has the labels {}", name.namespace, shown(labels)),
    };
    let fix = format!("let {field}.matchLabels say what pods have: {}", instead(facts, name, labels));
    // Files without pods may be a part of what is applied.
    let whole = facts.live || facts.objects.pods.iter().any(|pod| pod.ready.is_some());
    Some(if whole { Found::error(object, problem, fix) } else { Found::warning(object, problem, fix) })
}

/// What pods have under the same keys; else where pods with the labels are.
fn instead(facts: &Facts, name: &Name, labels: &BTreeMap<String, String>) -> String {
    let mut values = BTreeSet::new();
    for pod in facts.objects.pods.iter().filter(|pod| pod.name.namespace == name.namespace) {
        let same_keys = labels.keys().filter_map(|key| Some(format!("{key}={}", pod.labels.get(key)?)));
        values.extend(same_keys);
    }
    let elsewhere: BTreeSet<&str> =
        facts.objects.pods.iter().filter(|pod| pod.has(labels)).map(|pod| pod.name.namespace.as_str()).collect();
    match (values.is_empty(), elsewhere.is_empty()) {
        (_, false) => format!("such pods are in namespace {}, and a pool selects in its own only", list(elsewhere)),
        (false, _) => format!("there are pods with {}", list(values)),
        (true, true) => "kubectl get pods --show-labels".to_owned(),
    }
}

pub(super) const SELECTOR_MATCHES_PREFILL: Check = Check {
    id: "selector-matches-prefill",
    about: "a pool selects prefill pods, which then get requests whenever the picker is not there",
    needs: &[&[Source::InferencePools], &[Source::ModelServers], &[Source::Engines]],
    find: selector_matches_prefill,
};

fn selector_matches_prefill(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    for pool in &facts.objects.pools {
        let selected = selected(facts, pool);
        for server in &facts.objects.servers {
            let same_namespace = Name::of(&server.metadata).namespace == Name::of(&pool.metadata).namespace;
            let Some((prefill, decode)) = roles(server).filter(|_| same_namespace) else { continue };
            let wrong: Vec<String> =
                selected.iter().filter(|pod| pod.has(&prefill) && !pod.has(&decode)).map(|pod| pod.title()).collect();
            if wrong.is_empty() {
                continue;
            }
            let mut labels = pool.spec.selector.match_labels.clone();
            labels.extend(decode);
            let problem = format!(
                "it selects prefill pods of ModelServer {}: {}",
                Name::of(&server.metadata),
                list(wrong.into_iter().collect::<BTreeSet<_>>())
            );
            let fix = "select decode pods only: the picker finds prefill pods by the ModelServer";
            found.push(Found::error(title(pool), problem, fix).with(changed(pool, &labels, &ports(pool))));
        }
    }
    found
}

/// The labels of prefill and of decode pods.
fn roles(server: &ModelServer) -> Option<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let selector = &server.spec.workload_selector;
    let group = selector.pd_group.as_ref()?;
    let with = |labels: &BTreeMap<String, String>| {
        let mut all = selector.match_labels.clone();
        all.extend(labels.clone());
        all
    };
    Some((with(&group.prefill_labels), with(&group.decode_labels)))
}

pub(super) const PORT_NOT_SERVED: Check = Check {
    id: "port-not-served",
    about: "a pool or a ModelServer has a port that none of its pods declares",
    needs: &[&[Source::InferencePools, Source::ModelServers], &[Source::Engines]],
    find: port_not_served,
};

fn port_not_served(facts: &Facts) -> Vec<Found> {
    let pools = facts.objects.pools.iter().filter_map(|pool| {
        let declared = unserved(&selected(facts, pool), &ports(pool))?;
        let problem =
            format!("its pods declare the ports {}, and targetPorts has {}", list(&declared), list(ports(pool)));
        let found = Found::error(title(pool), problem, "let spec.targetPorts be the port that the engine listens on");
        // Which of several is meant only a person knows.
        Some(match declared.as_slice() {
            [port] => found.with(changed(pool, &pool.spec.selector.match_labels, &[*port])),
            _ => found,
        })
    });
    let servers = facts.objects.servers.iter().filter_map(|server| {
        let port = server.spec.workload_port.as_ref()?.port;
        let name = Name::of(&server.metadata);
        let pods = having(facts, &name.namespace, &server.spec.workload_selector.match_labels);
        let declared = unserved(&pods, &[port])?;
        Some(Found::error(
            format!("ModelServer {name}"),
            format!("its pods declare the ports {}, and workloadPort is {port}", list(declared)),
            "let spec.workloadPort.port be the port that the engine listens on",
        ))
    });
    pools.chain(servers).collect()
}

/// The ports that pods declare, if there are any and none of these. What a pod does not declare it may serve all the
/// same, so one that is declared is enough: each data-parallel rank has a port of its own.
fn unserved(pods: &[&Pod], wanted: &[u16]) -> Option<Vec<u16>> {
    let declared: BTreeSet<u16> = pods.iter().flat_map(|pod| &pod.ports).map(|(_, number)| *number).collect();
    (!declared.is_empty() && !wanted.iter().any(|port| declared.contains(port))).then(|| declared.into_iter().collect())
}

pub(super) const NO_ENDPOINT_READY: Check = Check {
    id: "no-endpoint-ready",
    about: "a pool has pods, and none of them is ready",
    needs: &[&[Source::InferencePools], &[Source::Engines]],
    find: no_endpoint_ready,
};

fn no_endpoint_ready(facts: &Facts) -> Vec<Found> {
    let found = |pool: &InferencePool| {
        let pods: Vec<&Pod> = selected(facts, pool).into_iter().filter(|pod| pod.ready.is_some()).collect();
        let names = || list(pods.iter().map(|pod| &pod.name));
        (!pods.is_empty() && pods.iter().all(|pod| pod.ready == Some(false))).then(|| {
            Found::error(
                title(pool),
                format!("none of its pods is ready: {}", names()),
                "see what keeps the engines from becoming ready: kubectl describe pod, kubectl logs",
            )
        })
    };
    facts.objects.pools.iter().filter_map(found).collect()
}

pub(super) const POOL_NOT_ACCEPTED: Check = Check {
    id: "pool-not-accepted",
    about: "a gateway refuses a pool, or what it names",
    needs: &[&[Source::InferencePools]],
    find: pool_not_accepted,
};

fn pool_not_accepted(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    for pool in &facts.objects.pools {
        let parents = pool.status.as_ref().map(|status| status.parents.as_slice()).unwrap_or_default();
        for parent in parents {
            // Some gateways name neither themselves nor the Gateway API's group: kind and name are what counts.
            let at = format!("{} {}", parent.parent_ref.kind.as_deref().unwrap_or("Gateway"), parent.parent_ref.name);
            let refused = parent.conditions.iter().filter(|it| it.type_ != "Exported" && it.status == "False");
            found.extend(refused.map(|it| {
                let problem = format!("{at} says {} is False, {}: {}", it.type_, it.reason, it.message);
                Found::error(title(pool), problem, remedy(&it.reason))
            }));
        }
    }
    found
}

/// What to do about a condition's reason, as of the Gateway API Inference Extension v1.6.
fn remedy(reason: &str) -> &'static str {
    match reason {
        "InvalidExtensionRef" | "EndpointPickerRefMissing" => {
            "let spec.endpointPickerRef name a Service of the pool's namespace, with its port"
        }
        "HTTPRouteNotAccepted" => "see what the gateway says of the HTTPRoute: kubectl describe httproute",
        "NotSupportedByParent" => "use a gateway that knows InferencePools, or switch them on in it",
        _ => "see the gateway's log, and mend what it says",
    }
}

#[cfg(test)]
mod tests;
