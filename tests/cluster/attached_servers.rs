//! ModelServers as InferencePools.

use anyhow::Result;
use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tests::cluster::kubelet::Fate;
use tests::poll;

use crate::attachment::{create, create_picker, create_pod, create_server, find, wait_for, wait_gone, wait_server};
use crate::stage::{SOON, Stage};

async fn change<K>(stage: &Stage, name: &str, patch: Value) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    stage.namespace.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Waits until a field of a pool's spec is so.
async fn wait_pool(stage: &Stage, name: &str, pointer: &str, wanted: Value) -> Result<()> {
    let api = stage.namespace.api::<InferencePool>();
    poll::until(&format!("{pointer} of {name} to be {wanted}"), SOON, async || {
        let pool = serde_json::to_value(api.get(name).await.ok()?.spec).ok()?;
        (pool.pointer(pointer) == Some(&wanted)).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_pool_follows_its_server_and_goes_with_it() -> Result<()> {
    let stage = Stage::new("pool").await?;
    create_server(&stage.namespace, "llm", "llm").await?;
    let pool: InferencePool = wait_for(&stage, "llm").await?;
    assert_eq!(pool.spec.selector.match_labels.get("app").map(String::as_str), Some("llm"));
    assert_eq!(pool.status, None, "the status is the gateway's");
    wait_server(&stage, "llm", "ResolvedRefs", "False/PickerNotFound").await?;
    create_picker(&stage.namespace).await?;
    let service: Service = wait_for(&stage, "llm-epp").await?;
    assert_eq!(service.spec.and_then(|spec| spec.selector), Some([("app".to_owned(), "picker".to_owned())].into()));
    assert_eq!(pool.spec.endpoint_picker_ref.as_ref().map(|picker| picker.name.as_str()), Some("llm-epp"));
    wait_server(&stage, "llm", "EndpointsReady", "False/NoEndpoints").await?;
    create_pod(&stage.namespace, "llm-0", json!({"app": "llm"})).await?;
    wait_server(&stage, "llm", "Ready", "True/AsSpecified").await?;

    // It follows the picker's, and comes back.
    change::<Service>(&stage, "kthena-ext-proc", json!({"spec": {"selector": {"app": "picker-2"}}})).await?;
    poll::until("the picker's other pods", SOON, async || {
        let selector = stage.namespace.api::<Service>().get("llm-epp").await.ok()?.spec?.selector?;
        (selector.get("app").map(String::as_str) == Some("picker-2")).then_some(())
    })
    .await?;
    stage.namespace.api::<Service>().delete("llm-epp", &DeleteParams::default()).await?;
    wait_for::<Service>(&stage, "llm-epp").await?;

    change::<ModelServer>(&stage, "llm", json!({"spec": {"workloadPort": {"port": 8100}}})).await?;
    wait_pool(&stage, "llm", "/targetPorts", json!([{"number": 8100}])).await?;
    // What somebody changed is set right, and what somebody added is left.
    let other = json!({"metadata": {"annotations": {"team": "a"}}, "spec": {"targetPorts": [{"number": 1}]}});
    change::<InferencePool>(&stage, "llm", other).await?;
    wait_pool(&stage, "llm", "/targetPorts", json!([{"number": 8100}])).await?;
    let annotations = wait_for::<InferencePool>(&stage, "llm").await?.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("team").map(String::as_str), Some("a"));

    stage.kubelet.set("llm-0", Fate::NotReady).await?;
    wait_server(&stage, "llm", "EndpointsReady", "False/NoneReady").await?;
    stage.namespace.api::<InferencePool>().delete("llm", &DeleteParams::default()).await?;
    poll::until("another pool", SOON, async || {
        let again = stage.namespace.api::<InferencePool>().get_opt("llm").await.ok()??;
        (again.metadata.uid != pool.metadata.uid).then_some(())
    })
    .await?;
    stage.namespace.api::<ModelServer>().delete("llm", &DeleteParams::default()).await?;
    wait_gone::<InferencePool>(&stage, "llm").await?;
    wait_gone::<Service>(&stage, "llm-epp").await
}

#[tokio::test]
async fn somebody_elses_service_of_a_pools_name_is_left_as_it_is() -> Result<()> {
    let stage = Stage::new("service-clash").await?;
    let spec = json!({"selector": {"app": "theirs"}, "ports": [{"port": 80}]});
    let theirs: Service = create(&stage.namespace, "llm-epp", json!({"spec": spec})).await?;
    create_picker(&stage.namespace).await?;
    create_server(&stage.namespace, "llm", "llm").await?;
    let said = wait_server(&stage, "llm", "ResolvedRefs", "False/PickerNotFound").await?;
    assert!(said.contains("llm-epp of the picker has no port 9002"), "{said}");
    stage.writes_nothing().await?;
    let found: Service = wait_for(&stage, "llm-epp").await?;
    assert_eq!(found.metadata.resource_version, theirs.metadata.resource_version);
    Ok(())
}

#[tokio::test]
async fn a_pool_of_pairs_selects_decode_pods_and_the_status_counts_pairs() -> Result<()> {
    let stage = Stage::new("pairs").await?;
    create_picker(&stage.namespace).await?;
    for (name, role, group) in [("d-0", "decode", "a"), ("p-0", "prefill", "a"), ("p-1", "prefill", "b")] {
        create_pod(&stage.namespace, name, json!({"app": "llm", "role": role, "group": group})).await?;
    }
    let spec = json!({
        "inferenceEngine": "vLLM", "workloadPort": {"port": 8000},
        "workloadSelector": {"matchLabels": {"app": "llm"}, "pdGroup": {
            "groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"},
        }},
    });
    create::<ModelServer>(&stage.namespace, "llm", json!({"spec": spec})).await?;
    wait_pool(&stage, "llm", "/selector/matchLabels", json!({"app": "llm", "role": "decode"})).await?;
    wait_server(&stage, "llm", "Ready", "True/AsSpecified").await?;
    poll::until("all pods counted", SOON, async || {
        let status = stage.namespace.api::<ModelServer>().get("llm").await.ok()?.status?;
        let (_, message) = find(&status.conditions, "EndpointsReady")?;
        let pairs = "1 of 1 decode endpoints and 2 of 2 prefill pods are ready, in 1 groups both";
        (message == pairs && status.endpoints == Some(1)).then_some(())
    })
    .await
}

#[tokio::test]
async fn somebody_elses_pool_is_a_condition_until_it_goes() -> Result<()> {
    let stage = Stage::new("clash").await?;
    let theirs = json!({"selector": {"matchLabels": {"app": "theirs"}}, "targetPorts": [{"number": 1}]});
    let theirs: InferencePool = create(&stage.namespace, "llm", json!({"spec": theirs})).await?;
    create_server(&stage.namespace, "llm", "llm").await?;
    wait_server(&stage, "llm", "Accepted", "False/NameClash").await?;
    stage.writes_nothing().await?;
    let found: InferencePool = wait_for(&stage, "llm").await?;
    assert_eq!(found.metadata.resource_version, theirs.metadata.resource_version);
    stage.namespace.api::<InferencePool>().delete("llm", &DeleteParams::default()).await?;
    wait_pool(&stage, "llm", "/selector/matchLabels/app", json!("llm")).await?;
    wait_server(&stage, "llm", "Accepted", "True/Accepted").await?;
    Ok(())
}

#[tokio::test]
async fn of_two_servers_with_the_same_pods_the_older_has_the_pool_as_long_as_it_lives() -> Result<()> {
    let stage = Stage::new("twins").await?;
    create_server(&stage.namespace, "a-old", "llm").await?;
    wait_server(&stage, "a-old", "Accepted", "True/Accepted").await?;
    create_server(&stage.namespace, "b-young", "llm").await?;
    let said = wait_server(&stage, "b-young", "Accepted", "True/SharesPool").await?;
    assert!(said.contains("ModelServer a-old"), "{said}");
    assert!(stage.namespace.api::<InferencePool>().get_opt("b-young").await?.is_none());
    stage.namespace.api::<ModelServer>().delete("a-old", &DeleteParams::default()).await?;
    wait_for::<InferencePool>(&stage, "b-young").await?;
    wait_gone::<InferencePool>(&stage, "a-old").await
}
