//! Rules that the API server checks by itself, in its expression language CEL.

use serde::Serialize;

/// A rule in a schema, under `x-kubernetes-validations`.
#[derive(Debug, Serialize)]
pub(crate) struct Rule {
    /// True for a good value, which it calls `self`; `oldSelf` is the one before an update.
    rule: &'static str,
    /// What a bad value is answered: the field and what to change.
    message: &'static str,
}

impl Rule {
    pub(crate) const fn new(rule: &'static str, message: &'static str) -> Self {
        Self { rule, message }
    }
}
