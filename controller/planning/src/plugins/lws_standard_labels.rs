//! `lws-standard-labels`: the labels that LeaderWorkerSet puts on its pods, for those of a ModelServing that a
//! LeaderWorkerSet owns.

use controller_api::leader_worker_set::{GROUP_INDEX_LABEL, GROUP_KEY_LABEL, NAME_LABEL, WORKER_INDEX_LABEL};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::{Place, Step, no_settings};
use crate::{leader_worker_set, names};

#[derive(Debug)]
struct LwsStandardLabels;

pub(super) fn new(config: Option<&Value>) -> Result<Box<dyn Step>, String> {
    no_settings(config)?;
    Ok(Box::new(LwsStandardLabels))
}

impl Step for LwsStandardLabels {
    fn apply(&self, pod: &mut Pod, place: &Place<'_>) -> Result<(), String> {
        let Some(set) = leader_worker_set::owner(place.serving) else { return Ok(()) };
        let group = names::trailing_number(place.group)
            .ok_or_else(|| format!("group {:?} does not end with its number", place.group))?;
        // Kthena's key; it only has to differ from group to group.
        let key = sha1_smol::Sha1::from(format!("{}-{group}", set.name)).digest().to_string();
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), set.name.clone());
        labels.insert(GROUP_INDEX_LABEL.to_owned(), group.to_string());
        labels.insert(WORKER_INDEX_LABEL.to_owned(), place.number.to_string());
        labels.insert(GROUP_KEY_LABEL.to_owned(), key);
        Ok(())
    }
}
