//! A ModelServer becomes an InferencePool of its name.

use std::collections::BTreeSet;
use std::sync::Arc;

use controller_api::inference_pool::{
    AppProtocol, EndpointPickerRef, FailureMode, InferencePool, InferencePoolSpec, LabelSelector, Port,
};
use controller_api::v1alpha1::model_server::{ModelServer, ModelServerStatus, PdGroup, Protocol};
use controller_api::{conditions as words, labels};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::conditions::{Verdict, conditions, events, list, says_the_same};
use super::selection::{PodEndpoint, Selection, concerns, holds};
use super::{Ownership, Settings, is_alive, owned, ownership, picker_endpoints, picker_service, precedence};
use crate::plan::Event;

/// What a ModelServer's InferencePool and status depend on.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The operator's flags.
    pub settings: &'a Settings,
    /// The ModelServers of its namespace, itself among them.
    pub servers: &'a [Arc<ModelServer>],
    /// Whether the cluster has InferencePools.
    pub pools: bool,
    /// The InferencePool of its name.
    pub pool: Option<&'a InferencePool>,
    /// The picker's Service, in its namespace or where the operator's flags say.
    pub picker: Option<&'a Service>,
    /// The EndpointSlices of the picker's Service, where that is in another namespace.
    pub picker_slices: &'a [Arc<EndpointSlice>],
    /// The Service of the name that [its pool's](picker_service::name) has.
    pub service: Option<&'a Service>,
    /// Our EndpointSlices of that Service.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The pods of its namespace.
    pub pods: &'a [Arc<PodEndpoint>],
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Applied.
    pub apply: Option<Box<InferencePool>>,
    /// The UID of the InferencePool of its name, which is deleted.
    pub delete: Option<String>,
    /// The Service by which gateways call the picker for its pool: applied before the pool.
    pub service: Option<Box<Service>>,
    /// Name and UID of that Service, which is deleted after the pool.
    pub retire: Option<(String, String)>,
    /// EndpointSlices of that Service: created, or applied if they have a UID.
    pub slices: Vec<EndpointSlice>,
    /// Names and UIDs of its EndpointSlices, which are deleted.
    pub drop_slices: Vec<(String, String)>,
    /// The whole status.
    pub status: Option<Box<ModelServerStatus>>,
    /// Whether somebody may wait for the status: more than counts changed.
    pub urgent: bool,
    /// Told once all is written.
    pub events: Vec<Event>,
}

/// The ModelServer whose InferencePool serves this one: the oldest of those that select the same pods and ports by the
/// same labels. Nothing if there is no such pool.
pub(super) fn pool_of<'a>(server: &ModelServer, servers: &'a [Arc<ModelServer>]) -> Option<&'a Arc<ModelServer>> {
    let selection = Selection::of(server).ok()?;
    let same = |other: &&Arc<ModelServer>| {
        is_alive(&other.metadata)
            && other.metadata.namespace == server.metadata.namespace
            && Selection::of(other).is_ok_and(|other| other == selection)
    };
    servers.iter().filter(same).min_by(|one, other| precedence(&one.metadata, &other.metadata))
}

/// What to write for a ModelServer. Times are whole seconds.
#[must_use]
pub fn answer(server: &ModelServer, around: Around<'_>, now: Timestamp) -> Answer {
    let mut answer = Answer::default();
    if !is_alive(&server.metadata) {
        return answer;
    }
    let selection = Selection::of(server);
    let accepted = accept(server, selection.as_ref(), around, &mut answer);
    picker_endpoints::settle(server, around, &mut answer);
    let counts = selection.as_ref().ok().map(|selection| Counts::of(server, selection, around.pods));
    let endpoints = match &counts {
        Some(counts) => counts.verdict(server, around),
        None => Verdict::no(words::NO_ENDPOINTS, "no pod is selected".to_owned()),
    };
    let verdicts = [
        (words::ACCEPTED, accepted),
        (words::RESOLVED_REFS, resolve(server, around)),
        (words::ENDPOINTS_READY, endpoints),
    ];
    let none = ModelServerStatus::default();
    let before = server.status.as_ref().unwrap_or(&none);
    let generation = server.metadata.generation.unwrap_or_default();
    let status = ModelServerStatus {
        observed_generation: Some(generation),
        endpoints: counts.as_ref().map(|counts| counts.decode.all),
        ready_endpoints: counts.as_ref().map(|counts| counts.decode.ready),
        // What waits for pods mends itself.
        conditions: conditions(&verdicts, 2, generation, &before.conditions, now),
    };
    if status != *before {
        answer.urgent = !says_the_same(&before.conditions, &status.conditions);
        let [accepted, resolved, _] = verdicts;
        answer.events = events(&[accepted, resolved], &before.conditions);
        answer.status = Some(Box::new(status));
    }
    answer
}

/// Whether there is a pool, and what to write so that there is.
fn accept(
    server: &ModelServer,
    selection: Result<&Selection, &String>,
    around: Around<'_>,
    answer: &mut Answer,
) -> Verdict {
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let settled = selection.map_err(Clone::clone).and_then(|selection| Ok((selection, failure_mode(server, around)?)));
    let (selection, failure_mode) = match settled {
        Ok(settled) => settled,
        Err(message) => return Verdict::no(words::INVALID, message),
    };
    if !around.pools {
        let message = "the cluster has no InferencePools: install the CustomResourceDefinitions of the Gateway API \
                       Inference Extension, v1.5 or later";
        return Verdict::no(words::KIND_MISSING, message.to_owned());
    }
    let whose = around.pool.map(|pool| ownership::<ModelServer>(&server.metadata, &pool.metadata));
    let holder = pool_of(server, around.servers).filter(|holder| holder.metadata.uid != server.metadata.uid);
    if let Some(holder) = holder {
        let holder = holder.metadata.name.as_deref().unwrap_or_default();
        if whose == Some(Ownership::Ours) {
            answer.delete = around.pool.and_then(|pool| pool.metadata.uid.clone());
        }
        picker_service::retire(server, around, answer);
        let message = format!(
            "the older ModelServer {holder} selects the same pods on the same port: its InferencePool serves for both"
        );
        return Verdict::yes(words::SHARES_POOL, message);
    }
    match whose {
        Some(Ownership::Foreign) => {
            let message = format!(
                "the InferencePool {name} was made by somebody else and is left as it is: delete it, or rename the \
                 ModelServer"
            );
            return Verdict::no(words::NAME_CLASH, message);
        }
        Some(Ownership::Predecessors) => {
            let message = format!("the InferencePool {name} still belongs to the deleted ModelServer of this name");
            return Verdict::no(words::NAME_CLASH, message);
        }
        Some(Ownership::Ours) | None => {}
    }
    picker_service::settle(server, around, answer);
    let spec = pool_spec(selection, failure_mode, picker_service::service_of(server, around), around.settings);
    if around.pool.is_none_or(|pool| pool.spec != spec && is_alive(&pool.metadata)) {
        let metadata = owned::<ModelServer>(&server.metadata, name.to_owned());
        answer.apply = Some(Box::new(InferencePool { metadata, spec, status: None }));
    }
    let https = server.spec.workload_port.as_ref().is_some_and(|port| port.protocol == Protocol::Https);
    let note = if https { "; workloadPort.protocol https cannot be said of one: http is" } else { "" };
    Verdict::yes(words::ACCEPTED, format!("the InferencePool {name} selects its pods{note}"))
}

fn failure_mode(server: &ModelServer, around: Around<'_>) -> Result<FailureMode, String> {
    let annotation = server.metadata.annotations.as_ref().and_then(|all| all.get(labels::FAILURE_MODE));
    match annotation.map(String::as_str) {
        None => Ok(around.settings.failure_mode),
        Some("FailOpen") => Ok(FailureMode::FailOpen),
        Some("FailClose") => Ok(FailureMode::FailClose),
        Some(other) => {
            Err(format!("the annotation {} is {other:?}: write FailOpen or FailClose", labels::FAILURE_MODE))
        }
    }
}

/// With every default written out, so that it compares with what the API server keeps.
fn pool_spec(
    selection: &Selection,
    failure_mode: FailureMode,
    service: String,
    settings: &Settings,
) -> InferencePoolSpec {
    InferencePoolSpec {
        selector: LabelSelector { match_labels: selection.labels.clone() },
        target_ports: selection.ports.iter().map(|port| Port { number: *port }).collect(),
        app_protocol: Some(AppProtocol::Http),
        endpoint_picker_ref: Some(EndpointPickerRef {
            group: Some(String::new()),
            kind: Some("Service".to_owned()),
            name: service,
            port: Some(Port { number: settings.picker_port }),
            failure_mode: Some(failure_mode),
        }),
    }
}

fn resolve(server: &ModelServer, around: Around<'_>) -> Verdict {
    let Settings { picker_service, picker_port, .. } = around.settings;
    let elsewhere = picker_service::is_elsewhere(server, around);
    let namespace = around.settings.home(server.metadata.namespace.as_deref().unwrap_or_default());
    let Some(picker) = around.picker else {
        let message = match elsewhere {
            true => {
                format!("the namespace {namespace} of --picker-namespace has no Service {picker_service} of a picker")
            }
            false => format!(
                "this namespace has no Service {picker_service} of a picker: an InferencePool can name none elsewhere"
            ),
        };
        return Verdict::no(words::PICKER_NOT_FOUND, message);
    };
    let own = picker_service::own(server, around);
    if own.is_none() && elsewhere {
        let message = format!(
            "no Service can lead to the picker in {namespace} for this pool: let the ModelServer have a name of at most \
             59 small letters, digits and dashes that begins with a letter"
        );
        return Verdict::no(words::PICKER_NOT_FOUND, message);
    }
    let foreign = around.service.filter(|found| own.is_some() && !picker_service::is_ours(server, found));
    let own = own.as_ref();
    for (service, name) in [(Some(picker), Some(picker_service)), (foreign, own)] {
        if let Some((service, name)) = service.zip(name)
            && picker_service::port(service, around.settings).is_none()
        {
            let message = format!("the Service {name} of the picker has no port {picker_port}");
            return Verdict::no(words::PICKER_NOT_FOUND, message);
        }
    }
    let message = match (foreign.and(own), own) {
        (Some(own), _) => format!("the Service {own}, which somebody else made, leads to a picker"),
        (None, Some(_)) if elsewhere => format!("the Service {picker_service} of the picker is there, in {namespace}"),
        (None, Some(_)) => format!("the Service {picker_service} of the picker is there"),
        (None, None) => format!(
            "the Service {picker_service} of the picker is there; it can serve one such pool, because a gateway does \
             not say for which it asks"
        ),
    };
    Verdict::yes(words::RESOLVED_REFS, message)
}

/// Endpoints of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ready: i32,
    all: i32,
}

impl Count {
    fn add(&mut self, pod: &PodEndpoint, ports: usize) {
        let ports = i32::try_from(ports).unwrap_or(i32::MAX);
        self.all = self.all.saturating_add(ports);
        self.ready = self.ready.saturating_add(if pod.ready { ports } else { 0 });
    }
}

/// What there is of a ModelServer's pods.
#[derive(Debug)]
struct Counts {
    /// Those that get requests.
    decode: Count,
    /// Those that compute prompts, where there is a `pdGroup`; then also the groups with one of either that is ready.
    prefill: Option<(Count, usize)>,
}

impl Counts {
    fn of(server: &ModelServer, selection: &Selection, pods: &[Arc<PodEndpoint>]) -> Self {
        let ports = selection.ports.len();
        let (mut decode, mut prefill) = (Count::default(), Count::default());
        let (mut decodes, mut prefills) = (BTreeSet::new(), BTreeSet::new());
        let group = server.spec.workload_selector.pd_group.as_ref();
        let value = |group: &PdGroup, pod: &PodEndpoint| pod.labels.get(group.group_key.as_ref()?).cloned();
        for pod in pods.iter().filter(|pod| concerns(server, pod)) {
            if holds(&selection.labels, pod) {
                decode.add(pod, ports);
                decodes.extend(group.filter(|_| pod.ready).and_then(|group| value(group, pod)));
            } else if let Some(group) = group.filter(|group| holds(&group.prefill_labels, pod)) {
                prefill.add(pod, 1);
                prefills.extend(Some(group).filter(|_| pod.ready).and_then(|group| value(group, pod)));
            }
        }
        let pairs = decodes.intersection(&prefills).count();
        Self { decode, prefill: group.map(|_| (prefill, pairs)) }
    }

    fn verdict(&self, server: &ModelServer, around: Around<'_>) -> Verdict {
        let Count { ready, all } = self.decode;
        let mut message = match self.prefill {
            None => format!("{ready} of {all} endpoints are ready"),
            Some((prefill, pairs)) => format!(
                "{ready} of {all} decode endpoints and {} of {} prefill pods are ready, in {pairs} groups both",
                prefill.ready, prefill.all
            ),
        };
        let rivals = rivals(server, around);
        if !rivals.is_empty() {
            message.push_str(&format!("; some are endpoints of other ModelServers too: {}", list(&rivals)));
        }
        match (ready, all) {
            (_, 0) => Verdict::no(words::NO_ENDPOINTS, message),
            (0, _) => Verdict::no(words::NONE_READY, message),
            _ => Verdict::yes(words::ENDPOINTS_READY, message),
        }
    }
}

/// The ModelServers that have some endpoints of this one, without sharing its pool.
fn rivals<'a>(server: &ModelServer, around: Around<'a>) -> Vec<&'a str> {
    let Ok(ours) = Selection::of(server) else { return Vec::new() };
    let overlaps = |other: &&Arc<ModelServer>| {
        is_alive(&other.metadata)
            && other.metadata.uid != server.metadata.uid
            && Selection::of(other).is_ok_and(|theirs| {
                theirs != ours
                    && theirs.ports.iter().any(|port| ours.ports.contains(port))
                    && around.pods.iter().any(|pod| holds(&ours.labels, pod) && holds(&theirs.labels, pod))
            })
    };
    let mut names: Vec<&str> =
        around.servers.iter().filter(overlaps).filter_map(|other| other.metadata.name.as_deref()).collect();
    names.sort_unstable();
    names
}
