//! Objects of the cluster, reduced to what a plan depends on.

use controller_api::labels;
use controller_api::pod_group::PodGroup;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{pod_group_fingerprint, service_fingerprint};
use crate::observed::{PodFacts, PodGroupFacts, PodHealth, ServiceFacts};

/// The facts of a pod; empty where it does not carry our labels.
pub fn pod_facts(pod: &Pod) -> PodFacts {
    let metadata = &pod.metadata;
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
    PodFacts {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        group: label(metadata, labels::GROUP_NAME),
        role: label(metadata, labels::ROLE),
        role_id: label(metadata, labels::ROLE_ID),
        revision: label(metadata, labels::REVISION),
        role_template_hash: label(metadata, labels::ROLE_TEMPLATE_HASH),
        // Whatever is no whole number costs nothing, as everywhere in Kubernetes.
        deletion_cost: metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(labels::POD_DELETION_COST)?.parse::<i32>().ok())
            .map_or(0, i64::from),
        created,
        terminating: metadata.deletion_timestamp.is_some(),
        health: pod.status.as_ref().map_or(PodHealth::NotReady, |status| health(status, created)),
        ready_since: pod.status.as_ref().and_then(ready_since),
    }
}

/// The facts of a headless service; empty where it does not carry our labels.
pub fn service_facts(service: &Service) -> ServiceFacts {
    let metadata = &service.metadata;
    ServiceFacts {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        group: label(metadata, labels::GROUP_NAME),
        role: label(metadata, labels::ROLE),
        role_id: label(metadata, labels::ROLE_ID),
        revision: label(metadata, labels::REVISION),
        terminating: metadata.deletion_timestamp.is_some(),
        fingerprint: service_fingerprint(service),
    }
}

/// The facts of a gang.
pub fn pod_group_facts(group: &PodGroup) -> PodGroupFacts {
    let metadata = &group.metadata;
    PodGroupFacts {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        revision: label(metadata, labels::REVISION),
        terminating: metadata.deletion_timestamp.is_some(),
        fingerprint: pod_group_fingerprint(group),
    }
}

fn label(metadata: &ObjectMeta, key: &str) -> String {
    metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
}

fn ready_since(status: &PodStatus) -> Option<Timestamp> {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    condition.last_transition_time.as_ref().filter(|_| condition.status == "True").map(|time| time.0)
}

fn health(status: &PodStatus, created: Option<Timestamp>) -> PodHealth {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let ready = condition.is_some_and(|condition| condition.status == "True");
    let changed = condition.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    match status.phase.as_deref() {
        Some("Running") if ready => PodHealth::Ready,
        Some("Succeeded") => PodHealth::Finished,
        Some("Failed") => {
            let last = containers(status).filter_map(|(_, container)| ended(container)).max_by_key(|end| finished(end));
            let reason = match (&status.reason, containers(status).find_map(failure)) {
                (Some(reason), _) => said(reason, status.message.as_deref()),
                (None, Some(failure)) => failure,
                (None, None) => said("the pod failed", status.message.as_deref()),
            };
            PodHealth::Failed { since: last.and_then(finished).or(changed).or(created), reason, ended: true }
        }
        Some("Running" | "Pending") => restarted(status, changed, created).unwrap_or(PodHealth::NotReady),
        // Unknown: its node is silent; the node's controller decides what becomes of it.
        _ => PodHealth::NotReady,
    }
}

/// A pod that is not ready because a container had to be started again.
fn restarted(status: &PodStatus, not_ready_since: Option<Timestamp>, created: Option<Timestamp>) -> Option<PodHealth> {
    let mut suspects = containers(status)
        .filter(|(_, container)| container.restart_count > 0 && !was_ready_again(container, not_ready_since))
        .peekable();
    let (_, first) = suspects.peek()?;
    // Between two crashes the kubelet keeps only the later one, which moves with each crash: from the second on, the
    // time since which the pod is not ready is the one that stays.
    let crashed = (first.restart_count == 1).then(|| ended(first).and_then(finished)).flatten();
    let since = crashed.max(not_ready_since).or(created);
    let reason = suspects.find_map(failure).unwrap_or_else(|| "a container was started again".to_owned());
    Some(PodHealth::Failed { since, reason, ended: false })
}

/// The pod became unready only after `container` had come back: something else keeps it from being ready.
fn was_ready_again(container: &ContainerStatus, not_ready_since: Option<Timestamp>) -> bool {
    // Both times are whole seconds, and the condition may be written a moment after a start that it preceded.
    const ROUNDING: SignedDuration = SignedDuration::from_secs(1);
    let running = container.state.as_ref().and_then(|state| state.running.as_ref()?.started_at.as_ref());
    match (running, not_ready_since) {
        (Some(started), Some(since)) => since.duration_since(started.0) > ROUNDING,
        _ => false,
    }
}

/// Init containers first, each with its name for a person.
fn containers(status: &PodStatus) -> impl Iterator<Item = (&'static str, &ContainerStatus)> {
    let init = status.init_container_statuses.iter().flatten().map(|container| ("init container", container));
    init.chain(status.container_statuses.iter().flatten().map(|container| ("container", container)))
}

/// How its last run ended.
fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let current = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    current.or_else(|| container.last_state.as_ref()?.terminated.as_ref())
}

fn finished(end: &ContainerStateTerminated) -> Option<Timestamp> {
    end.finished_at.as_ref().map(|time| time.0)
}

/// `OOMKilled (exit code 137) in container engine`, if its last run did not end well.
fn failure((kind, container): (&'static str, &ContainerStatus)) -> Option<String> {
    let end = ended(container)?;
    let reason = end.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("Error");
    let restarted = container.restart_count > 0;
    (end.exit_code != 0 || restarted)
        .then(|| format!("{reason} (exit code {}) in {kind} {}", end.exit_code, container.name))
}

/// `Evicted: The node was low on resource: memory.`
fn said(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}
