//! The ModelServers of a rule as the weighted InferencePools that serve them.

use std::sync::Arc;

use controller_api::http_route::BackendRef;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_route::Rule;
use controller_api::v1alpha1::model_server::ModelServer;
use kube::Resource;

use super::model_server::pool_of;

/// The share of a target without a weight.
const WEIGHT: u32 = 100;

/// One for each pool, with the sum of its ModelServers' weights: within a pool the picker weighs. A ModelServer that is
/// not there yet keeps its share, as the Gateway API wants it. The heaviest is last: of a rule's pools Istio (1.31) asks
/// the picker of the last alone, and chooses by itself in the others.
pub(super) fn backends(rule: &Rule, servers: &[Arc<ModelServer>]) -> Vec<BackendRef> {
    let mut backends: Vec<BackendRef> = Vec::new();
    for target in &rule.target_models {
        let weight = i32::try_from(target.weight.unwrap_or(WEIGHT)).unwrap_or(i32::MAX);
        let pool = server(&target.model_server_name, servers).and_then(|server| pool_of(server, servers));
        let pool = pool.and_then(|pool| pool.metadata.name.as_deref()).unwrap_or(&target.model_server_name);
        match backends.iter_mut().find(|backend| backend.name == pool) {
            Some(backend) => backend.weight = backend.weight.map(|sum| sum.saturating_add(weight)),
            None => backends.push(BackendRef {
                group: Some(InferencePool::group(&()).into_owned()),
                kind: Some(InferencePool::kind(&()).into_owned()),
                name: pool.to_owned(),
                weight: Some(weight),
            }),
        }
    }
    backends.sort_by_key(|backend| backend.weight);
    backends
}

/// The targets of all rules that are not there.
pub(super) fn missing<'a>(rules: &'a [Rule], servers: &[Arc<ModelServer>]) -> Vec<&'a str> {
    let mut missing = Vec::new();
    for target in rules.iter().flat_map(|rule| &rule.target_models) {
        let name = target.model_server_name.as_str();
        if server(name, servers).is_none() && !missing.contains(&name) {
            missing.push(name);
        }
    }
    missing
}

fn server<'a>(name: &str, servers: &'a [Arc<ModelServer>]) -> Option<&'a Arc<ModelServer>> {
    servers.iter().find(|server| server.metadata.name.as_deref() == Some(name))
}
