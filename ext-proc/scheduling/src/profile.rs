//! Which filters, scorers and picker decide, in Kthena's configuration format.
//!
//! ```yaml
//! scheduler:
//!   pluginConfig:
//!   - name: prefix-cache
//!     args: {blockSizeToHash: 64}
//!   plugins:
//!     Filter: {enabled: [least-request], disabled: [lora-affinity]}
//!     Score: {enabled: [{name: least-request, weight: 1}, {name: prefix-cache, weight: 1}]}
//! ```
//!
//! Strict where Kthena is silent: a name or a key that does not exist is an error with its place and
//! the nearest that does. What is absent has its default: arguments, a weight (1), a whole section
//! (that of Kthena's chart v0.3.0); an empty `enabled` means none. `disabled` and `auth` are accepted
//! and do nothing. A scorer that shares its name with a filter takes no arguments: they are the filter's.
//! Beside `scheduler` there may be `disaggregation`, for ModelServers with a `pdGroup`: see `profile/pairs.rs`.

mod pairs;
mod parse;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::affinity::Patience;
use crate::decision::Decision;
use crate::filters::Filter;
use crate::scorers::{KvcacheAware, PrefixCache, Scorer};

pub(crate) use pairs::{PairRules, Pairs, WhenNoPrefill};

/// Weights beyond this would only cost precision.
pub(crate) const LARGEST_WEIGHT: f64 = 1e6;

/// What decides, parsed from `routerConfiguration.yaml` and checked.
#[derive(Clone, Debug)]
pub struct Profile {
    filters: Vec<(&'static str, Arc<dyn Filter>)>,
    scorers: Vec<(&'static str, f32, Arc<dyn Scorer>)>,
    prefix_cache: Option<PrefixCache>,
    kvcache_aware: Option<KvcacheAware>,
    notes: Vec<String>,
    /// What decides where prefill and decode run apart; not in the profiles of the roles themselves.
    pairs: Option<Box<Pairs>>,
}

/// Kthena's chart v0.3.0: the filter `least-request`, and the scorers `least-request`, `gpu-usage`,
/// `least-latency` and `prefix-cache` with weight 1 each.
impl Default for Profile {
    fn default() -> Self {
        Self::from_value(&Value::Null).unwrap_or_else(|_| Self::empty())
    }
}

impl Profile {
    /// One that lets everybody through and prefers nobody, to be filled.
    fn empty() -> Self {
        Self {
            filters: Vec::new(),
            scorers: Vec::new(),
            prefix_cache: None,
            kvcache_aware: None,
            notes: Vec::new(),
            pairs: None,
        }
    }

    /// Reads the content of a `routerConfiguration.yaml`; `null` is the default profile.
    ///
    /// # Errors
    /// The first thing that is wrong, with its path.
    pub fn from_value(value: &Value) -> Result<Self, ProfileError> {
        parse::profile(value)
    }

    /// The parameters of the scorer `prefix-cache`, when it takes part or stands in for `kvcache-aware`:
    /// what to hash, and the capacity to learn with.
    #[must_use]
    pub fn prefix_cache(&self) -> Option<&PrefixCache> {
        self.prefix_cache.as_ref()
    }

    /// The parameters that a decision was hashed with and is to be learned with: where prefill and
    /// decode run apart, prefill's, since it holds the blocks first; else decode's.
    #[must_use]
    pub fn prefix_cache_for(&self, decision: &Decision) -> Option<&PrefixCache> {
        match &self.pairs {
            Some(pairs) if decision.disaggregation.is_some() => pairs.prefix_cache(),
            _ => self.prefix_cache(),
        }
    }

    /// Whether a request is refused when its prefill cannot be made (`whenNoPrefill: refuse`).
    #[must_use]
    pub fn refuses_without_prefill(&self) -> bool {
        self.pairs().is_some_and(|pairs| pairs.rules.when_no_prefill == WhenNoPrefill::Refuse)
    }

    /// Whether the scorer `kvcache-aware` takes part, for whichever role: token ids are of use, and the
    /// engines' KV events.
    #[must_use]
    pub fn uses_kv_events(&self) -> bool {
        let roles = self.pairs.iter().flat_map(|pairs| [&pairs.decode, &pairs.prefill]);
        std::iter::once(self).chain(roles).any(|profile| profile.kvcache_aware.is_some())
    }

    /// Leading tokens of a prompt that the scorer `kvcache-aware` looks at, for whichever role.
    pub(crate) fn kv_tokens(&self) -> Option<usize> {
        self.kvcache_aware.as_ref().map(KvcacheAware::most_tokens)
    }

    /// How the caches' scorers weigh what they save.
    pub(crate) fn patience(&self) -> Option<Patience> {
        self.scorers.iter().find_map(|(_, _, scorer)| scorer.patience())
    }

    pub(crate) fn pairs(&self) -> Option<&Pairs> {
        self.pairs.as_deref()
    }

    /// What was accepted and does nothing, one sentence each, to be logged once.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The configured filters' names in the order they run.
    pub fn filter_names(&self) -> impl Iterator<Item = &'static str> {
        self.filters.iter().map(|(name, _)| *name)
    }

    /// The scorers' names and weights.
    pub fn scorer_weights(&self) -> impl Iterator<Item = (&'static str, f32)> {
        self.scorers.iter().map(|(name, weight, _)| (*name, *weight))
    }

    /// Gives a scorer another weight, for every role that it takes part for. Returns whether there is one.
    pub(crate) fn weigh(&mut self, scorer: &str, weight: f32) -> bool {
        let mut found = false;
        for (_, its, _) in self.scorers.iter_mut().filter(|(name, _, _)| *name == scorer) {
            *its = weight;
            found = true;
        }
        if let Some(pairs) = &mut self.pairs {
            found |= pairs.decode.weigh(scorer, weight);
            found |= pairs.prefill.weigh(scorer, weight);
        }
        found
    }

    pub(crate) fn filters(&self) -> impl Iterator<Item = (&'static str, &dyn Filter)> {
        self.filters.iter().map(|(name, filter)| (*name, filter.as_ref()))
    }

    pub(crate) fn scorers(&self) -> impl Iterator<Item = (&'static str, f32, &dyn Scorer)> {
        self.scorers.iter().map(|(name, weight, scorer)| (*name, *weight, scorer.as_ref()))
    }
}

/// What is wrong with a configuration, with the place and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A plugin that does not exist.
    #[error("{path}: unknown {kind} plugin `{name}`{}", hint(did_you_mean.as_deref()))]
    UnknownPlugin {
        /// Where it stands.
        path: String,
        /// `filter` or `score`; `filter or score` for arguments.
        kind: &'static str,
        /// What was written.
        name: String,
        /// The closest known name.
        did_you_mean: Option<String>,
    },
    /// A key that does not exist.
    #[error("{path}: unknown key `{key}`{}", hint(did_you_mean.as_deref()))]
    UnknownKey {
        /// The object that has it.
        path: String,
        /// What was written.
        key: String,
        /// The closest known key.
        did_you_mean: Option<String>,
    },
    /// A value that is not allowed.
    #[error("{path}: {problem}")]
    Invalid {
        /// Where it stands.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn hint(did_you_mean: Option<&str>) -> String {
    did_you_mean.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

/// What is wrong with a plugin's arguments; the caller knows the place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ArgsError {
    Key { key: String, known: Vec<String> },
    Value(String),
}

/// A plugin from its arguments: what is absent has its default.
pub(crate) fn args<T: Default + DeserializeOwned + Serialize>(args: Option<&Value>) -> Result<T, ArgsError> {
    let Some(args) = args.filter(|args| !args.is_null()) else { return Ok(T::default()) };
    let wrong = |error: serde_json::Error| ArgsError::Value(error.to_string());
    let Value::Object(given) = args else { return Err(ArgsError::Value("must be an object".to_owned())) };
    if let Value::Object(known) = serde_json::to_value(T::default()).map_err(wrong)?
        && let Some(key) = given.keys().find(|key| !known.contains_key(*key))
    {
        return Err(ArgsError::Key { key: key.clone(), known: known.keys().cloned().collect() });
    }
    T::deserialize(args).map_err(wrong)
}

#[cfg(test)]
mod tests;
