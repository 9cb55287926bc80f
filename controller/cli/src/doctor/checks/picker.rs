//! The picker: whether pools name it, whether it is there, and whether it may be spoken to as it is.

use controller_api::inference_pool::{EndpointPickerRef, InferencePool};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use serde_json::{Value, json};

use super::{Check, Found, list, pools};
use crate::doctor::facts::objects::{Name, Pod, leads_to};
use crate::doctor::facts::picker::Picker;
use crate::doctor::facts::{Facts, Source};

/// The label by which the slices of a Service are known.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A pool with its picker's reference and the name of the Service.
fn named(facts: &Facts) -> impl Iterator<Item = (&InferencePool, &EndpointPickerRef, Name)> {
    facts.objects.pools.iter().filter_map(|pool| {
        let picker = pool.spec.endpoint_picker_ref.as_ref()?;
        let service = picker.kind.as_deref().is_none_or(|kind| kind == "Service");
        let name = Name { namespace: Name::of(&pool.metadata).namespace, name: picker.name.clone() };
        service.then_some((pool, picker, name))
    })
}

fn service<'a>(facts: &'a Facts, name: &Name) -> Option<&'a Service> {
    facts.objects.services.iter().find(|service| Name::of(&service.metadata) == *name)
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The pods that a Service leads to by its selector.
fn behind<'a>(facts: &'a Facts, service: &Service) -> Vec<&'a Pod> {
    facts.objects.pods.iter().filter(|pod| leads_to(service, pod)).collect()
}

fn title(picker: &Picker) -> String {
    format!("picker at {}", picker.address)
}

pub(super) const PICKER_NOT_NAMED: Check = Check {
    id: "picker-not-named",
    about: "a pool names no picker, so that gateways choose an endpoint without looking",
    needs: &[&[Source::InferencePools]],
    find: picker_not_named,
};

fn picker_not_named(facts: &Facts) -> Vec<Found> {
    let without = facts.objects.pools.iter().filter(|pool| pool.spec.endpoint_picker_ref.is_none());
    let found = |pool: &InferencePool| {
        Found::warning(
            pools::title(pool),
            "it has no endpointPickerRef: gateways balance over its pods, and ask no picker",
            "let spec.endpointPickerRef name the picker's Service and its port",
        )
    };
    without.map(found).collect()
}

pub(super) const PICKER_SERVICE_MISSING: Check = Check {
    id: "picker-service-missing",
    about: "a pool names a picker Service, or a port of one, that is not there",
    needs: &[&[Source::InferencePools], &[Source::Services]],
    find: picker_service_missing,
};

fn picker_service_missing(facts: &Facts) -> Vec<Found> {
    let found = |(pool, picker, name): (&InferencePool, &EndpointPickerRef, Name)| {
        let wanted = picker.port.as_ref().map(|port| port.number);
        let Some(service) = service(facts, &name) else {
            let problem = format!("it names the Service {name} as its picker, and there is none");
            let fix = "make the Service, in the pool's own namespace, with the labels of the picker's pods";
            return Some(Found::error(pools::title(pool), problem, fix).with(made(
                facts,
                &name,
                wanted.unwrap_or(9002),
            )));
        };
        let has = ports(service);
        let Some(port) = wanted else {
            let problem = "its endpointPickerRef has no port, and a Service needs one";
            let fix = format!("name one of the ports of Service {name}: {}", list(has.iter().map(|port| port.port)));
            return Some(Found::error(pools::title(pool), problem, fix));
        };
        (!has.iter().any(|it| it.port == i32::from(port))).then(|| {
            let problem = format!("it calls its picker at port {port} of Service {name}, which has not that port");
            let fix = format!("name one that it has: {}", list(has.iter().map(|port| port.port)));
            Found::error(pools::title(pool), problem, fix)
        })
    };
    named(facts).filter_map(found).collect()
}

/// A Service as the missing one would be, with the selector of another pool's.
fn made(facts: &Facts, name: &Name, port: u16) -> Value {
    let others = named(facts).filter(|(_, _, other)| other.namespace == name.namespace);
    let selector = others.filter_map(|(_, _, other)| service(facts, &other)?.spec.as_ref()?.selector.clone()).next();
    // Those of the chart.
    let selector = selector.map_or_else(
        || json!({"app.kubernetes.io/name": "kthena-ext-proc", "app.kubernetes.io/instance": "kthena"}),
        |selector| json!(selector),
    );
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {
            "selector": selector,
            "ports": [{"name": "grpc-ext-proc", "port": port, "targetPort": 9002, "appProtocol": "kubernetes.io/h2c"}],
        },
    })
}

pub(super) const PICKER_NOT_READY: Check = Check {
    id: "picker-not-ready",
    about: "nothing answers behind a pool's picker Service, or the picker waits to see the cluster",
    needs: &[
        &[Source::Picker, Source::InferencePools],
        &[Source::Picker, Source::Services],
        &[Source::Picker, Source::EndpointSlices, Source::Pods],
    ],
    find: picker_not_ready,
};

fn picker_not_ready(facts: &Facts) -> Vec<Found> {
    let waits = facts.picker.iter().filter(|picker| !picker.known).map(|picker| {
        Found::error(
            title(picker),
            "it has not yet seen pools and pods, and refuses every request with 503",
            "see its log: it may not be allowed to list pods, inferencepools, modelservers and modelroutes",
        )
    });
    let behind = named(facts).filter_map(|(pool, _, name)| {
        let service = service(facts, &name)?;
        let problem = unanswered(facts, service, &name)?;
        let fix = "see the picker's pods: kubectl describe, kubectl logs; the Service must have their labels";
        Some(Found::error(pools::title(pool), problem, fix))
    });
    waits.chain(behind).collect()
}

/// Why nobody answers behind a Service.
fn unanswered(facts: &Facts, service: &Service, name: &Name) -> Option<String> {
    let pods: Vec<&Pod> = behind(facts, service).into_iter().filter(|pod| pod.ready.is_some()).collect();
    if facts.read.contains(&Source::EndpointSlices) {
        let ours = facts.objects.slices.iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            Name::of(&slice.metadata).namespace == name.namespace
                && labels.and_then(|labels| labels.get(SERVICE_NAME)) == Some(&name.name)
        });
        let mut endpoints = ours.flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = endpoints.any(|it| it.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true));
        let of =
            if pods.is_empty() { String::new() } else { format!(" of {}", list(pods.iter().map(|pod| &pod.name))) };
        return (!ready && facts.live).then(|| format!("its picker's Service {name} has no ready endpoint{of}"));
    }
    let names = || list(pods.iter().map(|pod| &pod.name));
    let none_ready = !pods.is_empty() && pods.iter().all(|pod| pod.ready == Some(false));
    none_ready.then(|| format!("none of the picker's pods behind Service {name} is ready: {}", names()))
}

pub(super) const CONFIGURATION_REFUSED: Check = Check {
    id: "configuration-refused",
    about: "a picker refuses what it was given to read, and keeps the last good one",
    needs: &[&[Source::Picker]],
    find: configuration_refused,
};

fn configuration_refused(facts: &Facts) -> Vec<Found> {
    let found = |picker: &Picker| {
        let error = picker.last_error.as_ref()?;
        Some(Found::error(title(picker), error, "mend it: the picker goes on with the last good one, and reads again"))
    };
    facts.picker.iter().filter_map(found).collect()
}

pub(super) const POOL_NOT_SERVED: Check = Check {
    id: "pool-not-served",
    about: "a picker that serves several pools does not know one of the cluster's",
    needs: &[&[Source::Picker], &[Source::InferencePools]],
    find: pool_not_served,
};

fn pool_not_served(facts: &Facts) -> Vec<Found> {
    // One that serves a single pool was told to (--pool-name).
    let Some(picker) = facts.picker.as_ref().filter(|picker| picker.pools.len() != 1) else { return Vec::new() };
    let unknown = facts.objects.pools.iter().filter(|pool| {
        let name = Name::of(&pool.metadata).to_string();
        !picker.pools.iter().any(|served| served.name == name)
    });
    let found = |pool: &InferencePool| {
        Found::warning(
            pools::title(pool),
            format!("the {} does not know it", title(picker)),
            "see its --pool-namespace and --config-dir, and its rights in the pool's namespace; or another picker serves it",
        )
    };
    unknown.map(found).collect()
}

pub(super) const TLS_MISMATCH: Check = Check {
    id: "tls-mismatch",
    about: "a gateway speaks TLS to a picker that does not, or plain text to one that demands TLS",
    needs: &[&[Source::InferencePools], &[Source::Services], &[Source::Pods]],
    find: tls_mismatch,
};

fn tls_mismatch(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    for (pool, picker, name) in named(facts) {
        let Some(service) = service(facts, &name) else { continue };
        let Some((pod, required)) =
            behind(facts, service).into_iter().find_map(|pod| Some((pod, demands_tls(&pod.words)?)))
        else {
            continue;
        };
        let wanted = picker.port.as_ref().map(|port| i32::from(port.number));
        let port = ports(service).iter().find(|port| Some(port.port) == wanted);
        let protocol = port.and_then(|port| port.app_protocol.as_deref());
        let spoken = match protocol {
            Some("kubernetes.io/h2c" | "http" | "grpc") => {
                Some((false, format!("appProtocol {}", protocol.unwrap_or_default())))
            }
            Some("https" | "grpcs" | "tls") => Some((true, format!("appProtocol {}", protocol.unwrap_or_default()))),
            _ => None,
        };
        for (tls, how) in spoken.into_iter().chain(of_envoy(facts, &name)).filter(|(tls, _)| *tls != required) {
            let (mode, speaks) = if tls { ("off", "TLS") } else { ("required", "plain text") };
            found.push(Found::error(
                pools::title(pool),
                format!("{how} speaks {speaks} to the picker, and {} has --tls {mode}", pod.title()),
                "run the picker with --tls auto, which understands both on one port, or change the other side",
            ));
        }
    }
    found
}

/// Whether the picker with these words demands TLS; `None` if it takes both.
fn demands_tls(words: &[String]) -> Option<bool> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mode = match word.as_str() {
            "--tls" => words.next().map(String::as_str),
            word => word.strip_prefix("--tls=").or_else(|| word.strip_prefix("KTHENA_TLS=")),
        };
        match mode {
            Some("required") => return Some(true),
            Some("off") => return Some(false),
            _ => {}
        }
    }
    None
}

/// How Envoy's clusters call the Service.
fn of_envoy(facts: &Facts, service: &Name) -> Vec<(bool, String)> {
    let host = format!("{}.{}.", service.name, service.namespace);
    let clusters = facts.envoy.iter().flat_map(|envoy| &envoy.clusters);
    let calls =
        clusters.filter(|(name, cluster)| name.contains(&host) || cluster.hosts.iter().any(|it| it.starts_with(&host)));
    calls.map(|(name, cluster)| (cluster.tls, format!("Envoy's cluster {name}"))).collect()
}

#[cfg(test)]
mod tests;
