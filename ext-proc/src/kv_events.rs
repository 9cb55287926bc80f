//! The engines' own KV events, from the wire to the index: which endpoint holds which block.
//!
//! ```text
//! zmtp ──> sequence ──> decode ──> scheduling::kv
//! ```

pub mod decode;
mod msgpack;
pub mod sequence;
mod zmtp;
