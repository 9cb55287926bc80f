//! Which endpoints of a pool Envoy may send to.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use scheduling::{Pool, Role};

/// The assignment that goes by `name`: the pool's endpoints that are ready and that answer requests. Prefill endpoints
/// are the picker's own business, and Envoy must not fall back on one. Without a pool there are none.
pub(super) fn of(name: &str, pool: Option<&Pool>) -> ClusterLoadAssignment {
    let endpoints = pool.into_iter().flat_map(|pool| {
        let answers = |endpoint: &&std::sync::Arc<scheduling::Endpoint>| {
            endpoint.ready && pool.routing.role(endpoint) != Some(Role::Prefill)
        };
        pool.endpoints.iter().filter(answers).map(|endpoint| at(endpoint.address))
    });
    let lb_endpoints = endpoints.collect();
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }],
        ..ClusterLoadAssignment::default()
    }
}

fn at(address: SocketAddr) -> LbEndpoint {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    };
    let address = Some(Address { address: Some(Kind::SocketAddress(socket)) });
    let endpoint = Endpoint { address, ..Endpoint::default() };
    LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
}
