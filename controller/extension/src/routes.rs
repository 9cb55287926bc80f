//! Routes to pools: the pool's filter is switched on, weights are given, and what no engine saw is tried again.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryHostPredicate, retry_host_predicate};
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, Route, RouteAction, WeightedCluster};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::google::protobuf::UInt32Value;
use envoy_types::util::pack_any;
use prost::bytes::Bytes;

use crate::Malformed;
use crate::fields::Fields;
use crate::filters;
use crate::listeners::nested;
use crate::pool::Pool;

/// `RouteConfiguration.name`, `.virtual_hosts`.
const NAME: u32 = 1;
const VIRTUAL_HOSTS: u32 = 2;
/// `VirtualHost.routes`.
const ROUTES: u32 = 3;
/// `Route.route`.
const ACTION: u32 = 2;
/// `RouteAction.cluster`, `.retry_policy`.
const CLUSTER: u32 = 1;
const RETRIES: u32 = 9;

/// Where the traffic of a rule goes that names pools.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Each pool, its cluster, its weight.
    pub(crate) pools: Vec<(Pool, String, u32)>,
    /// The weight of the rule's own cluster, for its Services.
    pub(crate) services: u32,
}

/// A route configuration with its routes to pools, and these pools; `None` is one without.
pub(crate) fn extend(
    routes: Bytes,
    rules: &BTreeMap<String, Rule>,
) -> Result<Option<(String, Bytes, Vec<Pool>)>, Malformed> {
    let mut configuration = Fields::parse(routes)?;
    let mut pools: Vec<Pool> = Vec::new();
    nested(&mut configuration, VIRTUAL_HOSTS, |host| {
        nested(host, ROUTES, |route| {
            let Some(action) = route.last(ACTION) else { return Ok(false) };
            let Some((cluster, rule)) = rules.get_key_value(Fields::parse(action.clone())?.text(CLUSTER)) else {
                return Ok(false);
            };
            for (pool, ..) in &rule.pools {
                if !pools.iter().any(|known| known.filter() == pool.filter()) {
                    pools.push(pool.clone());
                }
            }
            nested(route, ACTION, |action| lead(action, cluster, rule))?;
            if let ([(pool, ..)], 0) = (rule.pools.as_slice(), rule.services) {
                route.merge(&Route { typed_per_filter_config: filters::switch(pool), ..Route::default() })?;
            }
            Ok(true)
        })
    })?;
    pools.sort_by_key(Pool::filter);
    let name = configuration.text(NAME).to_owned();
    Ok((!pools.is_empty()).then(|| (name, configuration.encode(), pools)))
}

fn lead(action: &mut Fields, own: &str, rule: &Rule) -> Result<bool, Malformed> {
    if action.last(RETRIES).is_none() {
        action.merge(&RouteAction { retry_policy: Some(retries()), ..RouteAction::default() })?;
    }
    if rule.pools.len() == 1 && rule.services == 0 {
        return Ok(true);
    }
    let of_pools = rule.pools.iter().map(|(pool, cluster, weight)| ClusterWeight {
        name: cluster.clone(),
        weight: Some(UInt32Value { value: *weight }),
        typed_per_filter_config: filters::switch(pool),
        ..ClusterWeight::default()
    });
    let of_services = (rule.services > 0).then(|| ClusterWeight {
        name: own.to_owned(),
        weight: Some(UInt32Value { value: rule.services }),
        ..ClusterWeight::default()
    });
    let clusters = WeightedCluster { clusters: of_pools.chain(of_services).collect(), ..WeightedCluster::default() };
    action.remove(&[CLUSTER]);
    let specifier = Some(ClusterSpecifier::WeightedClusters(clusters));
    action.merge(&RouteAction { cluster_specifier: specifier, ..RouteAction::default() })?;
    Ok(true)
}

/// Only before an engine saw anything: a completion is not repeated.
fn retries() -> RetryPolicy {
    let predicate = retry_host_predicate::ConfigType::TypedConfig(pack_any(PreviousHostsPredicate::default()));
    RetryPolicy {
        retry_on: "connect-failure".to_owned(),
        num_retries: Some(UInt32Value { value: 2 }),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(predicate),
        }],
        host_selection_retry_max_attempts: 5,
        ..RetryPolicy::default()
    }
}
