//! The Kubernetes kinds that both bodies read and write: data only.
