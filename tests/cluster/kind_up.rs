//! `deploy/kind-up` as far as it goes without kind: its versions, values, manifests and rights.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_server::ModelServer;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::discovery::Discovery;
use serde_json::{Value, json};
use tests::checkout;
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::cluster::crds::{self, Foreign, GatewayKinds};
use tests::cluster::helm::{self, Helm};
use tests::cluster::kubelet::Kubelet;
use tests::command_line::kthena;
use tests::gateways::objects::Objects;
use tests::scratch::Scratch;
use tests::{envoy, poll};

use crate::manifests::{api_of, kubeconfig_of, operator_at_home};
use crate::stage::SOON;

const SCRIPT: &str = include_str!("../../deploy/kind-up");
const CLASS: &str = include_str!("../../deploy/kind-up.yaml");
const CHART: &str = include_str!("../../deploy/chart/Chart.yaml");
const ASSISTANT: &str = include_str!("../src/demo/cluster/assistant.yaml");
const GATEWAY: &str = include_str!("../../gateway-api-examples/envoy-gateway-pools/gateway.yaml");
const RIGHTS: &str = include_str!("../../gateway-api-examples/envoy-gateway-pools/rights.yaml");
const HOME: &str = "kthena-system";
const GATEWAY_HOME: &str = "envoy-gateway-system";

/// What the script sets a variable to.
fn variable(name: &str) -> Result<&'static str> {
    let line = SCRIPT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.with_context(|| format!("the script sets no {name}"))
}

#[test]
fn it_installs_the_versions_that_the_tests_run_with() -> Result<()> {
    assert_eq!(variable("gateway_api")?, GatewayKinds::GatewayApi.version()?);
    assert_eq!(variable("inference_extension")?, Foreign::InferencePool.version()?);
    assert_eq!(variable("envoy_gateway")?, GatewayKinds::EnvoyGateway.version()?);
    assert_eq!(bash(&format!("printf %s {}", variable("envoy")?))?, envoy::VERSION);
    assert!(CLASS.ends_with("image: docker.io/envoyproxy/envoy:distroless-vVERSION\n"), "{CLASS}");
    let version = CHART.lines().find_map(|line| line.strip_prefix("appVersion: ")).context("a version")?;
    assert_eq!(ASSISTANT.matches(&format!("image: simulated-engine:{version}\n")).count(), 2);
    assert_eq!(ASSISTANT.matches("image: ").count(), 2);
    Ok(())
}

/// Runs a line of the script where the script does; what it writes.
fn bash(line: &str) -> Result<String> {
    let ran = Command::new("bash").args(["-c", line]).current_dir(checkout::path("")).output()?;
    ensure!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}

/// The file that the script hands to helm for Envoy Gateway, by its own line.
fn values_of_envoy_gateway(scratch: &Scratch) -> Result<String> {
    let taken = SCRIPT.lines().find(|line| line.starts_with("sed -n") && line.contains("$pools"));
    let folder = scratch.path().display();
    bash(&format!("pools={}; scratch={folder}; {}", variable("pools")?, taken.context("no such line")?))?;
    Ok(scratch.file("gateway.yaml").to_string_lossy().into_owned())
}

/// Asks the API server whether it would take these documents.
async fn accept(plane: &ControlPlane, documents: &str) -> Result<Vec<DynamicObject>> {
    let client = plane.client().await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut accepted = Vec::new();
    for document in documents.split("\n---\n").filter(|document| document.contains("apiVersion: ")) {
        let object: DynamicObject = serde_saphyr::from_str(document.trim_start_matches("---\n"))?;
        let what = || format!("{:?} {:?}", object.types, object.metadata.name);
        let params = PatchParams { dry_run: true, ..PatchParams::apply("a-test").validation_strict() };
        let name = object.metadata.name.clone().with_context(what)?;
        api_of(&client, &discovery, &object)?.patch(&name, &params, &Patch::Apply(&object)).await.with_context(what)?;
        accepted.push(object);
    }
    Ok(accepted)
}

#[tokio::test]
async fn envoy_gateways_chart_takes_its_values_and_finds_the_operator() -> Result<()> {
    let plane = ControlPlaneOptions::default()
        .with_kinds(&[GatewayKinds::GatewayApi, GatewayKinds::EnvoyGateway])
        .start()
        .await?;
    let scratch = Scratch::new("kind-up-values")?;
    let (chart, values) = (crds::chart_of_envoy_gateway().await?, values_of_envoy_gateway(&scratch)?);
    // Releases of the chart have these filled in.
    let defaults = std::fs::read_to_string(chart.join("values.tmpl.yaml"))?;
    let image = format!("docker.io/envoyproxy/gateway:{}", variable("envoy_gateway")?);
    let defaults = defaults.replace("${GatewayImage}", &image).replace("${GatewayImagePullPolicy}", "IfNotPresent");
    let released = scratch.file("values.yaml");
    std::fs::write(&released, defaults)?;
    let (chart, released) = (chart.to_string_lossy(), released.to_string_lossy());
    let args = ["template", "eg", &*chart, "--namespace", GATEWAY_HOME, "--set", "crds.enabled=false"];
    let values = ["--values", &*released, "--values", &values];
    let rendered = Helm::new(None).await?.run(&[&args[..], &values].concat()).await?;

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GATEWAY_HOME}});
    Objects::new(plane.client().await?).apply(&namespace.to_string()).await?;
    let accepted = accept(&plane, &rendered).await?;
    accept(&plane, CLASS).await?;
    accept(&plane, GATEWAY).await?;
    let rights = accept(&plane, RIGHTS).await?;

    let named = |kind: &str, name: &str| {
        let is = |object: &&DynamicObject| {
            let types = object.types.as_ref().is_some_and(|types| types.kind == kind);
            types && object.metadata.name.as_deref() == Some(name)
        };
        accepted.iter().find(is).with_context(|| format!("the chart has no {kind} {name}"))
    };
    let account = &rights[1].data["subjects"][0];
    let its = named("ServiceAccount", account["name"].as_str().context("a name")?)?;
    assert_eq!(account["namespace"], json!(its.metadata.namespace));
    let config = named("ConfigMap", "envoy-gateway-config")?.data["data"]["envoy-gateway.yaml"].clone();
    let config: Value = serde_saphyr::from_str(config.as_str().context("a configuration")?)?;
    let asked = &config["extensionManager"]["service"]["fqdn"];

    let ours = helm::chart();
    let args = ["template", "kthena", &*ours.to_string_lossy(), "--namespace", HOME];
    let only = ["--show-only", "templates/controller/extension.yaml"];
    let values = values_of_ours("default")?;
    let service = Helm::new(None).await?.run(&[&args[..], &only, &words(&values)].concat()).await?;
    let service: Value = serde_saphyr::from_str(&service)?;
    let host = format!("{}.{HOME}.svc", service["metadata"]["name"].as_str().context("a name")?);
    assert_eq!(*asked, json!({"hostname": host, "port": service["spec"]["ports"][0]["port"]}));
    Ok(())
}

/// What the script hands to helm for our chart, with pools in `namespace`.
fn values_of_ours(namespace: &str) -> Result<Vec<String>> {
    let line = variable("values")?;
    let pools = "picker.poolNamespaces={default}";
    ensure!(line.contains(pools), "no picker where the model is: {line}");
    let line = line.replace(pools, &format!("picker.poolNamespaces={{{namespace}}}"));
    Ok(line.trim_matches(['(', ')']).split(' ').map(|word| word.trim_matches('\'').to_owned()).collect())
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn its_model_is_rolled_out_and_back_with_the_operators_own_rights() -> Result<()> {
    let plane = ControlPlaneOptions::default().with_garbage_collection().start().await?;
    let namespace = plane.namespace("kind-up").await?;
    let chart = helm::chart();
    let args = ["install", "kthena", &*chart.to_string_lossy(), "--namespace", HOME, "--create-namespace"];
    // No replica can be reached here, as there is no network of pods.
    let here = ["--set", "webhook.failurePolicy=Ignore,webhook.timeoutSeconds=1,crds.install=false"];
    let values = values_of_ours(namespace.name())?;
    Helm::new(Some(plane.kubeconfig())).await?.run(&[&args[..], &words(&values), &here].concat()).await?;
    let scratch = Scratch::new("kind-up-rights")?;
    let account = format!("system:serviceaccount:{HOME}:kthena-controller-manager");
    let rights = kubeconfig_of(plane.kubeconfig(), &scratch, &account)?;
    let operator = operator_at_home(&rights).await?;
    let _kubelet = Kubelet::start(&namespace);

    let rollout = async |action: &str, words: &[&str]| -> Result<String> {
        let place = ["--namespace", namespace.name(), "--kubeconfig", &*rights.to_string_lossy()];
        let said = kthena(["rollout", action, "assistant"].iter().chain(words).chain(&place)).await?;
        ensure!(said.code == Some(0), "rollout {action}: {}{}\n{}", said.out, said.err, operator.log());
        Ok(said.out)
    };
    let manifests = ASSISTANT.replace("namespace: default", &format!("namespace: {}", namespace.name()));
    let objects = Objects::new(plane.client().await?);
    objects.apply(&manifests).await?;
    rollout("status", &["--timeout", "80s"]).await?;
    poll::until("the ModelServer's condition Ready, and its InferencePool", SOON, async || {
        namespace.api::<InferencePool>().get_opt("assistant").await.ok()??;
        let status = namespace.api::<ModelServer>().get("assistant").await.ok()?.status?;
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status == "True").then_some(())
    })
    .await
    .with_context(|| operator.log())?;
    objects.apply(&manifests.replace("--release=1", "--release=2")).await?;
    rollout("status", &["--timeout", "80s"]).await?;
    let undone = rollout("undo", &[]).await?;
    assert!(undone.contains("--release=1"), "{undone}");
    rollout("status", &["--timeout", "80s"]).await?;
    Ok(())
}
