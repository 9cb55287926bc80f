//! What a pod asks of the node it lands on, as Kubernetes counts it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

/// Amounts by resource: `cpu`, `memory`, `nvidia.com/gpu`.
pub(super) type Amounts = BTreeMap<String, Amount>;

/// What `spec` asks for: containers together with sidecars (init containers that are always restarted), or the
/// greediest moment of the start if that is more; what the pod as a whole states instead; and its overhead.
pub(super) fn of_pod(spec: &PodSpec) -> Amounts {
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &of_container(container), 1);
    }
    let mut starting = Amounts::new();
    let mut sidecars = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &own, 1);
            add(&mut sidecars, &own, 1);
            keep_greatest(&mut starting, &sidecars);
        } else {
            // It runs beside the sidecars before it.
            let mut moment = sidecars.clone();
            add(&mut moment, &own, 1);
            keep_greatest(&mut starting, &moment);
        }
    }
    keep_greatest(&mut running, &starting);
    for (resource, amount) in spec.resources.as_ref().map(stated).unwrap_or_default() {
        running.insert(resource, amount);
    }
    for (resource, quantity) in spec.overhead.iter().flatten() {
        if let Ok(amount) = quantity.0.parse() {
            let sum = running.entry(resource.clone()).or_default();
            *sum = sum.plus(amount);
        }
    }
    running
}

/// Adds `count` times `more`.
pub(super) fn add(sum: &mut Amounts, more: &Amounts, count: u32) {
    if count == 0 {
        return;
    }
    for (resource, amount) in more {
        let total = sum.entry(resource.clone()).or_default();
        *total = total.plus(amount.times(count));
    }
}

/// As Kubernetes writes them.
pub(super) fn quantities(amounts: Amounts) -> BTreeMap<String, Quantity> {
    amounts.into_iter().map(|(resource, amount)| (resource, Quantity(amount.to_string()))).collect()
}

fn keep_greatest(sum: &mut Amounts, other: &Amounts) {
    for (resource, amount) in other {
        let entry = sum.entry(resource.clone()).or_default();
        *entry = entry.max(*amount);
    }
}

fn of_container(container: &Container) -> Amounts {
    container.resources.as_ref().map(stated).unwrap_or_default()
}

/// Requests; where there is only a limit, it is the request too, as the API server defaults it.
fn stated(resources: &ResourceRequirements) -> Amounts {
    let limits = resources.limits.iter().flatten();
    let requests = resources.requests.iter().flatten();
    // What is not a quantity the API server refuses with the pod, naming the field.
    limits
        .chain(requests)
        .filter_map(|(resource, quantity)| Some((resource.clone(), quantity.0.parse().ok()?)))
        .collect()
}
