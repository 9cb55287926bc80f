//! The body of the picker: edges only. What is decided is decided in `scheduling`.

pub mod access_log;
pub mod args;
pub mod duplicates;
pub mod exchange;
pub mod files;
pub mod fleet;
pub mod from_proto;
pub mod health;
pub mod hold;
pub mod listen;
mod manifest;
pub mod metrics;
pub mod observer;
pub mod openai;
pub mod pools;
pub mod profile_file;
pub mod recent;
pub mod resources;
pub mod rfc3339;
pub mod run;
pub mod service;
pub mod splice;
pub mod steering;
pub mod telemetry;
pub mod tls;
pub mod to_proto;
pub mod trace;
