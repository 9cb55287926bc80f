//! The Service by which gateways call the picker for one pool.
//!
//! One picker serves many pools, and a gateway does not say for which of them it asks: all that it tells is under which
//! name it calls. So each pool has a Service of its own, which leads to the pods of the picker's: by the same selector,
//! or, where these are in another namespace, by [`picker_endpoints`](super::picker_endpoints).

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::model_server::{Answer, Around};
use super::{Ownership, Settings, is_alive, owned, ownership};
use crate::validation::is_label;

/// Behind the pool's name, as the Gateway API Inference Extension names an endpoint picker.
const SUFFIX: &str = "-epp";
/// The longest name of a Service (RFC 1035 2.3.4).
const NAME_LENGTH: usize = 63;

/// The Service of the pool of this name; nothing if no Service can be called so.
#[must_use]
pub fn name(pool: &str) -> Option<String> {
    let name = format!("{pool}{SUFFIX}");
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    (begins && is_label(&name) && name.len() <= NAME_LENGTH).then_some(name)
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

/// Whether the picker of a ModelServer's pool is in another namespace.
pub(super) fn is_elsewhere(server: &ModelServer, around: Around<'_>) -> bool {
    around.settings.is_elsewhere(server.metadata.namespace.as_deref().unwrap_or_default())
}

/// The pool's own Service; nothing if it can have none.
pub(super) fn own(server: &ModelServer, around: Around<'_>) -> Option<String> {
    let own = server.metadata.name.as_deref().and_then(name)?;
    if is_elsewhere(server, around) {
        return Some(own);
    }
    // Without a selector somebody else says which pods it leads to, and so for the pool's.
    let copied = around.picker.is_none_or(|picker| !selector(picker).is_empty());
    (own != around.settings.picker_service && (copied || around.service.is_some())).then_some(own)
}

/// The Service that the pool of a ModelServer names: its own, or the picker's where it can have none.
pub(super) fn service_of(server: &ModelServer, around: Around<'_>) -> String {
    own(server, around).unwrap_or_else(|| around.settings.picker_service.clone())
}

/// What to write for the Service of a ModelServer's pool.
pub(super) fn settle(server: &ModelServer, around: Around<'_>, answer: &mut Answer) {
    let elsewhere = is_elsewhere(server, around);
    let has_selector = |service: &Service| !selector(service).is_empty();
    if !elsewhere && around.service.is_some_and(|found| !has_selector(found)) {
        // It led elsewhere, and its endpoints go with it.
        return retire(server, around, answer);
    }
    let Some((name, picker)) = own(server, around).zip(around.picker) else { return };
    let Some(port) = port(picker, around.settings).filter(|_| elsewhere || has_selector(picker)) else { return };
    if around.service.is_some_and(|found| !is_ours(server, found)) {
        return;
    }
    if elsewhere && around.service.is_some_and(has_selector) {
        // Kubernetes leaves the endpoints of a selector that is taken away: they go with it, too.
        return retire(server, around, answer);
    }
    let mut metadata = owned::<ModelServer>(&server.metadata, name);
    metadata.labels = Some(BTreeMap::from([
        (labels::PICKER_SERVICE.to_owned(), around.settings.picker_service.clone()),
        // Kubernetes copies it to the Endpoints of a selector, which may outlive this Service and must not become
        // endpoints of the next one of its name.
        (labels::SKIP_MIRROR.to_owned(), "true".to_owned()),
    ]));
    let wanted = Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: (!elsewhere).then(|| selector(picker)),
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
    if is_ours(server, found) && is_alive(&found.metadata) {
        answer.retire = found.metadata.name.clone().zip(found.metadata.uid.clone());
    }
}

/// Whether a Service was made for this ModelServer.
pub(super) fn is_ours(server: &ModelServer, found: &Service) -> bool {
    ownership::<ModelServer>(&server.metadata, &found.metadata) == Ownership::Ours
}

pub(super) fn selector(service: &Service) -> BTreeMap<String, String> {
    service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default()
}

/// Whether nothing of `wanted` is other than it is found.
fn says_the_same(found: &Service, wanted: &Service) -> bool {
    let ports = |service: &Service| service.spec.as_ref().and_then(|spec| spec.ports.clone());
    let label = |service: &Service, key: &str| service.metadata.labels.as_ref()?.get(key).cloned();
    let same = |key: &&str| label(found, key) == label(wanted, key);
    let keys = [labels::PICKER_SERVICE, labels::SKIP_MIRROR];
    selector(found) == selector(wanted) && ports(found) == ports(wanted) && keys.iter().all(same)
}
