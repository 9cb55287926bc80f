//! The body of the picker: edges only. What is decided is decided in `scheduling`.

pub mod access_log;
pub mod fleet;
pub mod metrics;
pub mod observer;
pub mod recent;
pub mod rfc3339;
pub mod telemetry;
pub mod trace;
