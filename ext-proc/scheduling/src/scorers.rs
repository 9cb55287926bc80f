//! How good: each scorer gives every candidate 0..=1, or says that it has no measure.
//!
//! A candidate without a measure counts as the mean of the measured ones (0.5 where there are
//! none), so a missing measure is neither best nor worst. To add a scorer: one file in `scorers/`,
//! and one line in the list below.

mod gpu_usage;
mod kvcache_aware;
mod least_latency;
mod least_request;
mod prefix_cache;
mod random;

use std::fmt::Debug;

use rand::RngCore;
use serde_json::Value;

use crate::affinity::Patience;
use crate::candidate::{Candidate, Demand};
use crate::profile::ArgsError;

pub(crate) use kvcache_aware::KvcacheAware;
pub use prefix_cache::PrefixCache;

/// Gives scores. Its fields are its arguments; it has no other state.
pub(crate) trait Scorer: Debug + Send + Sync {
    /// Writes a score of 0..=1 for each candidate into the same place of `scores`, which holds
    /// `None` everywhere. A scorer sees all candidates at once, so that it can compare them; their
    /// order must not matter.
    fn score(&self, demand: Demand, candidates: &[Candidate<'_>], rng: &mut dyn RngCore, scores: &mut [Option<f32>]);

    /// How it weighs what a cache saves against waiting there; `None` where it knows nothing of caches.
    fn patience(&self) -> Option<Patience> {
        None
    }

    /// What is wrong with the arguments, if anything.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Says which of these arguments is 0 and must not be.
fn positive(arguments: &[(&str, usize)]) -> Result<(), String> {
    match arguments.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(format!("{name} must be at least 1")),
        None => Ok(()),
    }
}

macro_rules! scorers {
    ($($name:literal => $scorer:ty,)*) => {
        /// The names that a configuration may list under `Score`.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The scorer of that name, from its arguments (absent: the defaults).
        pub(crate) fn build(name: &str, args: Option<&Value>) -> Option<Result<Box<dyn Scorer>, ArgsError>> {
            match name {
                $($name => Some(crate::profile::args::<$scorer>(args).and_then(|scorer| {
                    scorer.check().map_err(ArgsError::Value)?;
                    Ok(Box::new(scorer) as Box<dyn Scorer>)
                })),)*
                _ => None,
            }
        }
    };
}

scorers! {
    "least-request" => least_request::LeastRequest,
    "least-latency" => least_latency::LeastLatency,
    "gpu-usage" => gpu_usage::GpuUsage,
    "prefix-cache" => prefix_cache::PrefixCache,
    "kvcache-aware" => kvcache_aware::KvcacheAware,
    "random" => random::Random,
}

/// Makes what a scorer wrote safe: inside 0..=1, and `None` instead of NaN.
pub(crate) fn tame(scores: &mut [Option<f32>]) {
    for score in scores {
        *score = score.filter(|value| !value.is_nan()).map(|value| value.clamp(0.0, 1.0));
    }
}

/// What stands in for a missing measure; `None` where none is missing, as is usual.
pub(crate) fn stand_in(scores: &[Option<f32>]) -> Option<f32> {
    let measured = scores.iter().filter(|score| score.is_some()).count();
    match measured {
        0 => Some(0.5),
        all if all == scores.len() => None,
        _ => Some(scores.iter().flatten().sum::<f32>() / measured as f32),
    }
}

#[cfg(test)]
mod tests;
