//! The body of the operator: edges only. What is written is decided in `planning`.
//!
//! The walk of one reconcile: a watch tells of an object ([`observe`]); it is reduced to facts and kept in the
//! [`observe::store`], and its ModelServing is put into the [`queue`]; a worker takes it and makes a pass
//! ([`reconcile`]): the facts go into `planning::plan`, the plan is carried out by [`apply`], and what the API server
//! answers goes into the store at once, so that the next pass sees it. A pass that finds nothing to do writes nothing.
//! ModelServers and ModelRoutes have passes of their own ([`attachment`]). Envoy Gateway and its Envoys are answered by
//! [`extension`]. [`run`] is the map of the process.

pub mod admin;
pub mod apply;
pub mod args;
pub mod attachment;
pub mod debug;
pub mod discovery;
pub mod events;
pub mod extension;
pub mod leader_worker_sets;
pub mod lease;
pub mod limiter;
pub mod metrics;
pub mod observe;
pub mod queue;
pub mod readiness;
pub mod reconcile;
pub mod run;
pub mod telemetry;
pub mod webhook;
