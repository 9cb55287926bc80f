//! Which endpoint holds which block of tokens.

pub mod event;

pub use event::{EngineHash, KvEvent, Medium};
