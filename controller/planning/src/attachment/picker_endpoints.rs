//! The endpoints of a pool's picker where that is in another namespace.
//!
//! A selector reaches the pods of its own namespace alone. There the pool's Service has none, and an EndpointSlice for
//! each that the picker's Service has, with the same endpoints (Kubernetes, "Services without selectors"). They go with
//! the pool's Service.

use std::collections::BTreeMap;

use controller_api::labels;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use kube::Resource;

use super::model_server::{Answer, Around};
use super::{is_alive, owned, picker_service};

/// Digits and dashes of a UID (RFC 9562).
const UID_LENGTH: usize = 36;
/// What neither a port of a Service nor one of an EndpointSlice has to say.
const PROTOCOL: &str = "TCP";

/// The name of the EndpointSlice that is made of the one with this UID.
fn name(service: &str, original: &str) -> String {
    format!("{service}-{original}")
}

/// The pool whose EndpointSlice this may be.
#[must_use]
pub fn pool(slice: &str) -> Option<&str> {
    let service = slice.get(..slice.len().checked_sub(UID_LENGTH)?)?.strip_suffix('-')?;
    picker_service::pool(service)
}

/// Whether an EndpointSlice is of this Service.
#[must_use]
pub fn is_of(slice: &EndpointSlice, service: &str) -> bool {
    label(slice, labels::SERVICE_NAME) == Some(service)
}

/// What to write for the EndpointSlices of the Service of a ModelServer's pool.
pub(super) fn settle(server: &ModelServer, around: Around<'_>, answer: &mut Answer) {
    let Some(service) = around.service.filter(|found| picker_service::is_ours(server, found)) else { return };
    let leads = picker_service::is_elsewhere(server, around) && picker_service::selector(service).is_empty();
    if !leads || answer.retire.is_some() || !is_alive(&service.metadata) {
        return;
    }
    // Of one that went before and had this name they are not ours, and go with it.
    let ours = around.slices.iter().filter(|slice| is_controlled(slice, service));
    let mut left: BTreeMap<&str, &EndpointSlice> =
        ours.filter_map(|slice| Some((slice.metadata.name.as_deref()?, &**slice))).collect();
    let port = around.picker.and_then(|picker| picker_service::port(picker, around.settings));
    for original in around.picker_slices {
        let Some(mut wanted) = port.and_then(|port| copy(original, port, service)) else { continue };
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let found = left.remove(name.as_str());
        if found.is_none_or(|found| is_alive(&found.metadata) && !says_the_same(found, &wanted)) {
            wanted.metadata.uid = found.and_then(|found| found.metadata.uid.clone());
            answer.slices.push(wanted);
        }
    }
    answer.slices.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let doomed = left.into_values().filter(|slice| is_alive(&slice.metadata));
    answer.drop_slices =
        doomed.filter_map(|slice| slice.metadata.name.clone().zip(slice.metadata.uid.clone())).collect();
}

/// The same endpoints for the pool's Service; nothing where they have not the port of the picker.
fn copy(original: &EndpointSlice, port: &ServicePort, service: &Service) -> Option<EndpointSlice> {
    let of_service = service.metadata.name.as_deref()?;
    let same = |found: &&EndpointPort| {
        found.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
            && found.protocol.as_deref().unwrap_or(PROTOCOL) == port.protocol.as_deref().unwrap_or(PROTOCOL)
    };
    let port = original.ports.iter().flatten().find(same)?;
    let mut metadata = owned::<Service>(&service.metadata, name(of_service, original.metadata.uid.as_deref()?));
    metadata.labels = Some(BTreeMap::from([
        (labels::SERVICE_NAME.to_owned(), of_service.to_owned()),
        (labels::ENDPOINTS_MANAGED_BY.to_owned(), labels::ENDPOINTS_MANAGER.to_owned()),
    ]));
    Some(EndpointSlice {
        address_type: original.address_type.clone(),
        endpoints: original.endpoints.clone(),
        metadata,
        ports: Some(vec![port.clone()]),
    })
}

fn is_controlled(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.meta().owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == service.metadata.uid.as_ref())
}

/// Whether nothing of `wanted` is other than it is found.
fn says_the_same(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let keys = [labels::SERVICE_NAME, labels::ENDPOINTS_MANAGED_BY];
    found.address_type == wanted.address_type
        && found.endpoints.iter().flatten().eq(wanted.endpoints.iter().flatten())
        && found.ports == wanted.ports
        && keys.iter().all(|key| label(found, key) == label(wanted, key))
}

fn label<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(key).map(String::as_str)
}
