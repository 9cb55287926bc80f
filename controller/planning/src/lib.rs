//! The operator's brain: what a `ModelServing` asks for and what there is, in; what to write, out.
//!
//! Pure: no I/O, no clock, no chance. The truth is the cluster's objects, so [`plan`] may be asked again at any time,
//! by any process, and says the same; a cluster that is as it should be gives an empty [`Plan`].
//!
//! Reading order: [`names`], [`observed`], [`plan`](mod@plan), [`revision`], [`objects`], [`plugins`],
//! [`leader_worker_set`].

pub mod leader_worker_set;
pub mod names;
pub mod objects;
pub mod observed;
pub mod plan;
pub mod plugins;
mod quantity;
pub mod revision;
