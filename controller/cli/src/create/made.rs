//! Objects are created together: each is tried first, and when one is refused after all, the others go again.

use anyhow::{Context as _, Result, anyhow, bail};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions};
use kube::core::{GroupVersionKind, Status};
use serde_json::Value;

use crate::cluster::{Cluster, FIELD_MANAGER};

/// Objects that are to be created.
pub(super) struct Making<'a> {
    cluster: &'a Cluster,
    objects: Vec<Object>,
}

struct Object {
    kind: String,
    name: String,
    api: Api<DynamicObject>,
    manifest: DynamicObject,
}

impl<'a> Making<'a> {
    pub(super) fn of(cluster: &'a Cluster, objects: &[Value]) -> Result<Self> {
        let objects = objects.iter().map(|object| Object::of(cluster, object)).collect::<Result<_>>()?;
        Ok(Self { cluster, objects })
    }

    /// `modelserving/llm`, and so on.
    pub(super) fn each(&self) -> Vec<String> {
        self.objects.iter().map(|object| format!("{}/{}", object.kind.to_lowercase(), object.name)).collect()
    }

    /// Asks the cluster whether it would take each of them.
    ///
    /// # Errors
    /// When it would not, with all that is in the way; nothing was written.
    pub(super) async fn rehearse(&self) -> Result<()> {
        let mut refusals = Vec::new();
        for object in &self.objects {
            if let Err(status) = self.create(object, true).await? {
                refusals.push(self.refusal(object, &status));
            } else if object.kind == "ModelServer" {
                refusals.extend(self.foreign_pool(&object.name).await?);
            }
        }
        refusals.dedup();
        if refusals.is_empty() { Ok(()) } else { bail!("nothing was created: {}", refusals.join("; ")) }
    }

    /// Creates them.
    ///
    /// # Errors
    /// When one is refused; those before it were taken away again.
    pub(super) async fn perform(&self) -> Result<()> {
        let mut made = Vec::new();
        for object in &self.objects {
            let error = match self.create(object, false).await {
                Ok(Ok(created)) => {
                    made.push((object, created));
                    continue;
                }
                Ok(Err(status)) => anyhow!(self.refusal(object, &status)),
                Err(error) => error,
            };
            return Err(match self.take_away(&made).await {
                Ok(()) => error.context("nothing was created"),
                Err(left) => error.context(format!("not all was created, and what was is still there: {left}")),
            });
        }
        Ok(())
    }

    /// The object as it was created, or why it was not.
    async fn create(&self, object: &Object, rehearsal: bool) -> Result<Result<DynamicObject, Box<Status>>> {
        let parameters = PostParams { dry_run: rehearsal, field_manager: Some(FIELD_MANAGER.to_owned()) };
        let call = object.api.create(&parameters, &object.manifest);
        let answer = self.cluster.call(async {
            match call.await {
                Err(kube::Error::Api(status)) => Ok(Err(status)),
                other => other.map(Ok),
            }
        });
        answer.await
    }

    async fn take_away(&self, made: &[(&Object, DynamicObject)]) -> Result<()> {
        for (object, created) in made.iter().rev() {
            let preconditions = Preconditions { uid: created.metadata.uid.clone(), resource_version: None };
            let this = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            self.cluster.call(object.api.delete(&object.name, &this)).await?;
        }
        Ok(())
    }

    /// Why an InferencePool keeps the operator from making one of this name.
    async fn foreign_pool(&self, name: &str) -> Result<Option<String>> {
        let kind = GroupVersionKind::gvk("inference.networking.k8s.io", "v1", "InferencePool");
        let api = self.cluster.objects(&ApiResource::from_gvk(&kind));
        let call = async {
            match api.get_opt(name).await {
                // No such kind, or none of our business: the operator will say so.
                Err(kube::Error::Api(_)) => Ok(None),
                other => other,
            }
        };
        let found = self.cluster.call(call).await?;
        // One that a ModelServer made is on its way out, or will be found to be its own.
        let foreign = found.filter(|pool| {
            let owners = pool.metadata.owner_references.as_deref().unwrap_or_default();
            !owners.iter().any(|owner| owner.kind == "ModelServer")
        });
        let namespace = &self.cluster.namespace;
        Ok(foreign.map(|_| {
            format!(
                "InferencePool {name} exists in namespace {namespace} and is not the operator's, which would make one \
                 of that name: choose another name with --name"
            )
        }))
    }

    fn refusal(&self, object: &Object, status: &Status) -> String {
        let namespace = &self.cluster.namespace;
        let (kind, name) = (&object.kind, &object.name);
        match (status.code, kind.as_str()) {
            (409, _) => {
                format!("{kind} {name} exists in namespace {namespace} already: choose another name with --name")
            }
            (404, _) if status.message.contains("namespaces") => {
                format!("there is no namespace {namespace}: kubectl create namespace {namespace}")
            }
            (404, "HTTPRoute") => "the cluster does not know the kind HTTPRoute: install the Gateway API, or leave \
                                   the route out with --set gateway="
                .to_owned(),
            (404, "LeaderWorkerSet") => "the cluster does not know the kind LeaderWorkerSet: install the \
                                         CustomResourceDefinitions of LWS, or choose another template"
                .to_owned(),
            (404, _) => format!(
                "the cluster does not know the kind {kind}: install the CustomResourceDefinitions (kubectl apply \
                 --server-side -f deploy/crds)"
            ),
            _ => format!("{kind} {name} is refused: {} ({})", status.message, status.reason),
        }
    }
}

impl Object {
    fn of(cluster: &Cluster, object: &Value) -> Result<Self> {
        let manifest: DynamicObject = serde_json::from_value(object.clone())?;
        let types = manifest.types.as_ref().context("an object of the template has no kind")?;
        let kind = types.kind.clone();
        let api = cluster.objects(&ApiResource::from_gvk(&GroupVersionKind::try_from(types)?));
        let name = manifest.metadata.name.clone().context("an object of the template has no name")?;
        Ok(Self { kind, name, api, manifest })
    }
}
