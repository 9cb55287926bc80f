//! The mark on the cluster of a rule that names pools. Envoy Gateway tells the pools with the cluster, and the routes
//! and listeners later, without them: the cluster's metadata carries them from the one to the other.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Malformed;
use crate::fields::Fields;
use crate::pool::Pool;
use crate::shares::Shares;

/// The key of the mark in the cluster's metadata.
const KEY: &str = "kthena.extension";
/// `Cluster.metadata`.
const METADATA: u32 = 25;
/// `Metadata.filter_metadata`, a map.
const FILTER_METADATA: u32 = 1;
/// The key and the value of a map's entry.
const ENTRY: [u32; 2] = [1, 2];

/// A rule's pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// With their weights.
    pub(crate) pools: Vec<(Pool, u32)>,
    /// The weight of the rule's Services, which are the cluster's own.
    pub(crate) services: u32,
}

/// Why a rule's cluster cannot be marked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The weights are needed and not known.
    #[error(
        "the weights of the rule's {pools} pools are not known: have `Endpoints` among extensionManager.hooks.xdsTranslator.post"
    )]
    NoShares {
        /// How many pools there are.
        pools: usize,
    },
    /// The weights are not those of these pools.
    #[error("the rule has {pools} pools and {weights} backends without endpoints of their own")]
    OtherShares {
        /// How many pools there are.
        pools: usize,
        /// How many weights.
        weights: usize,
    },
}

/// Marks the cluster of a rule with the rule's pools.
///
/// # Errors
/// Why it cannot be marked, and what to change.
pub fn mark(cluster: Bytes, pools: Vec<Pool>, shares: Option<&Shares>) -> Result<Bytes, Refused> {
    let mark = match (pools.len(), shares) {
        (0, _) => return Ok(cluster),
        (count, Some(shares)) if shares.pools.len() == count => {
            Mark { pools: pools.into_iter().zip(shares.pools.iter().copied()).collect(), services: shares.services }
        }
        (pools, Some(shares)) => return Err(Refused::OtherShares { pools, weights: shares.pools.len() }),
        (1, None) => Mark { pools: pools.into_iter().map(|pool| (pool, 1)).collect(), services: 0 },
        (pools, None) => return Err(Refused::NoShares { pools }),
    };
    let text = serde_json::to_string(&mark).map_err(|error| Malformed::because(&error))?;
    let value = Struct { fields: HashMap::from([("rule".to_owned(), Value { kind: Some(Kind::StringValue(text)) })]) };
    let metadata = Metadata { filter_metadata: HashMap::from([(KEY.to_owned(), value)]), ..Metadata::default() };
    let mut fields = Fields::parse(cluster)?;
    // A second `metadata` is merged into the first by whoever reads them.
    fields.merge(&Cluster { metadata: Some(metadata), ..Cluster::default() })?;
    Ok(fields.encode())
}

/// The name of a cluster.
///
/// # Errors
/// When it cannot be read.
pub fn name(cluster: Bytes) -> Result<String, Malformed> {
    Ok(Fields::parse(cluster)?.text(crate::clusters::NAME).to_owned())
}

/// Takes the mark from a cluster that has one.
pub(crate) fn take(cluster: &mut Fields) -> Result<Option<Mark>, Malformed> {
    let mut mark = None;
    cluster.change(METADATA, |metadata| {
        let mut entries = Fields::parse(metadata.clone())?;
        let mut kept = Vec::new();
        let mut found = None;
        for entry in entries.all(FILTER_METADATA) {
            let fields = Fields::parse(entry.clone())?;
            match fields.text(ENTRY[0]) {
                KEY => found = fields.last(ENTRY[1]).cloned(),
                _ => kept.push(entry.clone()),
            }
        }
        let Some(found) = found else { return Ok(None) };
        let value: Struct = prost::Message::decode(found)?;
        if let Some(Kind::StringValue(text)) = value.fields.get("rule").and_then(|value| value.kind.as_ref()) {
            mark = Some(serde_json::from_str(text).map_err(|error| Malformed::because(&error))?);
        }
        entries.remove(&[FILTER_METADATA]);
        for entry in kept {
            entries.push(FILTER_METADATA, entry);
        }
        Ok(Some(entries.encode()))
    })?;
    Ok(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn pool(name: &str) -> Pool {
        Pool {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            picker: None,
            fail_open: false,
            body: crate::pool::Body::FullDuplex,
            h2c: false,
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_leaves_the_cluster_as_it_was() {
        let metadata = Metadata {
            filter_metadata: HashMap::from([("envoy-gateway".to_owned(), Struct::default())]),
            ..Metadata::default()
        };
        let cluster = Cluster { name: "rule/0".to_owned(), metadata: Some(metadata), ..Cluster::default() };
        let shares = Shares { pools: vec![9, 1], services: 5 };
        let marked = mark(cluster.encode_to_vec().into(), vec![pool("a"), pool("b")], Some(&shares)).unwrap();
        // As a reader in between writes it.
        let merged = Cluster::decode(marked).unwrap();
        assert_eq!(merged.metadata.as_ref().unwrap().filter_metadata.len(), 2);
        let mut fields = Fields::parse(merged.encode_to_vec().into()).unwrap();
        let mark = take(&mut fields).unwrap().unwrap();
        assert_eq!(mark, Mark { pools: vec![(pool("a"), 9), (pool("b"), 1)], services: 5 });
        assert_eq!(Cluster::decode(fields.encode()).unwrap(), cluster);
    }

    #[test]
    fn weights_that_are_not_known_are_refused_and_not_guessed() {
        let refused = mark(Bytes::new(), vec![pool("a"), pool("b")], None).unwrap_err();
        assert!(refused.to_string().contains("`Endpoints`"), "{refused}");
        let other = Shares { pools: vec![1], services: 0 };
        assert!(mark(Bytes::new(), vec![pool("a"), pool("b")], Some(&other)).is_err());
        assert!(mark(Bytes::new(), vec![pool("a")], None).is_ok());
    }
}
