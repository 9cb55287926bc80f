//! A real control plane on loopback: etcd and kube-apiserver always, more where a test needs it.
//!
//! Reading order: [`control_plane`], [`namespace`], [`kubelet`] (a test fixture, not a kubelet), [`operator`],
//! [`proxy`] (counts what the operator writes, and spoils it on demand), [`binaries`].

pub mod binaries;
mod call;
pub mod certificates;
pub mod control_plane;
pub mod crds;
mod extras;
mod go;
pub mod helm;
pub mod kubelet;
pub mod namespace;
pub mod operator;
pub mod promtool;
pub mod proxy;
