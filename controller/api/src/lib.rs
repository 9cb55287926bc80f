//! The Kubernetes kinds that both bodies read and write: data only.
//!
//! Field names, defaults and limits are those of the objects' owners, so that their users'
//! manifests apply unchanged. Meaning is added by the reader.

pub mod inference_pool;
pub mod v1alpha1;
