//! `kthena doctor`, the program, against a real API server: objects as a user has them, what a gateway would say of
//! them, and the mistakes that are made one by one.

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::cluster::crds::GatewayKinds;
use tests::cluster::kubelet::Kubelet;
use tests::cluster::namespace::Namespace;
use tests::command_line::{Said, kthena};
use tests::poll;

use crate::stage::SOON;

/// A namespace and a kubeconfig.
struct Place<'a> {
    plane: &'a ControlPlane,
    namespace: Namespace,
}

impl Place<'_> {
    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (version, kind) = kind.rsplit_once('/').unwrap_or(("v1", kind));
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.namespace.client(), self.namespace.name(), &resource)
    }

    async fn apply(&self, kind: &str, name: &str, mut object: Value) -> Result<()> {
        object["apiVersion"] = kind.rsplit_once('/').map_or("v1", |(version, _)| version).into();
        object["kind"] = kind.rsplit('/').next().context("a kind")?.into();
        object["metadata"]["name"] = name.into();
        let params = PatchParams::apply("a-test").force();
        let what = || format!("the API server refuses {kind} {name}");
        self.api(kind).patch(name, &params, &Patch::Apply(&object)).await.with_context(what)?;
        Ok(())
    }

    /// What it says of this namespace.
    async fn doctor(&self, words: &[&str]) -> Result<Said> {
        let kubeconfig = self.plane.kubeconfig().display().to_string();
        let place = ["doctor", "-n", self.namespace.name(), "--kubeconfig", &kubeconfig];
        kthena([&place, words].concat()).await
    }

    /// The findings, each as `severity check object`, without the namespace's name.
    async fn findings(&self) -> Result<Vec<String>> {
        let said = self.doctor(&["-o", "json"]).await?;
        let report: Value = serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?;
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        let own = format!("{}/", self.namespace.name());
        let one = |finding: &Value| {
            ["severity", "check", "object"].map(|field| text(finding, field)).join(" ").replace(&own, "")
        };
        let findings: Vec<String> = report["findings"].as_array().context("a list")?.iter().map(one).collect();
        let code = i32::from(findings.iter().any(|finding| finding.starts_with("error")));
        assert_eq!(said.code, Some(code), "{said:?}");
        Ok(findings)
    }

    /// Waits until it says just this.
    async fn wait_for(&self, wanted: &[&str]) -> Result<()> {
        let mut last = None;
        let what = format!("{wanted:?}");
        let seen = poll::until(&what, SOON, async || {
            let findings = self.findings().await.ok()?;
            let same = findings == wanted;
            last = Some(findings);
            same.then_some(())
        });
        seen.await.with_context(|| format!("the last was {last:?}"))
    }

    /// Says, as Istio would, what becomes of the route.
    async fn answer(&self, refusal: Option<&str>) -> Result<()> {
        let routes = self.api(ROUTE);
        let generation = routes.get("llama").await?.metadata.generation;
        let status = if refusal.is_none() { "True" } else { "False" };
        let condition = |kind: &str, status: &str, message: &str| {
            json!({
                "type": kind, "status": status, "reason": kind, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": generation,
            })
        };
        let parents = json!([{
            "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
            "controllerName": "istio.io/gateway-controller",
            "conditions": [
                condition("Accepted", "True", ""), condition("ResolvedRefs", status, refusal.unwrap_or_default()),
            ],
        }]);
        let patch = Patch::Merge(json!({"status": {"parents": parents}}));
        routes.patch_status("llama", &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

const POOL: &str = "inference.networking.k8s.io/v1/InferencePool";
const ROUTE: &str = "gateway.networking.k8s.io/v1/HTTPRoute";
const POLICY: &str = "gateway.envoyproxy.io/v1alpha1/EnvoyExtensionPolicy";
const GATEWAY: &str = "gateway.networking.k8s.io/v1/Gateway";

fn pod(app: &str, port: u16) -> Value {
    let ports = json!([{"name": "serving", "containerPort": port}]);
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": "image:1", "ports": ports}]},
    })
}

fn pool(app: &str) -> Value {
    json!({"spec": {
        "selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "llama-epp", "port": {"number": 9002}},
    }})
}

/// Everything as it should be.
async fn set_up(place: &Place<'_>) -> Result<()> {
    place.apply("Pod", "llama-0", pod("llama", 8000)).await?;
    place.apply("Pod", "picker-0", pod("picker", 9002)).await?;
    let ports = json!([{"name": "grpc", "port": 9002, "targetPort": 9002, "appProtocol": "kubernetes.io/h2c"}]);
    place.apply("Service", "llama-epp", json!({"spec": {"selector": {"app": "picker"}, "ports": ports}})).await?;
    place.apply(POOL, "llama", pool("llama")).await?;
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    place.apply(GATEWAY, "edge", json!({"spec": {"gatewayClassName": "istio", "listeners": listeners}})).await?;
    let backends = json!([{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}]);
    let spec = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": backends}]});
    place.apply(ROUTE, "llama", json!({"spec": spec})).await?;
    place.answer(None).await
}

#[tokio::test]
async fn a_cluster_that_is_right_is_met_with_silence_and_each_mistake_is_found() -> Result<()> {
    let plane = ControlPlaneOptions::default().with_kinds(&[GatewayKinds::EnvoyGateway]).with_endpoint_slices();
    let plane = plane.start().await?;
    let place = Place { plane: &plane, namespace: plane.namespace("doctor").await? };
    let _kubelet = Kubelet::start(&place.namespace);
    set_up(&place).await?;
    place.wait_for(&[]).await?;
    place.doctor(&[]).await?.says(0, &["checks found nothing", "no account of a picker (--picker) was given"]);

    place.answer(Some("no InferencePool is known")).await?;
    place.wait_for(&["error route-not-accepted HTTPRoute llama"]).await?;
    place.doctor(&[]).await?.says(1, &["Gateway edge refuses it: ResolvedRefs is False", "no InferencePool is known"]);
    place.answer(None).await?;

    place.apply(POOL, "llama", pool("lama")).await?;
    place.wait_for(&["error selector-matches-nothing InferencePool llama"]).await?;
    place.doctor(&[]).await?.says(1, &["there are pods with app=llama"]);
    place.apply(POOL, "llama", pool("llama")).await?;

    // The slices follow the Service.
    let selector = |app: &str| json!({"spec": {"selector": {"app": app}, "ports": [{"name": "grpc", "port": 9002}]}});
    place.apply("Service", "llama-epp", selector("nobody")).await?;
    place.wait_for(&["error picker-not-ready InferencePool llama"]).await?;
    place.api("Service").delete("llama-epp", &DeleteParams::default()).await?;
    place.wait_for(&["error picker-service-missing InferencePool llama"]).await?;
    let said = place.doctor(&["-o", "json"]).await?;
    let report: Value = serde_json::from_str(&said.out)?;
    let mut made = report["findings"][0]["manifest"].clone();
    made["spec"]["selector"] = json!({"app": "picker"});
    place.apply("Service", "llama-epp", made).await?;
    place.wait_for(&[]).await?;

    // As Envoy Gateway is told, with all that can be forgotten.
    let targets = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llama"}]);
    let asked = json!([{"backendRefs": [{"name": "llama-epp", "port": 9002}], "processingMode": {"request": {}}}]);
    place.apply(POLICY, "llama-epp", json!({"spec": {"targetRefs": targets, "extProc": asked}})).await?;
    let mistakes = ["pick-ignored", "body-hidden", "message-timeout-short"];
    let mistakes = mistakes.map(|check| format!("error {check} EnvoyExtensionPolicy llama-epp"));
    place.wait_for(&mistakes.each_ref().map(String::as_str)).await?;
    place.api(POLICY).delete("llama-epp", &DeleteParams::default()).await?;
    place.wait_for(&[]).await?;

    place.api(GATEWAY).delete("edge", &DeleteParams::default()).await?;
    place.wait_for(&["error gateway-missing HTTPRoute llama"]).await?;
    place.api(POOL).delete("llama", &DeleteParams::default()).await?;
    place.wait_for(&["error gateway-missing HTTPRoute llama", "error backend-missing HTTPRoute llama"]).await?;

    let kinds: Api<CustomResourceDefinition> = Api::all(plane.client().await?);
    kinds.delete("inferencepools.inference.networking.k8s.io", &DeleteParams::default()).await?;
    let missing =
        ["kind-missing kind InferencePool", "gateway-missing HTTPRoute llama", "backend-missing HTTPRoute llama"];
    let missing = missing.map(|finding| format!("error {finding}"));
    place.wait_for(&missing.each_ref().map(String::as_str)).await?;
    let words = ["the cluster has no InferencePool", "releases"];
    place.doctor(&[]).await?.says(1, &words);
    Ok(())
}
