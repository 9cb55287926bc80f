//! `demo-pod-tweaks`: a runtime class, annotations and environment for pods whose templates one would rather not
//! touch.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, Pod};
use serde::Deserialize;
use serde_json::Value;

use super::{Place, Step, settings};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DemoPodTweaks {
    runtime_class_name: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    env: Vec<EnvVar>,
}

pub(super) fn new(config: Option<&Value>) -> Result<Box<dyn Step>, String> {
    Ok(Box::new(settings::<DemoPodTweaks>(config)?))
}

impl Step for DemoPodTweaks {
    fn apply(&self, pod: &mut Pod, _place: &Place<'_>) -> Result<(), String> {
        if !self.annotations.is_empty() {
            pod.metadata.annotations.get_or_insert_default().extend(self.annotations.clone());
        }
        let spec = pod.spec.get_or_insert_default();
        if let Some(class) = self.runtime_class_name.as_ref().filter(|class| !class.is_empty()) {
            spec.runtime_class_name = Some(class.clone());
        }
        if !self.env.is_empty() {
            for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                container.env.get_or_insert_default().extend(self.env.iter().cloned());
            }
        }
        Ok(())
    }
}
