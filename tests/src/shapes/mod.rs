//! Envoy as the gateways program it.
