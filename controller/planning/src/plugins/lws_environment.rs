//! `lws-environment`: the variables by which the containers of a LeaderWorkerSet find each other.

use controller_api::labels;
use controller_api::leader_worker_set::{GROUP_SIZE_ENV, LEADER_ADDRESS_ENV, WORKER_INDEX_ENV};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use serde_json::Value;

use super::{Place, Step, no_settings};

#[derive(Debug)]
struct LwsEnvironment;

pub(super) fn new(config: Option<&Value>) -> Result<Box<dyn Step>, String> {
    no_settings(config)?;
    Ok(Box::new(LwsEnvironment))
}

/// Each variable with the one of ours that says the same.
const SAME: [(&str, &str); 3] = [
    (LEADER_ADDRESS_ENV, labels::ENTRY_ADDRESS),
    (GROUP_SIZE_ENV, labels::GROUP_SIZE),
    (WORKER_INDEX_ENV, labels::WORKER_INDEX),
];

impl Step for LwsEnvironment {
    fn apply(&self, pod: &mut Pod, _place: &Place<'_>) -> Result<(), String> {
        let spec = pod.spec.get_or_insert_default();
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            tell(container);
        }
        Ok(())
    }
}

fn tell(container: &mut Container) {
    let given = container.env.take().unwrap_or_default();
    let value = |ours: &str| given.iter().find(|variable| variable.name == ours)?.value.clone();
    // First, so that what follows may say `$(LWS_LEADER_ADDRESS)`.
    let mut env: Vec<EnvVar> = SAME
        .iter()
        .filter_map(|(theirs, ours)| {
            Some(EnvVar { name: (*theirs).to_owned(), value: Some(value(ours)?), value_from: None })
        })
        .collect();
    env.extend(given.into_iter().filter(|variable| SAME.iter().all(|(theirs, _)| variable.name != *theirs)));
    container.env = Some(env);
}
