//! Why a request gets no endpoint. What Envoy is told for each is in `ext-proc`'s `to_proto.rs`.

use std::fmt;
use std::time::Duration;

use crate::decision::Report;

/// A request that gets no endpoint, with what was considered.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The cause.
    pub kind: RefusalKind,
    /// The candidates and the filters' verdicts; `None` when it never came to candidates.
    pub report: Option<Box<Report>>,
}

/// The cause, then what each filter left.
impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.kind)?;
        match self.report.as_ref().map(|report| report.filter_summary()) {
            Some(summary) if !summary.is_empty() => write!(formatter, " ({summary})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<RefusalKind> for Refusal {
    fn from(kind: RefusalKind) -> Self {
        Self { kind, report: None }
    }
}

/// The cause of a refusal: one variant for each thing that a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalKind {
    /// The body is not a JSON object.
    #[error("the request body is not valid JSON: {0}")]
    BadJson(String),
    /// The body has no `model`.
    #[error("the request body has no `model`")]
    ModelMissing,
    /// `model` is not a string, or empty.
    #[error("`model` must be a non-empty string")]
    ModelNotString,
    /// `model` stands twice in the body: we and the engine might read different ones.
    #[error("the request body has more than one `model`")]
    ModelTwice,
    /// ModelRoutes exist for the pool and none matches.
    #[error("the model `{0}` does not exist")]
    UnknownModel(String),
    /// The body is over the cap, in bytes.
    #[error("the request body is larger than {cap} bytes")]
    TooLarge {
        /// The cap in bytes.
        cap: usize,
    },
    /// Sheds load; the client may come back.
    #[error("the pool is overloaded, retry after {} s", retry_after.as_secs())]
    Overloaded {
        /// When a retry is worth it.
        retry_after: Duration,
    },
    /// The pool has no endpoint that is ready.
    #[error("no endpoint of the pool `{0}` is ready")]
    NoneReady(String),
    /// Decode must not run without prefill (`whenNoPrefill: refuse`), and there is none to use.
    #[error("no prefill endpoint of the ModelServer `{0}` can be used, and whenNoPrefill is refuse")]
    NoPrefill(String),
    /// The subset hint leaves no endpoint.
    #[error("no ready endpoint of the pool is in the subset that the gateway allows")]
    SubsetEmpty,
    /// A configured filter left no endpoint.
    #[error("the filter `{filter}` left no endpoint: {reason}")]
    FilteredOut {
        /// The filter's configured name.
        filter: String,
        /// Its verdict on the last endpoints that it removed.
        reason: String,
    },
    /// The stream names no pool that we know.
    #[error("no InferencePool is known for this request: {0}")]
    UnknownPool(String),
    /// The exchange took longer than its deadline.
    #[error("no decision within {} ms", after.as_millis())]
    Deadline {
        /// The deadline.
        after: Duration,
    },
}

impl RefusalKind {
    /// Every [`code`](Self::code).
    pub const CODES: [&'static str; 13] = [
        "invalid_json",
        "model_missing",
        "model_not_string",
        "model_twice",
        "model_not_found",
        "request_too_large",
        "overloaded",
        "no_ready_endpoint",
        "no_prefill_endpoint",
        "subset_empty",
        "filtered_out",
        "unknown_pool",
        "deadline",
    ];

    /// A short constant name: metric label, log field, OpenAI error `code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadJson(_) => "invalid_json",
            Self::ModelMissing => "model_missing",
            Self::ModelNotString => "model_not_string",
            Self::ModelTwice => "model_twice",
            Self::UnknownModel(_) => "model_not_found",
            Self::TooLarge { .. } => "request_too_large",
            Self::Overloaded { .. } => "overloaded",
            Self::NoneReady(_) => "no_ready_endpoint",
            Self::NoPrefill(_) => "no_prefill_endpoint",
            Self::SubsetEmpty => "subset_empty",
            Self::FilteredOut { .. } => "filtered_out",
            Self::UnknownPool(_) => "unknown_pool",
            Self::Deadline { .. } => "deadline",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_list_of_codes() {
        use RefusalKind as Kind;
        let (text, after) = (String::new, Duration::ZERO);
        let kinds = [
            Kind::BadJson(text()),
            Kind::ModelMissing,
            Kind::ModelNotString,
            Kind::ModelTwice,
            Kind::UnknownModel(text()),
            Kind::TooLarge { cap: 0 },
            Kind::Overloaded { retry_after: after },
            Kind::NoneReady(text()),
            Kind::NoPrefill(text()),
            Kind::SubsetEmpty,
            Kind::FilteredOut { filter: text(), reason: text() },
            Kind::UnknownPool(text()),
            Kind::Deadline { after },
        ];
        assert_eq!(kinds.map(|kind| kind.code()), Kind::CODES);
    }
}
