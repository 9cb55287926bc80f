//! The cluster: found as kubectl finds it, and errors that say what to do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use controller_api::labels;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config, Resource as _};
use planning::revision::History;
use serde_json::Value;

use crate::args::ClusterArgs;

/// Who changed a field, as `managedFields` show it.
pub(crate) const FIELD_MANAGER: &str = "kthena-cli";

/// The longest that one call may take.
const CALL: Duration = Duration::from_secs(30);

/// How often a change is tried while only the status is written in between.
const CHANGE_ATTEMPTS: u32 = 10;

/// ModelServings that an error lists.
const LISTED: u32 = 10;

/// Objects of a page, and of a whole list.
const PAGE: u32 = 500;
const MOST: usize = 100_000;

/// A kind of objects, also one that we have no type for.
pub(crate) struct Kind {
    /// Empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

impl Kind {
    /// `group/version`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Why there is no list.
pub(crate) enum Refusal {
    /// The cluster does not have the kind.
    NoSuchKind,
    /// Whoever asks may not.
    Forbidden(String),
    /// Anything else.
    Failed(String),
}

/// One namespace of a cluster.
pub(crate) struct Cluster {
    client: Client,
    pub(crate) url: String,
    pub(crate) namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is called yet.
    pub(crate) async fn connect(args: &ClusterArgs) -> Result<Self> {
        let config = config(args).await.context("no cluster to talk to")?;
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        Ok(Self { client: Client::try_from(config)?, url, namespace })
    }

    pub(crate) fn servings(&self) -> Api<ModelServing> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The objects of some kind.
    pub(crate) fn objects(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, kind)
    }

    /// The objects of a kind, of the namespace or of all.
    pub(crate) fn api<K>(&self, all_namespaces: bool) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        if all_namespaces {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        }
    }

    /// The ModelServing, or an error that says where else to look.
    pub(crate) async fn serving(&self, name: &str) -> Result<ModelServing> {
        if let Some(serving) = self.call(self.servings().get_opt(name)).await? {
            return Ok(serving);
        }
        let namespace = &self.namespace;
        let missing = format!("there is no ModelServing {name:?} in namespace {namespace:?}");
        let others = self.call(self.servings().list(&ListParams::default().limit(LISTED))).await?;
        let names: Vec<String> = others.items.into_iter().filter_map(|other| other.metadata.name).collect();
        Err(if names.is_empty() {
            anyhow!("{missing}, nor any other: is it in another namespace (-n) or cluster (--context)?")
        } else {
            anyhow!("{missing}; there are {}", names.join(", "))
        })
    }

    /// All its revisions.
    pub(crate) async fn history(&self, serving: &ModelServing) -> Result<History> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = serving.metadata.name.as_deref().unwrap_or_default();
        let ours = ListParams::default().labels(&format!("{}={name}", labels::NAME));
        let revisions = self.call(api.list(&ours)).await?.items;
        let owned = |revision: &ControllerRevision| {
            let owners = revision.metadata.owner_references.iter().flatten();
            let uid = serving.metadata.uid.as_ref();
            owners.into_iter().any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid)
        };
        // A revision of a namesake that was deleted would be another's past.
        let revisions: Vec<_> = revisions.into_iter().filter(owned).map(Arc::new).collect();
        Ok(History::read(serving, &revisions))
    }

    /// All objects of a kind in a namespace, or in all of them.
    ///
    /// # Errors
    /// Why there is no list.
    pub(crate) async fn list(&self, kind: &Kind, namespace: Option<&str>) -> Result<Vec<Value>, Refusal> {
        let resource = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&resource, kind.plural);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let mut objects = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let answer = self.call(async { Ok(api.list(&page).await) }).await;
            let listed = match answer.map_err(|error| Refusal::Failed(crate::story(&error)))? {
                Ok(listed) => listed,
                Err(kube::Error::Api(status)) if status.code == 404 => return Err(Refusal::NoSuchKind),
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Err(Refusal::Forbidden(status.message.clone()));
                }
                Err(error) => return Err(Refusal::Failed(crate::story(&self.explain(error)))),
            };
            let values = listed.items.into_iter().map(serde_json::to_value).collect::<Result<Vec<Value>, _>>();
            objects.extend(values.map_err(|error| Refusal::Failed(error.to_string()))?);
            if objects.len() > MOST {
                return Err(Refusal::Failed(format!("there are more than {MOST}: name a namespace (-n)")));
            }
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(objects),
            }
        }
    }

    /// Merges `change` into the ModelServing, if it still asks for what `serving` does. That its status was written in
    /// between, as it is all the time during a rollout, does not matter.
    pub(crate) async fn change(&self, serving: &ModelServing, mut change: Value) -> Result<()> {
        let name = serving.metadata.name.as_deref().unwrap_or_default();
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let servings = self.servings();
        let mut version = serving.metadata.resource_version.clone();
        for _ in 0..CHANGE_ATTEMPTS {
            if let Some(fields) = change.as_object_mut() {
                let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.insert("resourceVersion".to_owned(), version.into());
                }
            }
            let patch = Patch::Merge(&change);
            let answer = self.call(async { Ok(servings.patch(name, &parameters, &patch).await) }).await?;
            match answer {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let now = self.serving(name).await?;
                    let same = now.metadata.uid == serving.metadata.uid
                        && now.metadata.generation == serving.metadata.generation
                        && now.metadata.annotations == serving.metadata.annotations;
                    if !same {
                        break;
                    }
                    version = now.metadata.resource_version;
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
        Err(anyhow!("somebody changed it at the same moment: run the command again"))
    }

    /// Waits for an answer, with a deadline.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.explain(error)),
            Err(_) => Err(anyhow!("{} does not answer within {} s", self.url, CALL.as_secs())),
        }
    }

    fn explain(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) if status.code == 404 => anyhow!(
                "{} does not know the kind {}: install the CustomResourceDefinitions (kubectl apply --server-side -f deploy/crds)",
                self.url,
                ModelServing::kind(&())
            ),
            kube::Error::Api(status) => anyhow!("{} ({})", status.message, status.reason),
            other => anyhow::Error::new(other)
                .context(format!("cannot reach {}: is it the right --context or --kubeconfig?", self.url)),
        }
    }
}

/// The namespace of a command that may do without a cluster: the one that was said, that of the context, or `default`.
pub(crate) async fn namespace(args: &ClusterArgs) -> Result<String> {
    if let Some(namespace) = &args.namespace {
        return Ok(namespace.clone());
    }
    match config(args).await {
        Ok(config) => Ok(config.default_namespace),
        Err(_) if args.kubeconfig.is_none() && args.context.is_none() => Ok("default".to_owned()),
        Err(error) => Err(error).context("no cluster to talk to"),
    }
}

async fn config(args: &ClusterArgs) -> Result<Config> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    if let Some(file) = &args.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(file)?;
        return Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?);
    }
    if args.context.is_some() {
        return Ok(Config::from_kubeconfig(&options).await?);
    }
    Ok(Config::infer().await?)
}
