//! The checks: each a pure function of the facts, in the order in which a person is told.

mod engines;
mod envoy;
mod picker;
mod policies;
mod pools;
mod reading;
mod routes;

use serde::Serialize;
use serde_json::Value;

use super::facts::{Facts, Source};
use super::report::{NotDone, Report};

/// All of them; one line each is all that a new one needs.
pub(super) const CHECKS: &[Check] = &[
    reading::UNREADABLE,
    reading::KIND_MISSING,
    reading::OLD_API_GROUP,
    pools::SELECTOR_MATCHES_NOTHING,
    pools::SELECTOR_MATCHES_PREFILL,
    pools::PORT_NOT_SERVED,
    pools::NO_ENDPOINT_READY,
    pools::POOL_NOT_ACCEPTED,
    picker::PICKER_NOT_NAMED,
    picker::PICKER_SERVICE_MISSING,
    picker::PICKER_NOT_READY,
    picker::CONFIGURATION_REFUSED,
    picker::POOL_NOT_SERVED,
    picker::TLS_MISMATCH,
    routes::GATEWAY_MISSING,
    routes::BACKEND_MISSING,
    routes::MODEL_SERVER_MISSING,
    routes::ROUTE_NOT_ACCEPTED,
    envoy::PICKER_NOT_ASKED,
    envoy::PICK_IGNORED,
    envoy::PICKER_NOT_HTTP2,
    envoy::BODY_HIDDEN,
    envoy::MESSAGE_TIMEOUT_SHORT,
    envoy::METADATA_NOT_RECEIVED,
    envoy::SERVED_ENDPOINT_LOST,
    envoy::STEERING_HEADER_KEPT,
    envoy::TWO_FILTERS_ONE_POOL,
    envoy::FAIL_OPEN_IN_VAIN,
    envoy::ANSWER_CUT,
    engines::ENGINE_METRICS_SILENT,
    engines::MODEL_NOT_SERVED,
    engines::KV_EVENTS_SILENT,
    engines::TOKENIZER_MISSING,
];

/// A mistake that can be looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// In kebab-case; an interface.
    pub(super) id: &'static str,
    /// The mistake, in a line.
    pub(super) about: &'static str,
    /// What must have been read: of each list something.
    needs: &'static [&'static [Source]],
    find: fn(&Facts) -> Vec<Found>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Requests fail, or go where they should not.
    Error,
    /// It works, but not as well as it could, or not on every day.
    Warning,
}

/// A mistake that was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) severity: Severity,
    /// `Kind namespace/name`, or which part of Envoy or of a picker.
    pub(super) object: String,
    /// What is wrong, in a sentence.
    pub(super) problem: String,
    /// What to do, in a sentence.
    pub(super) fix: String,
    /// What to apply; of Envoy, the part to write.
    pub(super) manifest: Option<Value>,
}

impl Found {
    fn error(object: String, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, object, problem: problem.into(), fix: fix.into(), manifest: None }
    }

    fn warning(object: String, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(object, problem, fix) }
    }

    fn with(self, manifest: Value) -> Self {
        Self { manifest: Some(manifest), ..self }
    }
}

/// Does every check but those to be skipped for which there are facts.
pub(super) fn examine(facts: &Facts, skipped: &[String]) -> Report {
    let mut report = Report::default();
    for check in CHECKS {
        if skipped.iter().any(|id| id == check.id) {
            report.not_done.push(NotDone { check: check.id, why: "it was to be skipped (--skip)".to_owned() });
            continue;
        }
        if let Some(why) = check.needs.iter().find_map(|any_of| facts.lacks(any_of)) {
            report.not_done.push(NotDone { check: check.id, why });
            continue;
        }
        report.done.push(check.id);
        let mut told: Vec<Found> = Vec::new();
        for found in (check.find)(facts) {
            // Many routes may share one mistake of a filter.
            if !told.contains(&found) {
                told.push(found);
            }
        }
        report.findings.extend(told.into_iter().map(|found| found.of(check.id)));
    }
    report
}

/// Names in a sentence; many of them are cut short.
fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    const LISTED: usize = 5;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let shown = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
