//! Everything that one gateway is about to be sent, with its pools.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::bytes::Bytes;

use crate::Malformed;
use crate::clusters;
use crate::fields::Fields;
use crate::mark;
use crate::pool::Pool;
use crate::routes::Rule;
use crate::{listeners, routes};

/// What the operator's flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where Envoy finds the EDS server, as a gRPC target: `host:port`.
    pub endpoints: String,
}

/// The resources of a gateway, each a message: `envoy.config.cluster.v3.Cluster` and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Clusters.
    pub clusters: Vec<Bytes>,
    /// Listeners.
    pub listeners: Vec<Bytes>,
    /// Route configurations.
    pub routes: Vec<Bytes>,
}

/// The resources with what pools need. What has nothing to do with pools stays byte by byte.
///
/// # Errors
/// When a resource cannot be read.
pub fn translate(settings: &Settings, resources: Resources) -> Result<Resources, Malformed> {
    let (mut made, mut rules) = (Resources::default(), BTreeMap::new());
    for cluster in resources.clusters {
        let mut fields = Fields::parse(cluster.clone())?;
        let Some(mark) = mark::take(&mut fields)? else {
            made.clusters.push(cluster);
            continue;
        };
        let own = fields.text(clusters::NAME).to_owned();
        let alone = mark.pools.len() == 1 && mark.services == 0;
        let mut pools: Vec<(Pool, String, u32)> = Vec::new();
        for (pool, weight) in mark.pools {
            let name = if alone { own.clone() } else { format!("{own}/{}/{}", pool.namespace, pool.name) };
            // A rule may name a pool twice.
            if let Some((.., sum)) = pools.iter_mut().find(|(_, known, _)| *known == name) {
                *sum += weight;
                continue;
            }
            made.clusters.push(clusters::of_pool(&fields, &name, &pool, &settings.endpoints)?.encode());
            pools.push((pool, name, weight));
        }
        if mark.services > 0 {
            made.clusters.push(fields.encode());
        }
        rules.insert(own, Rule { pools, services: mark.services });
    }

    let mut pools = BTreeMap::new();
    for configuration in resources.routes {
        match routes::extend(configuration.clone(), &rules)? {
            None => made.routes.push(configuration),
            Some((name, configuration, used)) => {
                made.routes.push(configuration);
                pools.insert(name, used);
            }
        }
    }
    for listener in resources.listeners {
        let extended = listeners::extend(listener.clone(), &pools)?;
        made.listeners.push(extended.unwrap_or(listener));
    }
    let pickers = pools.values().flatten().filter_map(Pool::picker_subject);
    let pickers: BTreeMap<String, _> = pickers.map(|picker| (picker.to_string(), picker)).collect();
    let clusters = pickers.values().map(|picker| clusters::of_picker(picker, &settings.endpoints));
    made.clusters.extend(clusters.map(|cluster| Bytes::from(cluster.encode_to_vec())));
    Ok(made)
}

#[cfg(test)]
mod tests;
