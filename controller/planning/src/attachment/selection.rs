//! Which endpoints a ModelServer has: pods by their labels, and ports.

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::Pod;

/// The most ports of an InferencePool.
const PORTS: u16 = 8;

/// A pod, as far as a ModelServer's status depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodEndpoint {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it may be picked.
    pub ready: bool,
}

/// What is kept of a pod; nothing of one that ends or has ended.
#[must_use]
pub fn pod_endpoint(pod: &Pod) -> Option<PodEndpoint> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    Some(PodEndpoint {
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
    })
}

/// Whether a ModelServer's status may depend on a pod of its namespace with these labels.
#[must_use]
pub fn concerns(server: &ModelServer, pod: &PodEndpoint) -> bool {
    holds(&server.spec.workload_selector.match_labels, pod)
}

/// Whether a pod has all of these labels.
pub(super) fn holds(labels: &BTreeMap<String, String>, pod: &PodEndpoint) -> bool {
    labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

/// The endpoints that get requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// The labels that each pod has: those of decode pods where there is a `pdGroup`, so that a gateway whose picker
    /// does not answer sends nothing to a prefill pod.
    pub(super) labels: BTreeMap<String, String>,
    /// The ports of each pod.
    pub(super) ports: Vec<u16>,
}

impl Selection {
    /// What the spec says.
    ///
    /// # Errors
    /// Why it cannot be an InferencePool's, and what to change.
    pub(super) fn of(server: &ModelServer) -> Result<Self, String> {
        let selector = &server.spec.workload_selector;
        let mut labels = selector.match_labels.clone();
        let decode = selector.pd_group.iter().flat_map(|group| &group.decode_labels);
        for (key, value) in decode {
            if let Some(other) = labels.insert(key.clone(), value.clone()).filter(|other| other != value) {
                return Err(format!(
                    "no pod can be selected: the label {key} is to be {other} by workloadSelector.matchLabels and \
                     {value} by pdGroup.decodeLabels"
                ));
            }
        }
        if labels.is_empty() {
            return Err("workloadSelector.matchLabels is empty: name the labels of the pods".to_owned());
        }
        if labels.len() > 64 {
            return Err(format!("workloadSelector has {} labels, and an InferencePool takes at most 64", labels.len()));
        }
        let Some(port) = &server.spec.workload_port else {
            return Err("workloadPort is missing: say on which port the engines listen".to_owned());
        };
        let ranks = ranks(server)?;
        match port.port.checked_add(ranks - 1) {
            Some(last) => Ok(Self { labels, ports: (port.port..=last).collect() }),
            None => Err(format!("there are no {ranks} ports from {} upwards", port.port)),
        }
    }
}

/// How many ports each pod has.
fn ranks(server: &ModelServer) -> Result<u16, String> {
    let annotation = server.metadata.annotations.as_ref().and_then(|all| all.get(labels::DATA_PARALLEL_RANKS));
    let Some(text) = annotation else { return Ok(1) };
    text.parse().ok().filter(|ranks| (1..=PORTS).contains(ranks)).ok_or_else(|| {
        format!("the annotation {} is {text:?}: write a number from 1 to {PORTS}", labels::DATA_PARALLEL_RANKS)
    })
}
