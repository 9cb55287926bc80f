//! Who may: each filter keeps or removes endpoints, with a reason.
//!
//! `route`, `decode` (or, among prefill endpoints, `group`), `ready`, `subset` and `outlier` run
//! first, in this order, wherever they apply; then the configured ones. To add a filter: one file in `filters/`, and one line in the list below.

mod decode;
mod group;
mod least_request;
mod lora_affinity;
mod outlier;
mod ready;
mod route;
mod subset;

use std::fmt::{Debug, Display};

use serde_json::Value;

use crate::candidate::Candidate;
use crate::endpoint::Endpoint;
use crate::pairing::{self, Decodes, Pairing};
use crate::profile::ArgsError;
use crate::refusal::RefusalKind;
use crate::request::Request;
use crate::routing::{Members, Resolution};

pub(crate) use decode::Decode;
pub(crate) use group::Group;
pub(crate) use outlier::Outlier;
pub(crate) use ready::Ready;
pub(crate) use route::Route;
pub(crate) use subset::Subset;

/// What a filter may look at.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) request: &'a Request<'a>,
    /// The pool's name, for people.
    pub(crate) pool: &'a dyn Display,
    /// The model's name as the engine will see it.
    pub(crate) model: Option<&'a str>,
    pub(crate) resolution: Option<&'a Resolution>,
    /// Which endpoints the resolution's ModelServer selects, in the order of `candidates`.
    pub(crate) members: Option<&'a Members>,
    /// Who may decode, where prefill and decode pods have to be told apart.
    pub(crate) decodes: Option<Decodes<'a>>,
    /// The group to stay in, where `candidates` are prefill endpoints.
    pub(crate) group: Option<(&'a Pairing, pairing::Group)>,
    /// All endpoints of the pool, in its order; or all prefill endpoints of a ModelServer.
    pub(crate) candidates: &'a [Candidate<'a>],
}

impl<'a> Question<'a> {
    pub(crate) fn endpoint(&self, index: usize) -> Option<&'a Endpoint> {
        self.candidates.get(index).map(|candidate| candidate.endpoint)
    }
}

/// Keeps or removes endpoints. Its fields are its arguments.
pub(crate) trait Filter: Debug + Send + Sync {
    /// Removes indices into [`Question::candidates`] from `kept`; never adds or reorders.
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>);

    /// Why it removes the endpoint, to be read after "the filter … left no endpoint:". Called only
    /// for endpoints that it removed, and only when a person will read it.
    fn reason(&self, question: &Question<'_>, endpoint: &Endpoint) -> String;

    /// The refusal when it has left nobody.
    fn refusal(&self, question: &Question<'_>, name: &'static str, last: &Endpoint) -> RefusalKind {
        RefusalKind::FilteredOut { filter: name.to_owned(), reason: self.reason(question, last) }
    }

    /// What is wrong with the arguments, if anything.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

macro_rules! filters {
    ($($name:literal => $filter:ty,)*) => {
        /// The names that a configuration may list under `Filter`.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The filter of that name, from its arguments (absent: the defaults).
        pub(crate) fn build(name: &str, args: Option<&Value>) -> Option<Result<Box<dyn Filter>, ArgsError>> {
            match name {
                $($name => Some(crate::profile::args::<$filter>(args).and_then(|filter| {
                    filter.check().map_err(ArgsError::Value)?;
                    Ok(Box::new(filter) as Box<dyn Filter>)
                })),)*
                _ => None,
            }
        }
    };
}

filters! {
    "least-request" => least_request::LeastRequest,
    "lora-affinity" => lora_affinity::LoraAffinity,
}

#[cfg(test)]
mod tests;
