//! The Kubernetes kinds that both bodies read and write: data only.
//!
//! Field names, defaults and limits are those of the objects' owners, so that their users'
//! manifests apply unchanged. Meaning is added by the reader.

mod cel;
pub mod conditions;
pub mod crds;
pub mod http_route;
pub mod inference_pool;
pub mod labels;
pub mod leader_worker_set;
pub mod pod_group;
mod pod_template;
pub mod v1alpha1;
