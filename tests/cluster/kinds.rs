//! The kinds as the API server takes them.

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tests::cluster::control_plane::ControlPlane;

#[tokio::test]
async fn every_kind_is_accepted_and_served() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let crds: Api<CustomResourceDefinition> = Api::all(plane.client().await?);
    for name in [
        "modelservings.workload.serving.volcano.sh",
        "modelservers.networking.serving.volcano.sh",
        "modelroutes.networking.serving.volcano.sh",
        "podgroups.scheduling.volcano.sh",
        "leaderworkersets.leaderworkerset.x-k8s.io",
        "httproutes.gateway.networking.k8s.io",
    ] {
        let conditions = crds.get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        for condition in conditions {
            // NonStructuralSchema, if there, is a complaint; the others are agreement.
            let wanted = if condition.type_ == "NonStructuralSchema" { "False" } else { "True" };
            let complaint =
                condition.type_ == "Terminating" || condition.type_ == "KubernetesAPIApprovalPolicyConformant";
            assert!(complaint || condition.status == wanted, "{name}: {condition:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_model_serving_comes_back_as_it_was_sent() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("round-trip").await?;
    let api = namespace.api::<ModelServing>();
    let serving: ModelServing = serde_json::from_value(json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm"},
        "spec": {
            "replicas": 2,
            "schedulerName": "volcano",
            "template": {
                "restartGracePeriodSeconds": 60,
                "roles": [{
                    "name": "prefill",
                    "replicas": 1,
                    "workerReplicas": 1,
                    "entryTemplate": {
                        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
                        "spec": {
                            "containers": [{"name": "engine", "image": "engine:1", "env": [{"name": "A", "value": "1"}]}],
                            // The same address twice: a list, not a map.
                            "hostAliases": [
                                {"ip": "127.0.0.1", "hostnames": ["a"]},
                                {"ip": "127.0.0.1", "hostnames": ["b"]},
                            ],
                        },
                    },
                    "workerTemplate": {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}},
                }],
            },
        },
    }))?;
    api.create(&PostParams::default(), &serving).await?;
    let stored = api.get("llm").await?;
    let (sent, came) = (&serving.spec.template.roles, &stored.spec.template.roles);
    assert_eq!(came.first().map(|role| &role.entry_template), sent.first().map(|role| &role.entry_template));
    assert_eq!(came.first().map(|role| &role.worker_template), sent.first().map(|role| &role.worker_template));
    assert_eq!(stored.spec.replicas, Some(2));

    let status = json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing", "metadata": {"name": "llm"},
        "status": ModelServingStatus {
            observed_generation: 1,
            replicas: 2,
            forming: vec!["llm-0".to_owned()],
            ..ModelServingStatus::default()
        },
    });
    api.patch_status("llm", &PatchParams::apply("tests"), &Patch::Apply(&status)).await?;
    let status = api.get("llm").await?.status.context("a status")?;
    assert_eq!((status.replicas, status.forming), (2, vec!["llm-0".to_owned()]));
    Ok(())
}
