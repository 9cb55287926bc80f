//! From its creation to its end.

use anyhow::Result;
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::DeleteParams;
use serde_json::json;
use tests::poll;

use crate::stage::{SOON, Stage, condition, role, spec, template, uid};

#[tokio::test]
async fn a_model_serving_lives_is_updated_and_takes_everything_with_it() -> Result<()> {
    let stage = Stage::new("life").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 1)])).await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "llm-0-prefill-0-1"]).await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.service_names().await?, ["llm-0-prefill-0-0"]);

    stage.set_image("llm", 0, "engine:2").await?;
    stage.set("llm", "/spec/template/roles/0/workerTemplate/spec/containers/0/image", json!("engine:2")).await?;
    stage.wait_done("llm").await?;
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));

    stage.namespace.api::<ModelServing>().delete("llm", &DeleteParams::default()).await?;
    stage.wait_pods(&[]).await?;
    poll::until("the service's end", SOON, async || stage.service_names().await.ok()?.is_empty().then_some(())).await?;
    assert!(stage.namespace.api::<ModelServing>().get_opt("llm").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn no_replicas_are_a_serving_with_a_status() -> Result<()> {
    let stage = Stage::new("zero").await?;
    stage.create("llm", spec(0, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    assert!(stage.pod_names().await?.is_empty());
    stage.change("llm", json!({"spec": {"replicas": 1}})).await?;
    stage.wait_done("llm").await?;
    stage.change("llm", json!({"spec": {"replicas": 0}})).await?;
    stage.wait_done("llm").await?;
    stage.wait_pods(&[]).await
}

#[tokio::test]
async fn one_address_may_have_two_host_aliases() -> Result<()> {
    let stage = Stage::new("aliases").await?;
    let mut prefill = role("prefill", 1, 0);
    let aliases = json!([{"ip": "127.0.0.1", "hostnames": ["a"]}, {"ip": "127.0.0.1", "hostnames": ["b"]}]);
    prefill["entryTemplate"]["spec"]["hostAliases"] = aliases.clone();
    stage.create("llm", spec(1, &[prefill])).await?;
    stage.wait_done("llm").await?;
    let pod = stage.namespace.api::<Pod>().get("llm-0-prefill-0-0").await?;
    assert_eq!(serde_json::to_value(pod.spec.and_then(|spec| spec.host_aliases))?, aliases);
    Ok(())
}

#[tokio::test]
async fn annotations_of_a_template_come_to_its_pods() -> Result<()> {
    let stage = Stage::new("annotations").await?;
    let mut prefill = role("prefill", 1, 1);
    for key in ["entryTemplate", "workerTemplate"] {
        prefill[key] = template("engine:1");
        prefill[key]["metadata"] = json!({"annotations": {"note": key}});
    }
    stage.create("llm", spec(1, &[prefill])).await?;
    stage.wait_done("llm").await?;
    for (pod, note) in [("llm-0-prefill-0-0", "entryTemplate"), ("llm-0-prefill-0-1", "workerTemplate")] {
        let pod = stage.namespace.api::<Pod>().get(pod).await?;
        assert_eq!(pod.metadata.annotations.unwrap_or_default().get("note").map(String::as_str), Some(note));
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_or_changed_service_is_put_right() -> Result<()> {
    let stage = Stage::new("services").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await?;
    let (api, name) = (stage.namespace.api::<Service>(), "llm-0-prefill-0-0");
    let first = api.get(name).await?;
    api.delete(name, &DeleteParams::default()).await?;
    let second = poll::until("another service", SOON, async || {
        api.get_opt(name).await.ok()?.filter(|service| service.metadata.uid != first.metadata.uid)
    })
    .await?;
    let selector = second.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    assert_eq!(second.spec.and_then(|spec| spec.cluster_ip).as_deref(), Some("None"));
    assert_eq!(selector.get("modelserving.volcano.sh/entry").map(String::as_str), Some("true"));

    let spoilt = json!({"spec": {"selector": {"modelserving.volcano.sh/role": "another"}}});
    api.patch(name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(spoilt)).await?;
    poll::until("the selector as it was", SOON, async || {
        let now = api.get(name).await.ok()?.spec?.selector?;
        (now == selector).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_pod_that_is_ready_before_its_group_is_complete_does_no_harm() -> Result<()> {
    let stage = Stage::new("eager").await?;
    stage.create("llm", spec(3, &[role("prefill", 3, 2)])).await?;
    stage.wait_done("llm").await?;
    let created = stage.proxy.writes(0).into_iter().filter(|call| call.verb == "create" && call.resource == "pods");
    assert_eq!(created.map(|call| call.status).collect::<Vec<_>>(), [Some(201); 27]);
    Ok(())
}

#[tokio::test]
async fn a_serving_created_anew_under_its_old_name_starts_afresh() -> Result<()> {
    let stage = Stage::new("anew").await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let old = stage.uids().await?;
    stage.namespace.api::<ModelServing>().delete("llm", &DeleteParams::default()).await?;
    poll::until("the old one's end", SOON, async || {
        stage.namespace.api::<ModelServing>().get_opt("llm").await.ok()?.is_none().then_some(())
    })
    .await?;
    stage.create("llm", spec(2, &[role("prefill", 1, 0)])).await?;
    for (name, uid) in &old {
        stage.wait_replaced(name, uid).await?;
    }
    stage.wait_done("llm").await
}

#[tokio::test]
async fn a_finished_serving_costs_no_write_and_a_restart_neither() -> Result<()> {
    let stage = Stage::new("idle").await?;
    stage.create("llm", spec(2, &[role("prefill", 2, 1), role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    stage.writes_nothing().await?;
    let failed = stage.proxy.writes(0).into_iter().filter(|call| call.status.is_none_or(|status| status >= 400));
    assert_eq!(failed.collect::<Vec<_>>(), []);
    let statuses = stage.proxy.writes(0).into_iter().filter(|call| call.resource == "modelservings/status").count();
    assert!(statuses <= 3, "{statuses} status writes");
    stage.kill_operator();
    stage.start_operator().await?;
    stage.writes_nothing().await
}

#[tokio::test]
async fn an_operator_killed_while_it_creates_leaves_exactly_the_pods_that_were_asked_for() -> Result<()> {
    let stage = Stage::new("killed").await?;
    stage.create("llm", spec(5, &[role("prefill", 1, 2), role("decode", 1, 1)])).await?;
    poll::until("some pods", SOON, async || (stage.pods().await.ok()?.len() > 3).then_some(())).await?;
    stage.kill_operator();
    stage.start_operator().await?;
    stage.wait_done("llm").await?;
    assert_eq!(stage.pods().await?.len(), 25);
    // The status counts pods: if all of them were there before the kill, it is written before the services that were not.
    poll::until("a service for each instance", SOON, async || {
        (stage.service_names().await.ok()?.len() == 10).then_some(())
    })
    .await?;
    stage.writes_nothing().await
}

#[tokio::test]
async fn a_foreign_pod_with_our_label_is_let_alone() -> Result<()> {
    let stage = Stage::new("foreign").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let before = stage.uids().await?;
    stage
        .create_pod(json!({
            "metadata": {"name": "stranger", "labels": {"modelserving.volcano.sh/group-name": "llm-0"}},
            "spec": {"containers": [{"name": "engine", "image": "engine:1"}]},
        }))
        .await?;
    stage.wait_pods(&["llm-0-prefill-0-0", "stranger"]).await?;
    stage.change("llm", json!({"spec": {"replicas": 0}})).await?;
    stage.wait_pods(&["stranger"]).await?;
    assert!(!before.values().any(|uid| uid.is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_foreign_pod_that_has_our_pods_name_stalls_and_is_named() -> Result<()> {
    let stage = Stage::new("taken").await?;
    let image = json!({"containers": [{"name": "engine", "image": "engine:1"}]});
    stage.create_pod(json!({"metadata": {"name": "llm-0-prefill-0-0"}, "spec": image})).await?;
    let foreign = uid(&stage.namespace.api::<Pod>().get("llm-0-prefill-0-0").await?).to_owned();
    stage.create("llm", spec(1, &[role("prefill", 1, 0)])).await?;
    let events = stage.namespace.api::<k8s_openapi::api::events::v1::Event>();
    let told = poll::until("an event", SOON, async || {
        let all = events.list(&kube::api::ListParams::default()).await.ok()?;
        all.into_iter().find(|event| {
            event.note.as_ref().is_some_and(|note| note.contains("llm-0-prefill-0-0"))
                && event.type_.as_deref() == Some("Warning")
        })
    })
    .await?;
    assert_eq!(told.regarding.and_then(|object| object.name).as_deref(), Some("llm"));
    assert_eq!(condition(&stage.status("llm").await?, "Stalled"), Some(true));
    assert_eq!(stage.uids().await?.get("llm-0-prefill-0-0"), Some(&foreign));
    stage.delete_pod("llm-0-prefill-0-0").await?;
    stage.wait_done("llm").await?;
    let status = stage.status("llm").await?;
    assert_eq!((condition(&status, "Available"), condition(&status, "Stalled")), (Some(true), None));
    Ok(())
}

#[tokio::test]
async fn events_tell_what_becomes_of_role_instances() -> Result<()> {
    let stage = Stage::new("told").await?;
    stage.create("llm", spec(1, &[role("prefill", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    let uid = stage.serving("llm").await?.metadata.uid;
    let events = stage.namespace.api::<k8s_openapi::api::events::v1::Event>();
    for (reason, state) in [("RoleCreating", "Creating"), ("RoleRunning", "Running")] {
        let note = poll::until(reason, SOON, async || {
            let all = events.list(&kube::api::ListParams::default()).await.ok()?;
            let told = all.into_iter().find(|event| event.reason.as_deref() == Some(reason))?;
            assert_eq!(told.regarding.and_then(|object| object.uid), uid);
            told.note
        })
        .await?;
        assert_eq!(note, format!("Role prefill/prefill-0 in ServingGroup llm-0 is now {state}"));
    }
    Ok(())
}
