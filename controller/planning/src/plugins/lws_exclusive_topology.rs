//! `lws-exclusive-topology`: all pods of a group in one domain of a topology, and no other group's pods there; what
//! LeaderWorkerSet's annotation of that name asks for. It comes after `lws-standard-labels`, by whose labels it tells
//! groups apart.

use controller_api::leader_worker_set::GROUP_KEY_LABEL;
use k8s_openapi::api::core::v1::{Pod, PodAffinity, PodAffinityTerm, PodAntiAffinity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::Deserialize;
use serde_json::Value;

use super::{Place, Step, settings};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LwsExclusiveTopology {
    topology_key: String,
}

pub(super) fn new(config: Option<&Value>) -> Result<Box<dyn Step>, String> {
    let plugin: LwsExclusiveTopology = settings(config)?;
    if plugin.topology_key.is_empty() {
        return Err("config: set topologyKey to the node label whose value a group's nodes share".to_owned());
    }
    Ok(Box::new(plugin))
}

impl Step for LwsExclusiveTopology {
    fn apply(&self, pod: &mut Pod, _place: &Place<'_>) -> Result<(), String> {
        let labels = pod.metadata.labels.as_ref();
        let key = labels.and_then(|labels| labels.get(GROUP_KEY_LABEL)).cloned();
        let key =
            key.ok_or_else(|| format!("the pod has no label {GROUP_KEY_LABEL}: list lws-standard-labels first"))?;
        let own = vec![requirement("In", Some(&key))];
        let others = vec![requirement("Exists", None), requirement("NotIn", Some(&key))];
        let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default();
        let together: &mut PodAffinity = affinity.pod_affinity.get_or_insert_default();
        together.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(self.term(own));
        let apart: &mut PodAntiAffinity = affinity.pod_anti_affinity.get_or_insert_default();
        apart.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(self.term(others));
        Ok(())
    }
}

impl LwsExclusiveTopology {
    fn term(&self, requirements: Vec<LabelSelectorRequirement>) -> PodAffinityTerm {
        PodAffinityTerm {
            label_selector: Some(LabelSelector { match_expressions: Some(requirements), match_labels: None }),
            topology_key: self.topology_key.clone(),
            ..PodAffinityTerm::default()
        }
    }
}

fn requirement(operator: &str, key: Option<&String>) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: GROUP_KEY_LABEL.to_owned(),
        operator: operator.to_owned(),
        values: key.map(|key| vec![key.clone()]),
    }
}
