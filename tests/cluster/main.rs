//! The operator against a real API server.

mod kinds;
mod kubelet;
mod proxy;
