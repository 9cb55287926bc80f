//! A control plane of a test's own: it changes what all namespaces share.

use anyhow::Result;
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::cluster::kubelet::Kubelet;
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::cluster::proxy::Proxy;

/// A control plane, a namespace with a kubelet's stand-in, and what counts the operator's writes.
pub(crate) struct World {
    pub(crate) plane: ControlPlane,
    pub(crate) namespace: Namespace,
    pub(crate) proxy: Proxy,
    _kubelet: Kubelet,
}

impl World {
    pub(crate) async fn new(label: &str) -> Result<Self> {
        let plane = ControlPlaneOptions::default().start().await?;
        let namespace = plane.namespace(label).await?;
        let proxy = Proxy::for_namespace(&plane, namespace.name()).await?;
        let kubelet = Kubelet::start(&namespace);
        Ok(Self { plane, namespace, proxy, _kubelet: kubelet })
    }

    pub(crate) async fn operator(&self) -> Result<Operator> {
        OperatorOptions::new(self.proxy.kubeconfig()).env("POD_NAMESPACE", self.namespace.name()).start().await
    }
}
