use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::objects::{self, Build};
use crate::observed::{Observed, PodHealth};
use crate::plan;
use crate::plan::{Plan, Write};
use crate::plugins::Chain;

fn set(spec: &Value) -> LeaderWorkerSet {
    let mut value = json!({
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "vllm", "namespace": "serve", "uid": "l-1", "generation": 4, "annotations": {"note": "mine"}},
        "spec": {"replicas": 3, "leaderWorkerTemplate": {
            "size": 4,
            "leaderTemplate": {"metadata": {"labels": {"role": "leader"}}, "spec": {"containers": [{"name": "leader"}]}},
            "workerTemplate": {"spec": {"containers": [{"name": "worker"}]}},
        }},
    });
    merge(&mut value["spec"], spec);
    serde_json::from_value(value).expect("a LeaderWorkerSet")
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn spec_of(spec: &Value) -> Value {
    json!(serving_of(&set(spec)).spec)
}

fn now() -> Timestamp {
    "2026-01-01T10:00:00Z".parse().expect("a time")
}

/// The ModelServing as the API server gives it back once the operator wrote `status` into it.
fn found(set: &LeaderWorkerSet, status: &Value) -> ModelServing {
    let mut value = json!(serving_of(set));
    value["metadata"]["uid"] = json!("m-1");
    value["metadata"]["generation"] = json!(2);
    value["metadata"]["annotations"]["kubectl.kubernetes.io/x"] = json!("another's");
    value["spec"]["recoveryPolicy"] = value["spec"]["recoveryPolicy"].clone();
    value["spec"]["revisionHistoryLimit"] = json!(10);
    value["status"] = status.clone();
    serde_json::from_value(value).expect("a ModelServing")
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T09:00:00Z"})
}

fn said(status: &LeaderWorkerSetStatus) -> Vec<(&str, &str, &str)> {
    let conditions = status.conditions.iter();
    conditions.map(|one| (one.type_.as_str(), one.status.as_str(), one.reason.as_str())).collect()
}

#[test]
fn a_group_is_one_instance_of_one_role() {
    let serving = serving_of(&set(&json!({})));
    assert_eq!(
        json!(serving.metadata.owner_references),
        json!([{
            "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "vllm", "uid": "l-1",
            "controller": true, "blockOwnerDeletion": true,
        }])
    );
    assert_eq!(
        (serving.metadata.name.as_deref(), serving.metadata.namespace.as_deref()),
        (Some("vllm"), Some("serve"))
    );
    assert_eq!(
        json!(serving.spec),
        json!({
            "replicas": 3,
            "schedulerName": "default-scheduler",
            "plugins": [
                {"name": "lws-standard-labels", "type": "BuiltIn"},
                {"name": "lws-environment", "type": "BuiltIn"},
            ],
            "template": {"roles": [{
                "name": "default",
                "replicas": 1,
                "entryTemplate": {"metadata": {"labels": {"role": "leader"}}, "spec": {"containers": [{"name": "leader"}]}},
                "workerReplicas": 3,
                "workerTemplate": {"spec": {"containers": [{"name": "worker"}]}},
            }]},
            "rolloutStrategy": {"type": "ServingGroupRollingUpdate"},
            "recoveryPolicy": "ServingGroupRecreate",
        })
    );
}

#[test]
fn what_is_absent_has_the_defaults_of_a_leader_worker_set() {
    let set: LeaderWorkerSet = serde_json::from_value(json!({
        "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "vllm"},
        "spec": {"leaderWorkerTemplate": {"workerTemplate": {"spec": {"containers": [{"name": "worker"}]}}}},
    }))
    .expect("a LeaderWorkerSet");
    let spec = json!(serving_of(&set).spec);
    assert_eq!(spec["replicas"], 1);
    let role = &spec["template"]["roles"][0];
    assert_eq!((&role["workerReplicas"], &role["entryTemplate"]), (&json!(0), &role["workerTemplate"]));
}

#[test]
fn restarts_recreate_what_they_recreated() {
    let policy = |restart: Value| {
        spec_of(&json!({"leaderWorkerTemplate": {"restartPolicy": restart}}))["recoveryPolicy"].clone()
    };
    assert_eq!(policy(json!("RecreateGroupOnPodRestart")), "ServingGroupRecreate");
    assert_eq!(policy(json!("RecreateGroupAfterStart")), "ServingGroupRecreate");
    assert_eq!(policy(json!("None")), "None");
    assert_eq!(policy(json!("Default")), "None");
}

#[test]
fn the_limits_of_a_rollout_are_kept() {
    let limits = json!({"partition": 2, "maxUnavailable": "50%", "maxSurge": 1});
    let spec = spec_of(&json!({"rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": limits}}));
    assert_eq!(spec["rolloutStrategy"]["rollingUpdateConfiguration"], limits);
}

#[test]
fn a_gang_is_made_only_where_the_leader_asks_for_it() {
    let leader = json!({"leaderTemplate": {"spec": {"schedulerName": "volcano"}}});
    assert_eq!(spec_of(&json!({"leaderWorkerTemplate": leader}))["schedulerName"], "volcano");
}

#[test]
fn an_exclusive_topology_is_kept() {
    let mut set = set(&json!({}));
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert("leaderworkerset.sigs.k8s.io/exclusive-topology".to_owned(), "rack".to_owned());
    assert_eq!(
        json!(serving_of(&set).spec.plugins)[2],
        json!({"name": "lws-exclusive-topology", "type": "BuiltIn", "config": {"topologyKey": "rack"}})
    );
    assert!(answer(&set, None, now()).apply.is_some());
}

#[test]
fn workers_wait_for_a_leader_that_must_be_ready_first() {
    assert!(objects::workers_wait(&serving_of(&set(&json!({"startupPolicy": "LeaderReady"})))));
    assert!(!objects::workers_wait(&serving_of(&set(&json!({"startupPolicy": "LeaderCreated"})))));
}

/// Names of the pods that a pass creates, which then are there with `health`; and the status that it writes.
fn pass(serving: &mut ModelServing, observed: &mut Observed, health: &PodHealth) -> Vec<String> {
    let plan = plan(serving, observed, now());
    let mut created = Vec::new();
    for write in plan.steps.into_iter().flat_map(|step| step.writes) {
        match write {
            Write::CreatePod(pod) => {
                let mut facts = objects::pod_facts(&pod);
                facts.uid.clone_from(&facts.name);
                facts.health = health.clone();
                created.push(facts.name.clone());
                observed.pods.push(Arc::new(facts));
            }
            Write::CreateRevision(revision) => observed.revisions.push(Arc::new(*revision)),
            Write::ApplyService(service) => observed.services.push(Arc::new(objects::service_facts(&service))),
            Write::Status(status) => serving.status = Some(*status),
            other => panic!("nothing else is to be written: {other:?}"),
        }
    }
    observed.pods.sort_by(|a, b| a.name.cmp(&b.name));
    created
}

#[test]
fn workers_are_created_once_their_leader_is_ready() {
    for restart in ["RecreateGroupOnPodRestart", "None"] {
        let spec = json!({
            "replicas": 1, "startupPolicy": "LeaderReady",
            "leaderWorkerTemplate": {"size": 3, "restartPolicy": restart},
        });
        let mut serving = serving_of(&set(&spec));
        serving.metadata.generation = Some(1);
        let mut observed = Observed::default();
        assert_eq!(pass(&mut serving, &mut observed, &PodHealth::NotReady), ["vllm-0-default-0-0"]);
        let none: [&str; 0] = [];
        assert_eq!(pass(&mut serving, &mut observed, &PodHealth::NotReady), none, "it is not ready yet");
        let mut leader = observed.pods[0].as_ref().clone();
        leader.health = PodHealth::Ready;
        observed.pods[0] = Arc::new(leader);
        let workers = ["vllm-0-default-0-1", "vllm-0-default-0-2"];
        assert_eq!(pass(&mut serving, &mut observed, &PodHealth::Ready), workers);
        pass(&mut serving, &mut observed, &PodHealth::Ready);
        assert_eq!(plan(&serving, &observed, now()), Plan::default());
        assert_eq!(serving.status.expect("a status").available_replicas, 1);
    }
}

#[test]
fn pods_have_the_labels_and_the_environment_that_scripts_read() {
    let serving = serving_of(&set(&json!({})));
    let chain = Chain::new(&serving.spec.plugins).expect("the plugins exist");
    let build = Build { serving: &serving, revision: "r1", gang: false, plugins: &chain };
    let pod = objects::pod(&build, "vllm-2", &serving.spec.template.roles[0], 0, 3).expect("a pod");
    let labels = pod.metadata.labels.expect("labels");
    assert_eq!(labels["leaderworkerset.sigs.k8s.io/name"], "vllm");
    assert_eq!(labels["leaderworkerset.sigs.k8s.io/group-index"], "2");
    assert_eq!(labels["leaderworkerset.sigs.k8s.io/worker-index"], "3");
    let env = json!(pod.spec.expect("a spec").containers[0].env);
    assert_eq!(env[0], json!({"name": "LWS_LEADER_ADDRESS", "value": "vllm-2-default-0-0.serve"}));
    assert_eq!(env[1], json!({"name": "LWS_GROUP_SIZE", "value": "4"}));
    assert_eq!(env[2], json!({"name": "LWS_WORKER_INDEX", "value": "3"}));
    assert!(objects::headless_service(&build, "vllm-2", &serving.spec.template.roles[0], 0).is_some());
}

#[test]
fn a_new_set_gets_a_model_serving_and_a_status() {
    let set = set(&json!({}));
    let answer = answer(&set, None, now());
    assert_eq!(answer.apply.as_deref(), Some(&serving_of(&set)));
    let status = answer.status.expect("a status");
    assert_eq!(status.observed_generation, None, "nothing has been done yet");
    assert_eq!(
        status.hpa_pod_selector.as_deref(),
        Some("leaderworkerset.sigs.k8s.io/name=vllm,leaderworkerset.sigs.k8s.io/worker-index=0")
    );
    assert_eq!(
        said(&status),
        [
            ("Available", "False", "GroupsNotReady"),
            ("Progressing", "True", "GroupsProgressing"),
            ("UpdateInProgress", "False", "GroupsUpdating"),
        ]
    );
    assert_eq!(status.conditions[1].message, "0 of 3 groups are ready");
}

#[test]
fn a_served_set_is_left_alone() {
    let mut set = set(&json!({}));
    let ready = json!({
        "observedGeneration": 2, "replicas": 3, "availableReplicas": 3, "updatedReplicas": 3,
        "conditions": [condition("Available", "True")],
    });
    let found = found(&set, &ready);
    let first = answer(&set, Some(&found), now());
    assert_eq!(first.apply, None);
    let status = first.status.expect("the first status");
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas), (3, 3, 3));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(said(&status)[0], ("Available", "True", "AllGroupsReady"));
    assert_eq!(said(&status)[1].1, "False");

    set.status = Some(*status);
    let later = "2026-01-01T11:00:00Z".parse().expect("a time");
    assert_eq!(answer(&set, Some(&found), later), Answer { apply: None, status: None });

    // A cluster whose kind does not have that field drops it.
    set.status.as_mut().expect("a status").observed_generation = None;
    assert_eq!(answer(&set, Some(&found), later), Answer { apply: None, status: None });
}

#[test]
fn an_update_is_told_and_a_time_changes_with_its_status_only() {
    let mut set = set(&json!({}));
    let ready = json!({
        "observedGeneration": 2, "replicas": 3, "availableReplicas": 3, "updatedReplicas": 3,
        "conditions": [condition("Available", "True")],
    });
    set.status = answer(&set, Some(&found(&set, &ready)), now()).status.map(|status| *status);
    let updating = json!({
        "observedGeneration": 2, "replicas": 3, "availableReplicas": 2, "updatedReplicas": 1,
        "conditions": [condition("Available", "False"), condition("UpdateInProgress", "True")],
    });
    let later: Timestamp = "2026-01-01T11:00:00Z".parse().expect("a time");
    let status = status_of(&set, &found(&set, &updating), later);
    assert_eq!(said(&status).iter().map(|(_, status, _)| *status).collect::<Vec<_>>(), ["False", "True", "True"]);
    assert_eq!(status.conditions[2].message, "1 of 3 groups have the newest template");
    assert_eq!(status.conditions[2].last_transition_time.0, later);
    let again = status_of(
        &LeaderWorkerSet { status: Some(status.clone()), ..set },
        &found(&super::tests::set(&json!({})), &updating),
        now(),
    );
    assert_eq!(again.conditions, status.conditions);
}

#[test]
fn a_set_stays_available_until_its_change_was_looked_at() {
    let mut set = set(&json!({}));
    let ready = json!({
        "observedGeneration": 2, "replicas": 3, "availableReplicas": 3, "updatedReplicas": 3,
        "conditions": [condition("Available", "True")],
    });
    let found = found(&set, &ready);
    set.status = answer(&set, Some(&found), now()).status.map(|status| *status);
    set.spec.replicas = Some(5);
    set.metadata.generation = Some(5);
    let answer = answer(&set, Some(&found), now());
    assert!(answer.apply.is_some());
    assert_eq!(answer.status, None, "there is nothing new to say");
}

#[test]
fn a_change_of_either_side_is_applied() {
    let before = set(&json!({}));
    let served = found(&before, &json!(null));
    let mut scaled = before.clone();
    scaled.spec.replicas = Some(5);
    let mut fewer = before.clone();
    fewer.spec.leader_worker_template.leader_template = None;
    let mut paused = before.clone();
    paused
        .metadata
        .annotations
        .get_or_insert_default()
        .insert("modelserving.volcano.sh/paused".to_owned(), "true".to_owned());
    for changed in [scaled, fewer, paused] {
        let answer = answer(&changed, Some(&served), now());
        assert_eq!(answer.apply.as_deref(), Some(&serving_of(&changed)));
        assert_eq!(answer.status.expect("a status").observed_generation, None, "not before it is carried out");
    }
    let mut altered = served;
    altered.spec.replicas = Some(1);
    assert!(answer(&before, Some(&altered), now()).apply.is_some());
}

#[test]
fn a_model_serving_of_somebody_else_is_never_touched() {
    let set = set(&json!({}));
    let mut unowned = found(&set, &json!(null));
    unowned.metadata.owner_references = None;
    let mut of_a_namesake = found(&set, &json!(null));
    of_a_namesake.metadata.owner_references.as_mut().expect("an owner")[0].uid = "l-0".to_owned();
    for foreign in [unowned, of_a_namesake] {
        let answer = answer(&set, Some(&foreign), now());
        assert_eq!(answer.apply, None);
        let status = answer.status.expect("a status");
        assert_eq!(said(&status)[0], ("Available", "False", "NameTaken"));
        assert_eq!(
            status.conditions[0].message,
            "the ModelServing vllm exists and does not belong to this LeaderWorkerSet: rename one of them, or delete it"
        );
    }
}

#[test]
fn what_cannot_be_served_is_refused_aloud() {
    let set = set(&json!({"leaderWorkerTemplate": {
        "subGroupPolicy": {"subGroupSize": 2},
        "volumeClaimTemplates": [{"metadata": {"name": "cache"}}],
    }}));
    let answer = answer(&set, None, now());
    assert_eq!(answer.apply, None);
    let status = answer.status.expect("a status");
    assert_eq!(said(&status)[0], ("Available", "False", "Unsupported"));
    assert_eq!(
        status.conditions[0].message,
        "spec.leaderWorkerTemplate.volumeClaimTemplates, spec.leaderWorkerTemplate.subGroupPolicy cannot be served by a \
         ModelServing: remove them"
    );
}
