//! How a simulated engine misbehaves when asked to.

use std::time::Duration;

/// A way to misbehave. Set by [`super::Engine::set_fault`], or over HTTP by `PUT /sim/fault` with
/// this as JSON (`{"slow": {"secs": 1, "nanos": 0}}`, `"hang"`, …) and `DELETE /sim/fault`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Completions wait so long before anything happens.
    Slow(Duration),
    /// Completions are answered with this status and an OpenAI-shaped error.
    Status(u16),
    /// The connection breaks after so many tokens of a streamed answer.
    ResetAfter(u32),
    /// Completions are never answered.
    Hang,
    /// `/metrics` answers with this status.
    MetricsStatus(u16),
    /// `/metrics` answers with this text.
    Metrics(String),
}
