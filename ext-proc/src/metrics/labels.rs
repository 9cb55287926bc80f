//! The label sets, and what keeps each of them bounded.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::Arc;

use opentelemetry::trace::TraceId;
use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder};
use scheduling::PoolName;

use crate::fleet::Fleet;

/// At most so many model names become labels; later ones are `other`.
pub const MAX_MODELS: usize = 1_000;

/// The paths that are labels; all others are `other`.
pub const PATHS: [&str; 13] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/models",
    "/v1/rerank",
    "/v1/score",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/generate",
    "/tokenize",
    "/detokenize",
];

/// The label of a request's path: itself when it is one of the engines' well-known paths, without
/// query; else `other`.
#[must_use]
pub fn path(path: &str) -> &'static str {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    PATHS.iter().find(|known| **known == path).copied().unwrap_or("other")
}

/// A model name that may be a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EncodeLabelValue for ModelName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(&self.0)
    }
}

/// The model names seen so far that something declares.
#[derive(Debug)]
pub(super) struct KnownModels {
    fleet: Arc<Fleet>,
    seen: RwLock<HashSet<Arc<str>>>,
    unknown: ModelName,
    other: ModelName,
}

impl KnownModels {
    pub(super) fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet, seen: RwLock::default(), unknown: ModelName("unknown".into()), other: ModelName("other".into()) }
    }

    pub(super) fn label(&self, pool: &PoolName, model: Option<&str>) -> ModelName {
        let Some(model) = model else { return self.unknown.clone() };
        if let Some(seen) = self.seen.read().get(model) {
            return ModelName(Arc::clone(seen));
        }
        if !declared(&self.fleet, pool, model) {
            return self.unknown.clone();
        }
        let mut seen = self.seen.write();
        if seen.len() >= MAX_MODELS {
            return self.other.clone();
        }
        let name: Arc<str> = model.into();
        seen.insert(Arc::clone(&name));
        ModelName(name)
    }
}

/// Whether a ModelRoute, a ModelServer or an engine of the pool names the model.
fn declared(fleet: &Fleet, pool: &PoolName, model: &str) -> bool {
    let snapshot = fleet.snapshot();
    let Some(pool) = snapshot.pools.get(pool) else { return false };
    let is = |name: &Arc<str>| **name == *model;
    pool.routing.routes.iter().any(|route| route.model.as_ref().is_some_and(is) || route.adapters.iter().any(is))
        || pool.routing.servers.values().any(|server| server.model.as_ref().is_some_and(is))
        || pool
            .all_endpoints()
            .filter_map(|endpoint| endpoint.gauges.as_ref()?.models.as_ref())
            .any(|models| models.iter().any(is))
}

/// An HTTP status as a label: `unknown` when the data plane does not show responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(Option<u16>);

impl Status {
    /// The label for a status; what is no HTTP status is `unknown`.
    #[must_use]
    pub fn new(status: Option<u16>) -> Self {
        Self(status.filter(|status| (100..600).contains(status)))
    }
}

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(encoder, "{status}"),
            None => encoder.write_str("unknown"),
        }
    }
}

/// Labels of `requests_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) model: ModelName,
    pub(super) path: &'static str,
    pub(super) status_code: Status,
    pub(super) error_type: &'static str,
}

/// Labels of `request_duration_seconds` and of its two phases where prefill runs apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DurationLabels {
    pub(super) model: ModelName,
    pub(super) path: &'static str,
    pub(super) status_code: Status,
}

/// Labels of what is counted by model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ModelLabels {
    pub(super) model: ModelName,
}

/// Labels of `refusals_total` and `prefill_fallbacks_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

/// Labels of `prefill_requests_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) outcome: &'static str,
}

/// Labels of `exchange_phase_duration_seconds`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PhaseLabels {
    pub(super) phase: &'static str,
}

/// Labels of `reload_failures_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SourceLabels {
    pub(super) source: &'static str,
}

/// The exemplar's label: which trace an observation belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Trace(pub TraceId);

impl EncodeLabelSet for Trace {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel;
        ("trace_id", Hex(self.0)).encode(encoder.encode_label())
    }
}

struct Hex(TraceId);

impl EncodeLabelValue for Hex {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{:032x}", u128::from_be_bytes(self.0.to_bytes()))
    }
}
