//! A pool and a profile as they would be after a change that is only tried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::profile::{LARGEST_WEIGHT, Profile};
use crate::snapshot::Pool;

/// What is to be taken as different. Nothing real changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// Endpoints that count as not ready.
    pub drained: Vec<SocketAddr>,
    /// Scorers by name, with the weights that they are to have.
    pub weights: Vec<(String, f32)>,
}

/// A change that cannot be tried, with what there is to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    /// Nothing is at the address.
    #[error("no endpoint of the pool is at {address}; there are {known}")]
    UnknownEndpoint {
        /// What was asked for.
        address: SocketAddr,
        /// The addresses of all endpoints, or `none`.
        known: String,
    },
    /// No scorer of this name takes part.
    #[error("no scorer `{scorer}` takes part; there are {known}")]
    UnknownScorer {
        /// What was asked for.
        scorer: String,
        /// The names of all scorers, or `none`.
        known: String,
    },
    /// A weight that no configuration may have.
    #[error("the weight of `{scorer}` must be a number within 0..={LARGEST_WEIGHT}")]
    Weight {
        /// Whose.
        scorer: String,
    },
}

impl WhatIf {
    /// The pool, drained.
    ///
    /// # Errors
    /// An address that no endpoint has.
    pub fn pool(&self, pool: &Arc<Pool>) -> Result<Arc<Pool>, WhatIfError> {
        if self.drained.is_empty() {
            return Ok(Arc::clone(pool));
        }
        for address in &self.drained {
            if pool.endpoint(*address).is_none() {
                let known = listed(pool.all_endpoints().map(|endpoint| endpoint.address.to_string()));
                return Err(WhatIfError::UnknownEndpoint { address: *address, known });
            }
        }
        let drain = |endpoints: &Arc<[Arc<Endpoint>]>| endpoints.iter().map(|endpoint| self.drain(endpoint)).collect();
        let prefills: BTreeMap<_, _> =
            pool.prefills.iter().map(|(server, prefills)| (Arc::clone(server), drain(prefills))).collect();
        Ok(Arc::new(Pool { endpoints: drain(&pool.endpoints), prefills, ..Pool::clone(pool) }))
    }

    fn drain(&self, endpoint: &Arc<Endpoint>) -> Arc<Endpoint> {
        if self.drained.contains(&endpoint.address) {
            Arc::new(Endpoint { ready: false, ..Endpoint::clone(endpoint) })
        } else {
            Arc::clone(endpoint)
        }
    }

    /// The profile, weighed anew.
    ///
    /// # Errors
    /// A scorer that does not take part, or a weight that is none.
    pub fn profile(&self, profile: &Arc<Profile>) -> Result<Arc<Profile>, WhatIfError> {
        if self.weights.is_empty() {
            return Ok(Arc::clone(profile));
        }
        let mut changed = Profile::clone(profile);
        for (scorer, weight) in &self.weights {
            if !(0.0..=LARGEST_WEIGHT).contains(&f64::from(*weight)) {
                return Err(WhatIfError::Weight { scorer: scorer.clone() });
            }
            if !changed.weigh(scorer, *weight) {
                let known = listed(profile.scorer_weights().map(|(name, _)| name.to_owned()));
                return Err(WhatIfError::UnknownScorer { scorer: scorer.clone(), known });
            }
        }
        Ok(Arc::new(changed))
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::snapshot::PoolName;

    fn profile() -> Arc<Profile> {
        let section = json!({"plugins": {"Score": {"enabled": [{"name": "least-request", "weight": 1}]}}});
        Arc::new(Profile::from_value(&json!({"scheduler": section})).unwrap())
    }

    fn weight(profile: &Profile, scorer: &str) -> Option<f32> {
        profile.scorer_weights().find(|(name, _)| *name == scorer).map(|(_, weight)| weight)
    }

    #[test]
    fn a_weight_is_tried_and_the_real_one_stays() {
        let real = profile();
        let tried = WhatIf { weights: vec![("least-request".to_owned(), 4.0)], ..WhatIf::default() };
        assert_eq!(weight(&tried.profile(&real).unwrap(), "least-request"), Some(4.0));
        assert_eq!(weight(&real, "least-request"), Some(1.0));
    }

    #[test]
    fn the_roles_of_a_pair_are_weighed_too() {
        let tried = WhatIf { weights: vec![("least-request".to_owned(), 4.0)], ..WhatIf::default() };
        let changed = tried.profile(&profile()).unwrap();
        let pairs = changed.pairs().unwrap();
        let found = [&pairs.decode, &pairs.prefill].map(|role| weight(role, "least-request"));
        assert_eq!(found, [Some(4.0), Some(4.0)]);
    }

    #[test]
    fn a_scorer_or_a_weight_that_cannot_be_is_told_with_what_there_is() {
        let error = |scorer: &str, weight| {
            let tried = WhatIf { weights: vec![(scorer.to_owned(), weight)], ..WhatIf::default() };
            tried.profile(&profile()).unwrap_err().to_string()
        };
        assert_eq!(error("gpu", 1.0), "no scorer `gpu` takes part; there are least-request");
        for wrong in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(error("least-request", wrong).contains("within 0..="), "{wrong}");
        }
    }

    #[test]
    fn an_address_that_nobody_has_is_told() {
        let pool = Arc::new(Pool {
            name: PoolName::new("default", "llama"),
            picker: None,
            endpoints: Arc::default(),
            prefills: BTreeMap::default(),
            routing: Arc::default(),
        });
        let tried = WhatIf { drained: vec!["10.0.0.1:80".parse().unwrap()], ..WhatIf::default() };
        let error = tried.pool(&pool).unwrap_err().to_string();
        assert_eq!(error, "no endpoint of the pool is at 10.0.0.1:80; there are none");
    }
}
