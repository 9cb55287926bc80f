//! One picker in a namespace of its own, as the chart installs it, for the pools of all.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tests::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use tests::cluster::helm::{self, Helm};
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::cluster::proxy::Proxy;
use tests::poll;
use tests::scratch::Scratch;

use crate::attachment::{create, create_server};
use crate::manifests::kubeconfig_of;
use crate::stage::{A_WHILE, SOON};

/// The picker's namespace and two with pools; the real controllers make and sweep endpoints.
struct Place {
    _plane: ControlPlane,
    proxy: Proxy,
    scratch: Scratch,
    home: Namespace,
    pools: [Namespace; 2],
}

impl Place {
    async fn new() -> Result<Self> {
        let plane = ControlPlaneOptions::default().with_garbage_collection().with_endpoint_slices().start().await?;
        let proxy = Proxy::start(&plane).await?;
        let home = plane.namespace("home").await?;
        let pools = [plane.namespace("red").await?, plane.namespace("blue").await?];
        let helm = Helm::new(Some(plane.kubeconfig())).await?;
        let chart = helm::chart();
        let values = "picker.allNamespaces=true,webhook.enabled=false,crds.install=false";
        helm.run(&["install", "kthena", &*chart.to_string_lossy(), "--namespace", home.name(), "--set", values])
            .await?;
        Ok(Self { _plane: plane, proxy, scratch: Scratch::new("one-picker")?, home, pools })
    }

    /// With the rights that the chart gives it.
    async fn operator(&self, picker_namespace: &str) -> Result<Operator> {
        let account = format!("system:serviceaccount:{}:kthena-controller-manager", self.home.name());
        let kubeconfig = kubeconfig_of(&self.proxy.kubeconfig(), &self.scratch, &account)?;
        let options = OperatorOptions::new(kubeconfig).flag("--picker-namespace", picker_namespace);
        options.env("POD_NAMESPACE", self.home.name()).start().await
    }

    /// Waits until the Service of the pool `llm` leads to these: `10.1.0.1:9002`, or `10.1.0.2:9002 not ready`.
    async fn leads_to(&self, namespace: &Namespace, wanted: &[&str]) -> Result<()> {
        let slices = ListParams::default().labels("kubernetes.io/service-name=llm-epp");
        let mut last = BTreeSet::new();
        let what = format!("the endpoints {wanted:?}");
        let seen = poll::until(&what, SOON, async || {
            let found = namespace.api::<EndpointSlice>().list(&slices).await.ok()?;
            last = found.iter().flat_map(endpoints).collect();
            last.iter().map(String::as_str).eq(wanted.iter().copied()).then_some(())
        });
        seen.await.with_context(|| format!("in {} the last were {last:?}", namespace.name()))
    }

    async fn both_lead_to(&self, wanted: &[&str]) -> Result<()> {
        for namespace in &self.pools {
            self.leads_to(namespace, wanted).await?;
        }
        Ok(())
    }
}

fn endpoints(slice: &EndpointSlice) -> Vec<String> {
    let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
    let of_port = |port: i32| {
        slice.endpoints.iter().flatten().flat_map(move |endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            let note = if ready { "" } else { " not ready" };
            endpoint.addresses.iter().map(move |address| format!("{address}:{port}{note}"))
        })
    };
    ports.flat_map(of_port).collect()
}

/// A pod that the picker's Service selects, as a kubelet tells of it.
async fn run_picker(namespace: &Namespace, name: &str, labels: Value, ip: &str) -> Result<()> {
    let ports = json!([{"name": "ext-proc", "containerPort": 9002}, {"name": "health", "containerPort": 9003}]);
    let containers = json!([{"name": "picker", "image": "picker:1", "ports": ports}]);
    let spec = json!({"nodeName": "node-0", "containers": containers});
    create::<Pod>(namespace, name, json!({"metadata": {"labels": labels}, "spec": spec})).await?;
    set_ready(namespace, name, ip, true).await
}

async fn set_ready(namespace: &Namespace, name: &str, ip: &str, ready: bool) -> Result<()> {
    let ready = if ready { "True" } else { "False" };
    let status = Patch::Merge(json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}],
    }}));
    namespace.api::<Pod>().patch_status(name, &PatchParams::default(), &status).await?;
    Ok(())
}

async fn has_selector(namespace: &Namespace) -> Result<bool> {
    let service = namespace.api::<Service>().get("llm-epp").await?;
    Ok(service.spec.is_some_and(|spec| spec.selector.is_some()))
}

#[tokio::test]
async fn pools_of_two_namespaces_follow_one_picker_and_go_back_to_their_own() -> Result<()> {
    let place = Place::new().await?;
    let chart = json!({"app.kubernetes.io/name": "kthena-ext-proc", "app.kubernetes.io/instance": "kthena"});
    run_picker(&place.home, "picker-0", chart.clone(), "10.1.0.1").await?;
    let operator = place.operator(place.home.name()).await?;
    let [red, blue] = &place.pools;
    let story = async {
        for namespace in &place.pools {
            create_server(namespace, "llm", "llm").await?;
        }
        place.both_lead_to(&["10.1.0.1:9002"]).await?;
        assert!(!has_selector(red).await?);

        // A picker comes, is not ready, and goes.
        run_picker(&place.home, "picker-1", chart, "10.1.0.2").await?;
        place.both_lead_to(&["10.1.0.1:9002", "10.1.0.2:9002"]).await?;
        set_ready(&place.home, "picker-1", "10.1.0.2", false).await?;
        place.both_lead_to(&["10.1.0.1:9002", "10.1.0.2:9002 not ready"]).await?;
        let now = DeleteParams::default().grace_period(0);
        place.home.api::<Pod>().delete("picker-1", &now).await?;
        place.both_lead_to(&["10.1.0.1:9002"]).await?;

        // What is settled is not written again.
        let settled = poll::until("a settled status", SOON, async || {
            let from = place.proxy.len();
            let written = poll::until("a write", A_WHILE, async || {
                let writes = place.proxy.writes(from);
                (!writes.is_empty()).then_some(writes)
            });
            written.await.is_err().then_some(())
        });
        settled.await?;

        blue.api::<ModelServer>().delete("llm", &DeleteParams::default()).await?;
        place.leads_to(blue, &[]).await?;
        poll::until("the end of the Service", SOON, async || {
            blue.api::<Service>().get_opt("llm-epp").await.ok()?.is_none().then_some(())
        })
        .await
    };
    story.await.with_context(|| format!("the operator said:\n{}", operator.log()))?;
    assert!(!operator.log().to_lowercase().contains("forbidden"), "{}", operator.log());
    drop(operator);

    // A picker of the pool's own, beside it.
    let spec = json!({"selector": {"app": "own"}, "ports": [{"name": "grpc", "port": 9002, "targetPort": "ext-proc"}]});
    create::<Service>(red, "kthena-ext-proc", json!({"spec": spec})).await?;
    run_picker(red, "own-0", json!({"app": "own"}), "10.2.0.1").await?;
    let operator = place.operator("").await?;
    place.leads_to(red, &["10.2.0.1:9002"]).await.with_context(|| format!("the operator said:\n{}", operator.log()))?;
    assert!(has_selector(red).await?);
    drop(operator);

    // And back: nothing of its own picker is left.
    let operator = place.operator(place.home.name()).await?;
    place.leads_to(red, &["10.1.0.1:9002"]).await.with_context(|| format!("the operator said:\n{}", operator.log()))?;
    assert!(!has_selector(red).await?);
    Ok(())
}
