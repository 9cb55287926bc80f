//! The engines' own KV events, from the wire to the index: which endpoint holds which block.
//!
//! ```text
//! zmtp ──> sequence ──> decode ──> scheduling::kv
//! ```
//!
//! Either the picker connects to each engine (`subscriber`), or the engines connect to it (`callers`).

mod callers;
pub mod decode;
pub mod metrics;
mod msgpack;
mod rank;
mod replay;
pub mod sequence;
pub mod subscriber;
mod zmtp;

pub use callers::Bind;
pub use metrics::KvMetrics;
pub use subscriber::{Sources, Subscriber};
