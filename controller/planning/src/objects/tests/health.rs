use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::observed::PodHealth;

fn facts(status: &Value) -> crate::observed::PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "llm-0-prefill-1-0", "uid": "p-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": status,
    }))
    .expect("a pod");
    pod_facts(&pod)
}

fn health(status: &Value) -> PodHealth {
    facts(status).health
}

fn at(time: &str) -> String {
    format!("2026-01-01T00:{time}Z")
}

fn not_ready(since: &str) -> Value {
    json!([{"type": "Ready", "status": "False", "lastTransitionTime": at(since)}])
}

fn failed(since: &str, reason: &str) -> PodHealth {
    PodHealth::Failed { since: Some(at(since).parse().expect("a time")), reason: reason.to_owned(), ended: false }
}

fn ended(since: &str, reason: &str) -> PodHealth {
    PodHealth::Failed { since: Some(at(since).parse().expect("a time")), reason: reason.to_owned(), ended: true }
}

fn crashed(times: i32, finished: &str, state: &Value) -> Value {
    json!({
        "name": "engine", "image": "", "imageID": "", "ready": false, "restartCount": times,
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": at(finished)}},
        "state": state,
    })
}

#[test]
fn facts_are_the_labels_and_the_cost() {
    let mut pod: Pod = serde_json::from_value(pod_of(&serving(), true, 0)).expect("a pod");
    let read = pod_facts(&pod);
    assert_eq!((read.name.as_str(), read.group.as_str()), ("llm-0-prefill-1-0", "llm-0"));
    assert_eq!((read.role.as_str(), read.role_id.as_str(), read.revision.as_str()), ("prefill", "prefill-1", "r1"));
    assert!(!read.role_template_hash.is_empty());
    assert_eq!((read.deletion_cost, read.terminating, read.health), (0, false, PodHealth::NotReady));
    for (given, cost) in [("-7", -7), ("100", 100), ("1.5", 0), ("+3", 3), ("99999999999", 0)] {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert("controller.kubernetes.io/pod-deletion-cost".to_owned(), given.to_owned());
        assert_eq!(pod_facts(&pod).deletion_cost, cost, "{given}");
    }
    pod.metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH.into());
    assert!(pod_facts(&pod).terminating);
}

#[test]
fn ready_needs_the_phase_and_the_condition() {
    let ready = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(health(&json!({"phase": "Running", "conditions": ready})), PodHealth::Ready);
    let restarted = json!([crashed(3, "05:00", &json!({"running": {"startedAt": at("05:10")}}))]);
    assert_eq!(
        health(&json!({"phase": "Running", "conditions": ready, "containerStatuses": restarted})),
        PodHealth::Ready,
        "it came back by itself"
    );
    assert_eq!(health(&json!({"phase": "Running", "conditions": not_ready("01:00")})), PodHealth::NotReady);
    assert_eq!(health(&json!({"phase": "Pending"})), PodHealth::NotReady);
    assert_eq!(health(&json!({"phase": "Unknown", "conditions": ready})), PodHealth::NotReady);
    assert_eq!(health(&json!({"phase": "Succeeded"})), PodHealth::Finished);
    let since = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at("01:00")}]);
    assert_eq!(facts(&json!({"phase": "Running", "conditions": since})).ready_since, at("01:00").parse().ok());
    assert_eq!(facts(&json!({"phase": "Running", "conditions": not_ready("01:00")})).ready_since, None);
}

#[test]
fn an_evicted_pod_says_so() {
    assert_eq!(
        health(
            &json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory.", "conditions": not_ready("02:00")})
        ),
        ended("02:00", "Evicted: The node was low on memory.")
    );
}

#[test]
fn a_failed_pod_says_what_its_container_died_of() {
    let container = json!({
        "name": "engine", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": at("03:00")}},
    });
    assert_eq!(
        health(&json!({"phase": "Failed", "containerStatuses": [container]})),
        ended("03:00", "Error (exit code 1) in container engine")
    );
    assert_eq!(health(&json!({"phase": "Failed"})), ended("00:00", "the pod failed"));
}

#[test]
fn a_pod_that_is_not_ready_since_a_restart_failed() {
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let status = |times, finished, state: &Value| json!({"phase": "Running", "conditions": not_ready("04:00"), "containerStatuses": [crashed(times, finished, state)]});
    let reason = "OOMKilled (exit code 137) in container engine";
    assert_eq!(health(&status(1, "06:00", &waiting)), failed("06:00", reason));
    // The time of the last crash moves with each crash: a grace period that began with it would never end.
    assert_eq!(health(&status(2, "07:00", &waiting)), failed("04:00", reason));
    // It is up again, but was not ready since.
    assert_eq!(health(&status(1, "06:00", &json!({"running": {"startedAt": at("06:01")}}))), failed("06:00", reason));
}

#[test]
fn a_pod_that_was_ready_after_its_restart_has_not_failed() {
    let container = crashed(1, "02:00", &json!({"running": {"startedAt": at("02:10")}}));
    let status = json!({"phase": "Running", "conditions": not_ready("30:00"), "containerStatuses": [container]});
    assert_eq!(health(&status), PodHealth::NotReady);
}

#[test]
fn an_init_container_that_was_restarted_counts_too() {
    let mut container = crashed(1, "01:00", &json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    container["name"] = json!("fetch");
    assert_eq!(
        health(&json!({"phase": "Pending", "conditions": not_ready("00:05"), "initContainerStatuses": [container]})),
        failed("01:00", "OOMKilled (exit code 137) in init container fetch")
    );
}
