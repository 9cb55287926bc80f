//! What the API server itself says of our kinds: the rules and defaults of `deploy/crds`.

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::namespace::Namespace;

use crate::stage::{role, spec};

/// A ModelServing of two roles, prefill with a worker.
fn serving() -> Value {
    json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm"},
        "spec": spec(2, &[role("prefill", 2, 1), role("decode", 1, 0)]),
    })
}

/// The ModelServing with a value at a JSON pointer, whose parents are made where they are missing.
fn with(pointer: &str, value: Value) -> Value {
    let mut serving = serving();
    let mut at = &mut serving;
    for step in pointer.split('/').skip(1) {
        at = match (step.parse::<usize>(), at) {
            (Ok(number), Value::Array(items)) => &mut items[number],
            (_, at) => &mut at[step],
        };
    }
    *at = value;
    serving
}

/// What the API server answers to the creation of `object` at `url`: the object as it is stored, or why not.
async fn create(namespace: &Namespace, url: &str, object: &Value) -> Result<Result<Value, String>> {
    let request = http::Request::post(url)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())?;
    match namespace.client().request(request).await {
        Ok(stored) => Ok(Ok(stored)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// [`create`], forgotten at once.
async fn try_serving(namespace: &Namespace, object: &Value) -> Result<Result<Value, String>> {
    let url = namespace.api::<ModelServing>().resource_url().to_owned();
    create(namespace, &format!("{url}?dryRun=All"), object).await
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_the_field_and_the_remedy() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("refused").await?;
    let update = |value: Value| json!({"rollingUpdateConfiguration": value});
    let limits = "spec.rolloutStrategy.rollingUpdateConfiguration";
    let table: &[(&str, Value, &str, &str)] = &[
        ("/metadata/name", json!("1llm"), "metadata.name: ", "must start with a lowercase letter"),
        ("/metadata/name", json!("l".repeat(60)), "metadata.name: ", "shorten metadata.name"),
        ("/spec/replicas", json!(-1), "spec.replicas: ", "should be a non-negative integer"),
        ("/spec/template/roles", json!([]), "spec.template.roles: ", "at least 1"),
        ("/spec/template/roles/1/name", json!("prefill"), "spec.template.roles: ", "roles name must be unique"),
        ("/spec/template/roles/1/name", json!("Decode"), "spec.template.roles[1].name: ", "lowercase letters"),
        ("/spec/template/roles/1/name", json!("d".repeat(13)), "spec.template.roles[1].name: ", "12"),
        ("/spec/template/roles/1/workerReplicas", json!(1), "spec.template.roles[1]: ", "workerTemplate is required"),
        (
            "/spec/template/roles/1/replicas",
            json!(-1),
            "spec.template.roles[1].replicas: ",
            "greater than or equal to 0",
        ),
        (
            "/spec/template/gangPolicy",
            json!({"minRoleReplicas": {"encode": 1}}),
            "spec.template: ",
            "names a role that does not exist",
        ),
        (
            "/spec/template/gangPolicy",
            json!({"minRoleReplicas": {"prefill": 3}}),
            "spec.template: ",
            "cannot exceed the replicas of the role",
        ),
        (
            "/spec/template/gangPolicy",
            json!({"minRoleReplicas": {"prefill": -1}}),
            "spec.template.gangPolicy.minRoleReplicas: ",
            "must be non-negative",
        ),
        ("/spec/rolloutStrategy", update(json!({"maxUnavailable": 0})), limits, "raise one of them"),
        ("/spec/rolloutStrategy", update(json!({"maxUnavailable": "0%", "maxSurge": 0})), limits, "raise one of them"),
        ("/spec/rolloutStrategy", update(json!({"maxUnavailable": "110%"})), limits, "from 0% to 100%"),
        ("/spec/rolloutStrategy", update(json!({"maxUnavailable": ""})), limits, "such as 25%"),
        ("/spec/rolloutStrategy", update(json!({"partition": -1})), limits, "greater than or equal to 0"),
        ("/spec/rolloutStrategy", update(json!({"maxSurge": "many"})), limits, "such as 25%"),
        (
            "/spec/rolloutStrategy",
            json!({"type": "RoleRollingUpdate", "rollingUpdateConfiguration": {}}),
            "spec.rolloutStrategy: ",
            "on the roles",
        ),
        ("/spec/rolloutStrategy/rollbackTo", json!(0), "spec.rolloutStrategy.rollbackTo: ", "remove it"),
        (
            "/spec/template/roles/0/entryTemplate/spec/containers/0/resources",
            json!({"limits": {"cpu": "two"}}),
            "containers[0].resources.limits.cpu: ",
            "should match",
        ),
    ];
    for (pointer, value, field, remedy) in table {
        let answer = try_serving(&namespace, &with(pointer, value.clone())).await?;
        let refusal = answer.err().with_context(|| format!("{pointer} = {value} is accepted"))?;
        assert!(refusal.contains(field) && refusal.contains(remedy), "{pointer} = {value}: {refusal}");
    }

    let mut both = with("/spec/rolloutStrategy/type", json!("RoleRollingUpdate"));
    both["spec"]["recoveryPolicy"] = json!("ServingGroupRecreate");
    let refusal = try_serving(&namespace, &both).await?.err().context("whole groups, role by role")?;
    assert!(refusal.contains("needs recoveryPolicy RoleRecreate or None"), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn what_can_be_served_is_accepted() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("accepted").await?;
    let update = |value: Value| json!({"rollingUpdateConfiguration": value});
    for (pointer, value) in [
        ("/spec/rolloutStrategy", update(json!({"partition": 7, "maxUnavailable": "10%"}))),
        ("/spec/rolloutStrategy", update(json!({"maxUnavailable": 0, "maxSurge": "250%"}))),
        ("/spec/rolloutStrategy", json!({"type": "RoleRollingUpdate", "paused": true, "rollbackTo": "llm-abc"})),
        ("/spec/template/roles/0/maxUnavailable", json!("50%")),
        ("/spec/template/roles/1/replicas", json!(0)),
        ("/spec/template/roles/1/name", json!("405b")),
        ("/spec/template/gangPolicy", json!({"minRoleReplicas": {"prefill": 0, "decode": 1}})),
        ("/spec/plugins", json!([{"name": "demo-pod-tweaks", "config": {"any": [{"thing": 1}]}}])),
        ("/spec/schedulerName", json!("")),
        ("/spec/replicas", Value::Null),
    ] {
        let answer = try_serving(&namespace, &with(pointer, value.clone())).await?;
        assert!(answer.is_ok(), "{pointer} = {value}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn absent_fields_are_filled_in() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("defaults").await?;
    let template = json!({"spec": {"containers": [{"name": "engine", "ports": [{"containerPort": 8000}]}]}});
    let least = json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm"},
        // Clients in Go write nulls for what they leave out.
        "spec": {
            "replicas": null,
            "rolloutStrategy": {"rollingUpdateConfiguration": {}},
            "template": {"roles": [{"name": "decode", "replicas": null, "entryTemplate": template}]},
        },
    });
    let stored = try_serving(&namespace, &least).await?.map_err(anyhow::Error::msg)?;
    let role = json!({
        "name": "decode", "replicas": 1, "workerReplicas": 0,
        "entryTemplate": {"spec": {"containers": [
            {"name": "engine", "ports": [{"containerPort": 8000, "protocol": "TCP"}]}
        ]}},
    });
    assert_eq!(
        stored["spec"],
        json!({
            "replicas": 1,
            "schedulerName": "volcano",
            "recoveryPolicy": "RoleRecreate",
            "revisionHistoryLimit": 10,
            "rolloutStrategy": {
                "type": "ServingGroupRollingUpdate", "rollingUpdateConfiguration": {"maxUnavailable": 1},
            },
            "template": {"restartGracePeriodSeconds": 0, "roles": [role]},
        })
    );
    Ok(())
}

#[tokio::test]
async fn what_was_scaled_to_nothing_can_still_be_edited() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("scaled").await?;
    let api = namespace.api::<ModelServing>();
    let mut object = with("/spec/rolloutStrategy", json!({"rollingUpdateConfiguration": {"maxUnavailable": "10%"}}));
    object["spec"]["template"]["gangPolicy"] = json!({"minRoleReplicas": {"prefill": 2}});
    create(&namespace, api.resource_url(), &object).await?.map_err(anyhow::Error::msg)?;
    let merge = PatchParams::default();
    for replicas in [0, 4, 0] {
        let scale = json!({"spec": {"replicas": replicas}});
        api.patch_scale("llm", &merge, &Patch::Merge(&scale)).await?;
        let edit = json!({"spec": {"template": {"restartGracePeriodSeconds": replicas + 1}}});
        api.patch("llm", &merge, &Patch::Merge(&edit)).await?;
    }

    // The gang follows its roles; only the policy itself stays.
    let minimum = |policy: Value| json!({"spec": {"template": {"gangPolicy": policy}}});
    for policy in [json!({"minRoleReplicas": {"prefill": 1, "decode": 1}}), json!({"minRoleReplicas": null})] {
        api.patch("llm", &merge, &Patch::Merge(&minimum(policy))).await?;
    }
    let error = api.patch("llm", &merge, &Patch::Merge(&minimum(Value::Null))).await.unwrap_err();
    assert!(error.to_string().contains("gangPolicy is required once set"), "{error}");
    Ok(())
}

#[tokio::test]
async fn scaling_past_the_longest_name_is_refused_at_once() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("too-many").await?;
    let api = namespace.api::<ModelServing>();
    // `<49 letters>-9-prefill-2-1`: one character more is too many.
    let name = "l".repeat(49);
    let mut object = with("/metadata/name", json!(name));
    object["spec"]["replicas"] = json!(9);
    create(&namespace, api.resource_url(), &object).await?.map_err(anyhow::Error::msg)?;
    let scale = |replicas: u32| json!({"spec": {"replicas": replicas}});
    let error = api.patch_scale(&name, &PatchParams::default(), &Patch::Merge(scale(100))).await.unwrap_err();
    assert!(error.to_string().contains("must not exceed 63 characters"), "{error}");
    api.patch_scale(&name, &PatchParams::default(), &Patch::Merge(scale(8))).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_scales_one_role_by_apply_leaves_the_others_alone() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("one-role").await?;
    let api = namespace.api::<ModelServing>();
    let mut object = serving();
    object["spec"]["template"]["roles"][0].as_object_mut().context("a role")?.remove("replicas");
    api.patch("llm", &PatchParams::apply("author"), &Patch::Apply(&object)).await?;
    let scaler = json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing", "metadata": {"name": "llm"},
        "spec": {"template": {"roles": [{"name": "prefill", "replicas": 5}]}},
    });
    api.patch("llm", &PatchParams::apply("scaler").force(), &Patch::Apply(&scaler)).await?;
    api.patch("llm", &PatchParams::apply("author"), &Patch::Apply(&object)).await?;
    let roles = api.get("llm").await?.spec.template.roles;
    let found: Vec<_> = roles.iter().map(|role| (role.name.as_str(), role.replicas, role.worker_replicas)).collect();
    assert_eq!(found, [("prefill", Some(5), 1), ("decode", Some(1), 0)]);
    Ok(())
}

#[tokio::test]
async fn routes_and_servers_are_checked_too() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("routing").await?;
    let kind = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": kind, "metadata": {"name": "blue"}, "spec": spec,
        })
    };
    let (routes, servers) = (namespace.api::<ModelRoute>(), namespace.api::<ModelServer>());
    let rules = json!([{"targetModels": [{"modelServerName": "blue"}]}]);
    let selector = json!({"matchLabels": {"app": "blue"}});
    for (url, object, remedy) in [
        (routes.resource_url(), kind("ModelRoute", json!({"rules": rules})), "cannot both be empty"),
        (
            routes.resource_url(),
            kind("ModelRoute", json!({"modelName": "m", "rules": [{"targetModels": []}]})),
            "should have at least 1 items",
        ),
        (
            servers.resource_url(),
            kind("ModelServer", json!({"inferenceEngine": "vllm", "workloadSelector": selector})),
            "\"vLLM\", \"SGLang\"",
        ),
        (
            servers.resource_url(),
            kind(
                "ModelServer",
                json!({"inferenceEngine": "vLLM", "workloadSelector": selector, "trafficPolicy": {"timeout": "soon"}}),
            ),
            "must be a duration, such as 30s",
        ),
        (
            servers.resource_url(),
            kind(
                "ModelServer",
                json!({"inferenceEngine": "vLLM", "workloadSelector": {"pdGroup": {
                    "groupKey": "", "prefillLabels": {}, "decodeLabels": {}
                }}}),
            ),
            "pdGroup.groupKey must not be empty",
        ),
    ] {
        let refusal = create(&namespace, url, &object).await?.err().with_context(|| format!("{object} is accepted"))?;
        assert!(refusal.contains(remedy), "{object}: {refusal}");
    }

    let route = kind("ModelRoute", json!({"modelName": "m", "rules": rules, "rateLimit": {}}));
    let stored = create(&namespace, routes.resource_url(), &route).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(stored["spec"]["rules"][0]["targetModels"][0]["weight"], 100);
    assert_eq!(stored["spec"]["rateLimit"]["unit"], "second");
    let rename = json!({"spec": {"modelName": "n"}});
    let error = routes.patch("blue", &PatchParams::default(), &Patch::Merge(&rename)).await.unwrap_err();
    assert!(error.to_string().contains("modelName is immutable"), "{error}");

    let timeouts = json!({"timeout": "1m30s", "retry": {"attempts": 1}});
    let server = kind(
        "ModelServer",
        json!({"inferenceEngine": "SGLang", "workloadSelector": selector, "trafficPolicy": timeouts}),
    );
    let stored = create(&namespace, servers.resource_url(), &server).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(stored["spec"]["trafficPolicy"]["retry"]["retryInterval"], "100ms");
    Ok(())
}
