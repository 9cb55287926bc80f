//! The Service by which gateways call the picker for one pool.
//!
//! One picker serves many pools, and a gateway does not say for which of them it asks: all that it tells is under which
//! name it calls. So each pool has a Service of its own, which leads to the pods of the picker's.

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::model_server::{Answer, Around};
use super::{Ownership, Settings, is_alive, owned, ownership};

/// Behind the pool's name, as the Gateway API Inference Extension names an endpoint picker.
const SUFFIX: &str = "-epp";
/// The longest name of a Service (RFC 1035 2.3.4).
const NAME_LENGTH: usize = 63;

/// The Service of the pool of this name; nothing if no Service can be called so.
#[must_use]
pub fn name(pool: &str) -> Option<String> {
    let name = format!("{pool}{SUFFIX}");
    let letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    let is_label = name.len() <= NAME_LENGTH && name.starts_with(|first: char| first.is_ascii_lowercase());
    (is_label && name.bytes().all(letter)).then_some(name)
}

/// The pool whose Service this may be.
#[must_use]
pub fn pool(service: &str) -> Option<&str> {
    service.strip_suffix(SUFFIX)
}

/// The port of the picker's Service that gateways are to call.
pub(super) fn port<'a>(picker: &'a Service, settings: &Settings) -> Option<&'a ServicePort> {
    let mut ports = picker.spec.as_ref()?.ports.iter().flatten();
    ports.find(|port| port.port == i32::from(settings.picker_port))
}

/// The Service that the pool of a ModelServer names: its own, or the picker's where it can have none.
pub(super) fn service_of(server: &ModelServer, around: Around<'_>) -> String {
    let shared = &around.settings.picker_service;
    let own = server.metadata.name.as_deref().and_then(name).filter(|own| own != shared);
    // Without a selector somebody else says which pods it leads to, and so for the pool's.
    let copied = around.picker.is_none_or(|picker| !selector(picker).is_empty());
    own.filter(|_| copied || around.service.is_some()).unwrap_or_else(|| shared.clone())
}

/// What to write for the Service of a ModelServer's pool.
pub(super) fn settle(server: &ModelServer, around: Around<'_>, answer: &mut Answer) {
    let name = service_of(server, around);
    let Some(picker) = around.picker.filter(|_| name != around.settings.picker_service) else { return };
    let Some(port) = port(picker, around.settings).filter(|_| !selector(picker).is_empty()) else { return };
    let ours = |found: &&Service| ownership::<ModelServer>(&server.metadata, &found.metadata) == Ownership::Ours;
    if around.service.is_some() && around.service.filter(ours).is_none() {
        return;
    }
    let mut metadata = owned::<ModelServer>(&server.metadata, name);
    let label = (labels::PICKER_SERVICE.to_owned(), around.settings.picker_service.clone());
    metadata.labels = Some(BTreeMap::from([label]));
    let wanted = Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: Some(selector(picker)),
            // Whatever port of the nodes leads to the picker's Service does not lead here.
            ports: Some(vec![ServicePort { node_port: None, ..port.clone() }]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    if around.service.is_none_or(|found| !says_the_same(found, &wanted) && is_alive(&found.metadata)) {
        answer.service = Some(Box::new(wanted));
    }
}

/// Deletes the Service of a ModelServer that has no pool any more.
pub(super) fn retire(server: &ModelServer, around: Around<'_>, answer: &mut Answer) {
    let Some(found) = around.service else { return };
    if ownership::<ModelServer>(&server.metadata, &found.metadata) == Ownership::Ours && is_alive(&found.metadata) {
        answer.retire = found.metadata.name.clone().zip(found.metadata.uid.clone());
    }
}

fn selector(service: &Service) -> BTreeMap<String, String> {
    service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default()
}

/// Whether nothing of `wanted` is other than it is found.
fn says_the_same(found: &Service, wanted: &Service) -> bool {
    let ports = |service: &Service| service.spec.as_ref().and_then(|spec| spec.ports.clone());
    let label = |service: &Service| service.metadata.labels.as_ref()?.get(labels::PICKER_SERVICE).cloned();
    selector(found) == selector(wanted) && ports(found) == ports(wanted) && label(found) == label(wanted)
}
