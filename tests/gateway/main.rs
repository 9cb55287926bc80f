//! The picker behind the real Envoy, in the shapes that gateways program.

mod config;
mod harness;
