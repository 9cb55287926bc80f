//! `deploy/kthena.yaml`: accepted as it is, and its rights are enough.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use controller_api::http_route::HttpRoute;
use controller_api::inference_pool::InferencePool;
use controller_api::leader_worker_set::LeaderWorkerSet;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope};
use serde_json::{Value, json};
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions, config_of};
use tests::cluster::kubelet::Kubelet;
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::poll;
use tests::scratch::Scratch;

use crate::attachment::{create_picker, create_route, create_server};
use crate::stage::{SOON, condition, role, spec, template};

const MANIFESTS: &str = include_str!("../../deploy/kthena.yaml");
const HOME: &str = "kthena-system";
const ACCOUNT: &str = "system:serviceaccount:kthena-system:kthena-controller-manager";

/// Applies every object. Nobody answers the webhook here, so the API server is only asked whether it would take it.
async fn install(plane: &ControlPlane) -> Result<usize> {
    let client = plane.client().await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut applied = 0;
    for document in MANIFESTS.split("\n---\n") {
        let object: DynamicObject = serde_saphyr::from_str(document)?;
        let api = api_of(&client, &discovery, &object)?;
        let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut params = PatchParams::apply("a-test").validation_strict();
        params.dry_run = kind == "ValidatingWebhookConfiguration";
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("the API server refuses {kind} {name}"))?;
        applied += 1;
    }
    Ok(applied)
}

/// A kubeconfig that acts as this account.
pub(crate) fn kubeconfig_of(administrator: &Path, scratch: &Scratch, account: &str) -> Result<PathBuf> {
    let mut kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(administrator)?)?;
    kubeconfig["users"][0]["user"]["as"] = json!(account);
    let path = scratch.file(&format!("kubeconfig-{}", account.rsplit(':').next().unwrap_or_default()));
    std::fs::write(&path, kubeconfig.to_string())?;
    Ok(path)
}

/// An operator with all that the manifests switch on.
pub(crate) async fn operator_at_home(kubeconfig: &Path) -> Result<Operator> {
    OperatorOptions::new(kubeconfig)
        .flag("--leader-elect", true)
        .flag("--enable-webhook", true)
        .flag("--port", 0)
        .env("POD_NAMESPACE", HOME)
        .start()
        .await
}

/// Where an object of a manifest is; where it says no namespace and has one, in `default`.
pub(crate) fn api_of(
    client: &kube::Client,
    discovery: &Discovery,
    object: &DynamicObject,
) -> Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object has a kind")?;
    let (resource, capabilities) = discovery
        .resolve_gvk(&GroupVersionKind::try_from(types)?)
        .with_context(|| format!("no such kind: {types:?}"))?;
    Ok(match capabilities.scope {
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
        Scope::Cluster => Api::all_with(client.clone(), &resource),
    })
}

async fn wait_available(namespace: &Namespace, name: &str, generation: i64) -> Result<()> {
    poll::until(&format!("{name} to be available at generation {generation}"), SOON, async || {
        let status = namespace.api::<ModelServing>().get_opt(name).await.ok()??.status?;
        let ready = condition(&status, "Ready") == Some(true);
        (status.observed_generation >= generation && ready).then_some(())
    })
    .await
}

#[tokio::test]
async fn the_manifests_are_accepted_and_their_rights_are_enough() -> Result<()> {
    let plane = ControlPlaneOptions::default().start().await?;
    assert_eq!(install(&plane).await?, MANIFESTS.matches("\napiVersion: ").count());
    let scratch = Scratch::new("operator-rights")?;
    let kubeconfig = kubeconfig_of(plane.kubeconfig(), &scratch, ACCOUNT)?;
    let client = kube::Client::try_from(config_of(&kubeconfig).await?)?;
    let refused = Api::<Secret>::all(client).list(&ListParams::default()).await;
    assert!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403),
        "the account is an administrator: {refused:?}"
    );
    let operator = operator_at_home(&kubeconfig).await?;
    let story = async {
        let namespace = plane.namespace("rights").await?;
        let _kubelet = Kubelet::start(&namespace);
        let api = namespace.api::<ModelServing>();
        let mut wanted = spec(2, &[role("prefill", 1, 1)]);
        wanted["schedulerName"] = json!("volcano");
        let serving = json!({
            "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing",
            "metadata": {"name": "llm"}, "spec": wanted,
        });
        api.create(&PostParams::default(), &serde_json::from_value(serving)?).await?;
        wait_available(&namespace, "llm", 1).await?;
        // Deletes of each kind, a rollout, and a revision too many.
        let smaller = json!({"spec": {"replicas": 1, "revisionHistoryLimit": 0}});
        api.patch("llm", &PatchParams::default(), &Patch::Merge(smaller)).await?;
        wait_available(&namespace, "llm", 2).await?;
        let image = json!([{
            "op": "replace", "path": "/spec/template/roles/0/entryTemplate/spec/containers/0/image", "value": "engine:2",
        }]);
        let image = Patch::Json::<ModelServing>(serde_json::from_value(image)?);
        api.patch("llm", &PatchParams::default(), &image).await?;
        wait_available(&namespace, "llm", 3).await?;
        namespace.api::<Pod>().delete("llm-0-prefill-0-1", &DeleteParams::default()).await?;

        let set = json!({
            "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "set"},
            "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template("engine:1")}},
        });
        namespace.api::<LeaderWorkerSet>().create(&PostParams::default(), &serde_json::from_value(set)?).await?;
        wait_available(&namespace, "set", 1).await?;
        poll::until("the set's status", SOON, async || {
            let status = namespace.api::<LeaderWorkerSet>().get("set").await.ok()?.status?;
            (status.ready_replicas == 1).then_some(())
        })
        .await?;

        // Applied, changed and deleted, with their statuses.
        create_picker(&namespace).await?;
        create_server(&namespace, "old", "llm").await?;
        create_server(&namespace, "young", "llm").await?;
        create_route(&namespace, "llm", "llm", "old").await?;
        poll::until("an InferencePool and an HTTPRoute", SOON, async || {
            namespace.api::<InferencePool>().get_opt("old").await.ok()??;
            namespace.api::<HttpRoute>().get_opt("llm").await.ok()??;
            namespace.api::<ModelServer>().get("young").await.ok()?.status?;
            namespace.api::<ModelRoute>().get("llm").await.ok()?.status
        })
        .await?;
        let nowhere = Patch::Merge(json!({"spec": {"parentRefs": []}}));
        namespace.api::<ModelRoute>().patch("llm", &PatchParams::default(), &nowhere).await?;
        poll::until("the HTTPRoute's end", SOON, async || {
            namespace.api::<HttpRoute>().get_opt("llm").await.ok()?.is_none().then_some(())
        })
        .await?;

        let client = namespace.client();
        let leases: Api<Lease> = Api::namespaced(client.clone(), HOME);
        leases.get("lease.kthena.controller-manager").await.context("no Lease")?;
        let secrets: Api<Secret> = Api::namespaced(client, HOME);
        secrets.get("kthena-controller-manager-webhook-certs").await.context("no certificate")?;
        anyhow::Ok(())
    };
    story.await.with_context(|| format!("the operator said:\n{}", operator.log()))?;
    let refused = operator.log().to_lowercase();
    assert!(!refused.contains("forbidden"), "{refused}");
    Ok(())
}
