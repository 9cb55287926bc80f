//! The body of the picker: edges only. What is decided is decided in `scheduling`.

pub mod access_log;
pub mod args;
pub mod files;
pub mod fleet;
pub mod health;
pub mod listen;
mod manifest;
pub mod metrics;
pub mod observer;
pub mod recent;
pub mod resources;
pub mod rfc3339;
pub mod telemetry;
pub mod tls;
pub mod trace;
