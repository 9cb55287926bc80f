//! The proving ground's harness: what it takes to run a real Envoy, a real picker and simulated
//! engines on loopback, and to look at what they did.
//!
//! Reading order: [`engine`] (a test fixture, not an engine), [`config_dir`], [`picker`],
//! [`shapes`] (Envoy as the gateways program it), [`envoy`], [`client`], [`otlp_sink`]; for the operator
//! [`cluster`], for real gateways [`gateways`], and for what a person sees [`browser`].
//!
//! Everything listens on loopback at ports chosen by the system, and everything started here ends
//! with its value: also when the test panics, also when the process is killed.

pub mod browser;
pub mod cache;
pub mod checkout;
pub mod client;
pub mod cluster;
pub mod command_line;
pub mod config_dir;
pub mod demo;
pub mod engine;
pub mod envoy;
pub mod gateways;
pub mod generated;
pub mod otlp_sink;
pub mod own_binary;
pub mod picker;
pub mod pip;
pub mod poll;
pub mod process;
pub mod progress;
pub mod running;
pub mod scratch;
pub mod shapes;
pub mod usage;
