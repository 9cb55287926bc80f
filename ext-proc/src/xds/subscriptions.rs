//! What one stream wants and was told: the delta protocol of xDS, of `ClusterLoadAssignment`s alone.
//!
//! A name that is subscribed is answered once, unless Envoy says that it has this very version, and then at each change.
//! One that is subscribed again is answered again. A refusal needs no answer: Envoy keeps what it has until the next
//! change.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message as _;
use scheduling::{PoolName, Snapshot};
use tracing::{debug, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::assignment;
use crate::pools;

/// The most names on one stream.
const NAMES: usize = 1024;

/// The names of one stream.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// With the version that Envoy has.
    wanted: BTreeMap<String, Option<String>>,
    responses: u64,
}

impl Subscriptions {
    /// Takes in what Envoy wants, and no longer wants.
    pub(super) fn hear(&mut self, mut request: DeltaDiscoveryRequest) {
        if request.type_url != type_url() {
            debug!(kind = request.type_url, "An Envoy asks for what is not served here.");
            return;
        }
        for name in &request.resource_names_unsubscribe {
            self.wanted.remove(name);
        }
        for name in request.resource_names_subscribe {
            if self.wanted.len() >= NAMES && !self.wanted.contains_key(&name) {
                warn!(name, "An Envoy asks for more than {NAMES} clusters on one stream: it is not told of this one.");
                continue;
            }
            let has = request.initial_resource_versions.remove(&name);
            self.wanted.insert(name, has);
        }
    }

    /// What Envoy has not, of all that it wants; nothing before the fleet is known.
    pub(super) fn answer(&mut self, snapshot: &Snapshot, bound: Option<&PoolName>) -> Option<DeltaDiscoveryResponse> {
        if !snapshot.known {
            // What Envoy knows from before is better than nothing.
            return None;
        }
        let changed = |(name, has): (&String, &mut Option<String>)| {
            let pool = pools::of_cluster(snapshot, name, bound);
            let value = assignment::of(name, pool).encode_to_vec();
            // The same whoever says it and whenever: an Envoy that comes back, or from another picker, has it already.
            let version = format!("{:016x}", xxh3_64(&value));
            if has.as_ref() == Some(&version) {
                return None;
            }
            if pool.is_none() && has.is_none() {
                warn!(name, "An Envoy asks for the endpoints of a pool that is not declared: it is told of none.");
            }
            *has = Some(version.clone());
            let resource = Some(Any { type_url: type_url(), value });
            Some(Resource { name: name.clone(), version, resource, ..Resource::default() })
        };
        let resources: Vec<Resource> = self.wanted.iter_mut().filter_map(changed).collect();
        if resources.is_empty() {
            return None;
        }
        self.responses += 1;
        Some(DeltaDiscoveryResponse {
            type_url: type_url(),
            system_version_info: snapshot.generation.to_string(),
            nonce: self.responses.to_string(),
            resources,
            ..DeltaDiscoveryResponse::default()
        })
    }
}

fn type_url() -> String {
    <ClusterLoadAssignment as prost::Name>::type_url()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use envoy_types::pb::envoy::config::core::v3::address::Address;
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint;
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    use scheduling::{Declared, Event};

    use super::*;
    use crate::fleet::{Fleet, fixtures};

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: type_url(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn address(endpoint: &LbEndpoint) -> String {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!("{endpoint:?}") };
        let address = endpoint.address.as_ref().and_then(|address| address.address.as_ref());
        let Some(Address::SocketAddress(socket)) = address else { panic!("{address:?}") };
        let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!("{socket:?}") };
        SocketAddr::new(socket.address.parse().unwrap(), u16::try_from(port).unwrap()).to_string()
    }

    /// Each name with its addresses, as `ip:port`.
    fn said(response: DeltaDiscoveryResponse) -> Vec<(String, Vec<String>)> {
        let read = |resource: Resource| {
            let assignment = ClusterLoadAssignment::decode(&*resource.resource.unwrap().value).unwrap();
            assert_eq!(assignment.cluster_name, resource.name, "Envoy refuses any other");
            let all = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
            (resource.name, all.map(address).collect())
        };
        response.resources.into_iter().map(read).collect()
    }

    #[test]
    fn a_name_is_answered_at_once_and_then_with_each_change_of_its_endpoints() {
        let fleet = fixtures::fleet(&["10.0.0.1:8000", "10.0.0.2:8000"]);
        let mut stream = Subscriptions::default();
        assert!(stream.answer(&fleet.snapshot(), None).is_none(), "nobody asked");
        stream.hear(subscribe(&["default/llama"]));
        let first = stream.answer(&fleet.snapshot(), None).unwrap();
        assert_eq!((&*first.nonce, first.type_url.as_str()), ("1", type_url().as_str()));
        assert_eq!(said(first), [("default/llama".into(), vec!["10.0.0.1:8000".into(), "10.0.0.2:8000".into()])]);
        assert!(stream.answer(&fleet.snapshot(), None).is_none());

        fleet.apply(Event::Declared(fixtures::declared(&["10.0.0.1:8000", "10.0.0.2:8000"])));
        assert!(stream.answer(&fleet.snapshot(), None).is_none(), "declared again, and nothing is different");
        fleet.apply(Event::Declared(fixtures::declared(&["10.0.0.2:8000"])));
        let second = stream.answer(&fleet.snapshot(), None).unwrap();
        assert_eq!(second.nonce, "2");
        assert_eq!(said(second), [("default/llama".into(), vec!["10.0.0.2:8000".into()])]);
        fleet.apply(Event::Declared(Declared::default()));
        assert_eq!(said(stream.answer(&fleet.snapshot(), None).unwrap()), [("default/llama".into(), Vec::new())]);
    }

    #[test]
    fn nothing_is_said_before_the_fleet_is_known() {
        let fleet = Fleet::new(scheduling::Profile::default());
        let mut stream = Subscriptions::default();
        stream.hear(subscribe(&["default/llama"]));
        assert!(stream.answer(&fleet.snapshot(), None).is_none());
        fleet.apply(Event::Declared(Declared::default()));
        assert!(stream.answer(&fleet.snapshot(), None).is_some());
    }

    #[test]
    fn an_envoy_that_comes_back_is_told_only_what_it_has_not() {
        let fleet = fixtures::fleet(&["10.0.0.1:8000"]);
        let mut stream = Subscriptions::default();
        stream.hear(subscribe(&["default/llama"]));
        let version = stream.answer(&fleet.snapshot(), None).unwrap().resources.remove(0).version;
        let again = |version: &str| {
            let has = [("default/llama".to_owned(), version.to_owned())].into();
            DeltaDiscoveryRequest { initial_resource_versions: has, ..subscribe(&["default/llama"]) }
        };
        let mut next = Subscriptions::default();
        next.hear(again(&version));
        assert!(next.answer(&fleet.snapshot(), None).is_none());
        next.hear(again("another"));
        assert!(next.answer(&fleet.snapshot(), None).is_some());
    }

    #[test]
    fn a_name_that_is_subscribed_again_is_answered_again_and_an_unsubscribed_one_no_more() {
        let fleet = fixtures::fleet(&["10.0.0.1:8000"]);
        let mut stream = Subscriptions::default();
        stream.hear(subscribe(&["default/llama", "nobody/here"]));
        let first = said(stream.answer(&fleet.snapshot(), None).unwrap());
        assert_eq!(first[1], ("nobody/here".to_owned(), Vec::new()), "a pool that is not there has no endpoints");
        stream.hear(subscribe(&["default/llama"]));
        assert_eq!(said(stream.answer(&fleet.snapshot(), None).unwrap()).len(), 1);
        let gone = vec!["default/llama".to_owned()];
        stream.hear(DeltaDiscoveryRequest { resource_names_unsubscribe: gone, ..subscribe(&[]) });
        fleet.apply(Event::Declared(Declared::default()));
        assert!(stream.answer(&fleet.snapshot(), None).is_none());
        stream.hear(DeltaDiscoveryRequest { type_url: "another".to_owned(), ..subscribe(&["default/llama"]) });
        assert!(stream.answer(&fleet.snapshot(), None).is_none(), "of another kind");
    }

    #[test]
    fn envoy_is_told_neither_of_pods_that_are_not_ready_nor_of_prefill() {
        let answer = |fleet: &Fleet| {
            let mut stream = Subscriptions::default();
            // Any name will do where there is one pool.
            stream.hear(subscribe(&["engines"]));
            said(stream.answer(&fleet.snapshot(), None).unwrap()).remove(0).1
        };
        assert_eq!(answer(&fixtures::pairs(&[2, 3])), ["10.0.0.1:1"]);
        let mut declared = fixtures::declared(&["10.0.0.1:8000", "[fd00::1]:8000"]);
        declared.pools[0].endpoints[0].ready = false;
        let fleet = Fleet::new(scheduling::Profile::default());
        fleet.apply(Event::Declared(declared));
        assert_eq!(answer(&fleet), ["[fd00::1]:8000"]);
    }

    #[test]
    fn names_on_a_stream_are_bounded() {
        let mut stream = Subscriptions::default();
        let names: Vec<String> = (0..NAMES + 10).map(|number| format!("default/{number}")).collect();
        stream.hear(DeltaDiscoveryRequest { resource_names_subscribe: names, ..subscribe(&[]) });
        assert_eq!(stream.wanted.len(), NAMES);
    }
}
