//! A namespace of a test's own.

use anyhow::{Context as _, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace as Kind;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;

/// A fresh namespace, and a client of the caller's runtime. It is left where it is: it goes with the server.
#[derive(Clone)]
pub struct Namespace {
    name: String,
    client: kube::Client,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Namespace").field(&self.name).finish()
    }
}

impl Namespace {
    pub(super) async fn create(client: kube::Client, label: &str) -> Result<Self> {
        let name = format!("{label}-{:08x}", rand::random::<u32>());
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let api: Api<Kind> = Api::all(client.clone());
        api.create(&PostParams::default(), &Kind { metadata, ..Kind::default() })
            .await
            .with_context(|| format!("cannot create the namespace {name}"))?;
        Ok(Self { name, client })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An administrator's client.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The objects of a kind in it.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }
}
