//! Prefill in another pod than decode, without a sidecar: the picker makes the prefill call itself,
//! and gives to decode what it needs to find the KV blocks.
//!
//! | what | file |
//! |---|---|
//! | which fields an engine wants, by connector | `connectors.rs`, and one file for each in `connectors/` |
//! | what prefill and decode get of the client's body | `request.rs` |
//! | one call to one engine | `client.rs` |
//! | the tries of one request, in time | `job.rs` |
//! | calls that go on after their stream has ended | `alongside.rs` |

mod alongside;
mod client;
mod connectors;
mod job;
mod request;

pub use alongside::{Alongside, Running};
pub use client::{CallError, CallHeaders, Client};
pub use connectors::{Connector, NoTransfer, TRANSFER_FIELDS, Transfer, connector};
pub use job::{Job, Outcome};
pub use request::{PATHS, Split, Unsplittable, engine_path};
