//! gRPC contracts: our own, and Envoy Gateway's with its extensions. `src/generated` is written by `cargo gen`; beside it
//! is only how a record reads.

mod account;

/// `kthena.picker.v1`: the picker's account of its decisions.
pub mod picker_v1 {
    #![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
    include!("generated/kthena.picker.v1.rs");
}

/// `envoygateway.extension`: what Envoy Gateway asks its extensions.
pub mod envoy_gateway {
    #![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
    include!("generated/envoygateway.extension.rs");
}
