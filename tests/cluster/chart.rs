//! The chart, installed by the real helm into the real API server.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::discovery::{Discovery, verbs};
use serde_json::json;
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::cluster::helm::{self, Helm};
use tests::picker::PickerOptions;
use tests::poll;
use tests::scratch::Scratch;

use crate::manifests::{api_of, kubeconfig_of, operator_at_home};
use crate::stage::{SOON, role, spec};

const HOME: &str = "kthena-system";
const SECRET: &str = "kthena-controller-manager-webhook-certs";

/// Values that switch on everything that needs no kind of others.
const EVERYTHING: &str = "
image: {registry: registry.example.com/team/, tag: v9}
imagePullSecrets: [{name: pull}]
controller:
  extraArgs: [--debug-port=15000]
  podAnnotations: {team: a}
  nodeSelector: {disk: ssd}
  tolerations: [{key: spot, operator: Exists}]
envoyGateway: {enabled: true, port: 5006}
picker:
  poolNamespaces: [default]
  certificateSecret: picker-certificate
  modelName: {enabled: true, port: 9014}
  schedulerConfig:
    scheduler:
      plugins: {Score: {enabled: [{name: least-request, weight: 1}]}}
  tokenizers: [{model: Qwen/Qwen3-8B, configMap: qwen3}]
  extraEnv: [{name: OTEL_EXPORTER_OTLP_ENDPOINT, value: 'http://otel:4317'}]
  affinity: {podAntiAffinity: {}}
";

async fn install(helm: &Helm, verb: &str, more: &[&str]) -> Result<()> {
    let chart = helm::chart();
    let chart = chart.to_string_lossy();
    let args = [verb, "kthena", &*chart, "--namespace", HOME];
    helm.run(&[&args[..], more].concat()).await.map(drop)
}

/// Every object that somebody made: kind and name. Leases of the control plane, events and what each namespace has by
/// itself are left out.
async fn objects(plane: &ControlPlane) -> Result<BTreeSet<String>> {
    let client = plane.client().await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut all = BTreeSet::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) || resource.kind == "Event" {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            for object in api.list(&ListParams::default()).await?.items {
                let ObjectMeta { name, namespace, .. } = object.metadata;
                let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
                if name != "kube-root-ca.crt" && name != "default" && namespace != "kube-system" {
                    all.insert(format!("{} {namespace}/{name}", resource.kind));
                }
            }
        }
    }
    Ok(all)
}

#[tokio::test]
async fn the_plain_manifests_are_rendered_from_the_chart() -> Result<()> {
    let path = helm::chart().join("../kthena.yaml");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let rendered = helm::plain_manifests().await?;
    assert!(committed == rendered, "{} is stale: run `cargo gen manifests` and commit the result", path.display());
    Ok(())
}

#[tokio::test]
async fn what_the_chart_installs_runs_survives_an_upgrade_and_leaves_with_it() -> Result<()> {
    let plane = ControlPlaneOptions::default().with_garbage_collection().start().await?;
    let client = plane.client().await?;
    let helm = Helm::new(Some(plane.kubeconfig())).await?;
    let before = objects(&plane).await?;

    // No replica can be reached here, as there is no network of pods.
    let open = ["--set", "webhook.failurePolicy=Ignore,webhook.timeoutSeconds=1,crds.install=false"];
    install(&helm, "install", &[&open[..], &["--create-namespace"]].concat()).await?;
    let scratch = Scratch::new("chart-rights")?;
    let account = |name: &str| format!("system:serviceaccount:{HOME}:{name}");
    let operator =
        operator_at_home(&kubeconfig_of(plane.kubeconfig(), &scratch, &account("kthena-controller-manager"))?).await?;
    let picker = PickerOptions::of_cluster(&kubeconfig_of(plane.kubeconfig(), &scratch, &account("kthena-ext-proc"))?)
        .start()
        .await?;

    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let bundle = async || {
        let all = configurations.list(&ListParams::default()).await.ok()?;
        all.items.first()?.webhooks.as_ref()?.first()?.client_config.ca_bundle.clone()
    };
    let written = poll::until("the webhook's authority", SOON, bundle).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), HOME);
    let owned = poll::until("the certificate to belong to the configuration", SOON, async || {
        secrets.get_opt(SECRET).await.ok()??.metadata.owner_references?.into_iter().next()
    })
    .await?;
    assert_eq!(owned.kind, "ValidatingWebhookConfiguration");
    let leases: Api<Lease> = Api::namespaced(client.clone(), HOME);
    assert!(
        leases.get("lease.kthena.controller-manager").await?.spec.is_some_and(|spec| spec.holder_identity.is_some())
    );
    let serving: ModelServing = serde_json::from_value(json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing",
        "metadata": {"name": "llm"}, "spec": spec(0, &[role("prefill", 1, 0)]),
    }))?;
    let servings: Api<ModelServing> = Api::namespaced(client.clone(), "default");
    servings.create(&PostParams::default(), &serving).await?;

    let more = "controller.replicas=3,picker.modelName.enabled=true,picker.poolNamespaces={default}";
    install(&helm, "upgrade", &["--reuse-values", "--set", more]).await?;
    assert_eq!(poll::until("the webhook's authority", SOON, bundle).await?, written, "an upgrade keeps it");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), HOME);
    let replicas = deployments.get("kthena-controller-manager").await?.spec.replicas;
    assert_eq!(replicas, Some(3));
    assert!(!operator.log().to_lowercase().contains("forbidden"), "{}", operator.log());
    assert!(!picker.log().to_lowercase().contains("forbidden"), "{}", picker.log());
    drop((operator, picker));

    helm.run(&["uninstall", "kthena", "--namespace", HOME, "--wait"]).await?;
    let namespace = format!("Namespace /{HOME}");
    let left = poll::until("the end of what the chart made", SOON, async || {
        let now = objects(&plane).await.ok()?;
        let left: BTreeSet<_> = now.difference(&before).cloned().collect();
        (!left.contains(&format!("Secret {HOME}/{SECRET}"))).then_some(left)
    })
    .await?;
    let revisions: Vec<_> = left.iter().filter(|object| object.starts_with("ControllerRevision ")).collect();
    let mine = BTreeSet::from([namespace, "ModelServing default/llm".to_owned()]);
    let others: Vec<_> = left.iter().filter(|object| !mine.contains(*object) && !revisions.contains(object)).collect();
    assert!(others.is_empty(), "left behind: {others:?}");
    servings.get("llm").await.context("what a user made stays")?;
    Ok(())
}

#[tokio::test]
async fn definitions_are_upgraded_with_the_chart_and_kept_without_it() -> Result<()> {
    let plane = ControlPlaneOptions::default().start().await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client().await?);
    let name = "modelservers.networking.serving.volcano.sh";
    let columns = |definition: &CustomResourceDefinition| {
        definition.spec.versions[0].additional_printer_columns.as_ref().map_or(0, Vec::len)
    };
    // An older one, which somebody applied by hand.
    let older = json!([{"op": "replace", "path": "/spec/versions/0/additionalPrinterColumns", "value": []}]);
    let older = Patch::Json::<CustomResourceDefinition>(serde_json::from_value(older)?);
    assert_eq!(columns(&definitions.patch(name, &PatchParams::default(), &older).await?), 0);
    let helm = Helm::new(Some(plane.kubeconfig())).await?;
    install(&helm, "install", &["--create-namespace", "--take-ownership", "--force-conflicts"]).await?;
    assert!(columns(&definitions.get(name).await?) > 0);
    helm.run(&["uninstall", "kthena", "--namespace", HOME]).await?;
    definitions.get(name).await.context("a definition is kept, and all objects of its kind with it")?;
    Ok(())
}

#[tokio::test]
async fn everything_that_can_be_switched_on_is_accepted_where_pods_are_restricted() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let client = plane.client().await?;
    let scratch = Scratch::new("chart-values")?;
    let values = scratch.file("values.yaml");
    std::fs::write(&values, EVERYTHING)?;
    let namespace = plane.namespace("restricted").await?;
    let restricted = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.patch(namespace.name(), &PatchParams::default(), &Patch::Merge(restricted)).await?;

    let chart = helm::chart();
    let args = ["template", "kthena", &*chart.to_string_lossy(), "--namespace", namespace.name(), "--values"];
    let rendered = Helm::new(None).await?.run(&[&args[..], &[&*values.to_string_lossy()]].concat()).await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let (mut accepted, mut pods) = (0, 0);
    for document in rendered.split("\n---\n").filter(|document| document.contains("kind:")) {
        let mut object: DynamicObject = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
        let types = object.types.clone().context("an object has a kind")?;
        let api = api_of(&client, &discovery, &object)?;
        object.metadata.managed_fields = None;
        let name = object.metadata.name.clone().unwrap_or_default();
        // Others use this API server too: nothing that counts for all of it is really installed.
        let params = PatchParams { dry_run: true, ..PatchParams::apply("a-test").validation_strict().force() };
        api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(|| format!("{} {name}", types.kind))?;
        accepted += 1;
        if types.kind == "Deployment" {
            let mut template = object.data["spec"]["template"].clone();
            template["metadata"]["name"] = json!("of-the-chart");
            template["spec"]["serviceAccountName"] = json!("default");
            let pod: Pod = serde_json::from_value(template)?;
            let params = PostParams { dry_run: true, ..PostParams::default() };
            namespace.api::<Pod>().create(&params, &pod).await.with_context(|| format!("the pods of {name}"))?;
            pods += 1;
        }
    }
    assert!(accepted > 25 && pods == 3, "{accepted} objects, {pods} deployments");
    for said in ["registry.example.com/team/kthena-ext-proc:v9", "--model-name-port=9014", "/tokenizers/Qwen/Qwen3-8B"]
    {
        assert!(rendered.contains(said), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn one_picker_for_all_namespaces_is_one_deployment_and_the_operator_knows_where() -> Result<()> {
    let helm = Helm::new(None).await?;
    let chart = helm::chart();
    let rendered = async |values: &str| {
        helm.run(&["template", "kthena", &*chart.to_string_lossy(), "--namespace", HOME, "--set", values]).await
    };
    let all = rendered("picker.allNamespaces=true").await?;
    assert!(all.contains("--picker-namespace=kthena-system") && all.contains("endpointslices"), "{all}");
    assert_eq!(all.matches("image: kthena-ext-proc:").count(), 1);
    // Who has not asked for it gives the operator no right to it.
    for other in ["picker.allNamespaces=false", "picker.allNamespaces=true,picker.enabled=false"] {
        let rendered = rendered(other).await?;
        assert!(!rendered.contains("--picker-namespace") && !rendered.contains("endpointslices"), "{other}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_value_is_refused_with_its_name() -> Result<()> {
    let helm = Helm::new(None).await?;
    let chart = helm::chart();
    for (bad, named) in [
        ("picker.allNamespaces=true,picker.poolNamespaces={a}", "leave one of them out"),
        ("picker.tls=maybe", "/picker/tls"),
        ("controler.replicas=2", "controler"),
        ("picker.replicas=0", "/picker/replicas"),
        ("webhook.failurePolicy=Open", "/webhook/failurePolicy"),
    ] {
        let error = helm.run(&["template", "kthena", &*chart.to_string_lossy(), "--set", bad]).await.unwrap_err();
        assert!(error.to_string().contains(named), "{bad}: {error}");
    }
    Ok(())
}
