//! How a rule's traffic is shared among its backends. Envoy Gateway tells it only by the endpoints of the rule's
//! cluster: a locality for each backend of a weight above 0, in the rule's order, without endpoints where the backend
//! is of an extension's kind.

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message as _;

use crate::Malformed;

/// The weights of a rule's backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Of each pool, in the rule's order.
    pub pools: Vec<u32>,
    /// Of all Services together.
    pub services: u32,
}

impl Shares {
    /// Reads them from the endpoints of a cluster, whose name comes first.
    ///
    /// # Errors
    /// When these are no `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    pub fn read(load_assignment: &[u8]) -> Result<(String, Self), Malformed> {
        let assignment = ClusterLoadAssignment::decode(load_assignment)?;
        let mut shares = Self::default();
        for locality in &assignment.endpoints {
            let weight = locality.load_balancing_weight.map_or(1, |weight| weight.value);
            if locality.lb_endpoints.is_empty() {
                shares.pools.push(weight);
            } else {
                shares.services += weight;
            }
        }
        Ok((assignment.cluster_name, shares))
    }
}
