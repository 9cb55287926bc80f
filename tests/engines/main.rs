//! Real vLLM on the CPU, real Envoy, the real picker: what only real engines can prove.
//!
//! Nothing here measures time: on two cores an engine is slow whenever something else runs. Each test
//! starts the engines it needs, and they end with it.
//!
//! `cargo real-engines` installs what it needs, once; the default `cargo test` leaves it alone.

mod adapters;
mod caches;
mod deaths;
mod fleet;
mod install;
mod pairs;
mod repeats;
mod smoke;
mod stage;
mod tokens;
mod wire;
