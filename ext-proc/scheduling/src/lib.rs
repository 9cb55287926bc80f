//! The brain of the picker: [`schedule`] says which endpoint of a pool serves a request, and why.
//!
//! Values in, values out. This crate does no I/O, reads no clock and no randomness: time is a
//! [`Moment`], chance is an argument. The same code therefore runs in production, in
//! `tests/simulation` and behind `explain`.
//!
//! ```text
//! Event ──> State ──> Snapshot ─┐
//!                      Profile ─┼─> schedule ──> Decision | Refusal   (both hold a Report)
//!                      Request ─┘
//! ```

mod affinity;
mod candidate;
pub mod decision;
pub mod disaggregation;
pub mod endpoint;
pub mod filters;
#[cfg(test)]
mod fixtures;
pub mod kv;
pub mod load;
pub mod moment;
mod outlier;
mod pairing;
pub mod pickers;
pub mod prefix;
pub mod profile;
pub mod rates;
pub mod refusal;
pub mod request;
pub mod routing;
pub mod schedule;
pub mod scorers;
pub mod snapshot;
pub mod state;
pub mod what_if;

pub use affinity::Trade;
pub use decision::{CandidateReport, Decision, FilterReport, KvMeasure, Reason, Report, Row, ScorerReport};
pub use disaggregation::{Disaggregation, KvConnector, PdGroup, Role, SIDECAR_LABEL, Verdict};
pub use endpoint::{Endpoint, EngineKind, Gauges, Slot};
pub use kv::{Applied, BlockKey, EngineHash, KvEvent, KvIndex, KvMatch, KvUsage, Medium, PromptKeys, block_keys};
pub use load::{InFlight, Load};
pub use moment::Moment;
pub use prefix::{BlockHash, Matched, PrefixIndex};
pub use profile::{Profile, ProfileError};
pub use rates::{Rates, Speed};
pub use refusal::{Refusal, RefusalKind};
pub use request::{Body, Content, Headers, Prompt, Request, Subset, Tokens};
pub use routing::{ModelRoute, ModelServer, Resolution, Routing, Rule, StringMatch, Target};
pub use schedule::schedule;
pub use scorers::PrefixCache;
pub use snapshot::{Pool, PoolName, Snapshot};
pub use state::{Declared, DeclaredEndpoint, DeclaredPool, Event, State};
pub use what_if::{WhatIf, WhatIfError};
