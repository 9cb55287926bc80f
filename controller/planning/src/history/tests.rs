use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};

use super::*;

fn role(name: &str, image: &str) -> Value {
    json!({
        "name": name, "replicas": 2, "workerReplicas": 1,
        "entryTemplate": {"metadata": {"labels": {"app.kubernetes.io/name": "vllm"}}, "spec": {"containers": [{
            "name": "engine", "image": image, "args": ["--port", "8000"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        }]}},
        "workerTemplate": {"spec": {"containers": [{"name": "engine", "image": image}]}},
    })
}

fn serving(roles: &Value) -> ModelServing {
    serde_json::from_value(json!({
        "metadata": {"name": "llm", "namespace": "serve", "uid": "u-1", "generation": 5},
        "spec": {"replicas": 3, "template": {"roles": roles}},
    }))
    .expect("a ModelServing")
}

/// The history of a ModelServing that had these roles, one after another.
fn history(past: &[Value]) -> History {
    let mut revisions: Vec<Arc<ControllerRevision>> = Vec::new();
    for (at, roles) in past.iter().enumerate() {
        let serving = serving(roles);
        let target = History::read(&serving, &revisions).target(&serving).expect("a target");
        let mut revision = target.create.expect("a new one");
        let cause = [("kubernetes.io/change-cause".to_owned(), format!("change {}", at + 1))];
        revision.metadata.annotations = Some(cause.into());
        revisions.push(Arc::new(revision));
    }
    History::read(&serving(past.last().expect("a past")), &revisions)
}

fn differences(before: &Value, after: &Value) -> Vec<String> {
    let (before, after) = (serving(before).spec.template.roles, serving(after).spec.template.roles);
    difference(&before, &after).iter().map(Change::to_string).collect()
}

#[test]
fn a_difference_is_said_field_by_field() {
    let before = json!([role("prefill", "v1"), role("decode", "v1")]);
    let mut after = json!([role("prefill", "v2"), role("decode", "v1")]);
    let engine = &mut after[0]["entryTemplate"]["spec"]["containers"][0];
    engine["args"] = json!(["--port", "9000"]);
    engine["env"] = json!([{"name": "A", "value": "7"}, {"name": "C", "value": "3"}]);
    engine["volumeMounts"] = json!([{"name": "big", "mountPath": "/dev/shm"}]);
    after[0]["entryTemplate"]["metadata"]["labels"]["app.kubernetes.io/name"] = json!("sglang");
    after[0]["replicas"] = json!(9);
    after[0]["workerReplicas"] = json!(3);
    assert_eq!(
        differences(&before, &after),
        [
            "role prefill: entryTemplate.metadata.labels[app.kubernetes.io/name]: vllm -> sglang",
            r#"role prefill: entryTemplate.spec.containers[engine].args: ["--port","8000"] -> ["--port","9000"]"#,
            "role prefill: entryTemplate.spec.containers[engine].env[A].value: 1 -> 7",
            r#"role prefill: entryTemplate.spec.containers[engine].env[B]: removed {"name":"B","value":"2"}"#,
            r#"role prefill: entryTemplate.spec.containers[engine].env[C]: added {"name":"C","value":"3"}"#,
            "role prefill: entryTemplate.spec.containers[engine].image: v1 -> v2",
            "role prefill: entryTemplate.spec.containers[engine].volumeMounts[/dev/shm].name: shm -> big",
            "role prefill: workerReplicas: 1 -> 3",
            "role prefill: workerTemplate.spec.containers[engine].image: v1 -> v2",
        ]
    );
}

#[test]
fn a_role_that_comes_or_goes_and_an_order_are_said_too() {
    let plain = |name: &str| json!({"name": name, "workerReplicas": 0, "entryTemplate": {}});
    assert_eq!(
        differences(&json!([plain("a")]), &json!([plain("b")])),
        [r#"role b added: {"entryTemplate":{},"name":"b","workerReplicas":0}"#, "role a removed"]
    );
    assert_eq!(
        differences(&json!([plain("a"), plain("b")]), &json!([plain("b"), plain("a")])),
        ["role b: (order of the roles): a, b -> b, a"]
    );
    let with = |env: Value| json!([{"name": "a", "workerReplicas": 0, "entryTemplate": {"spec": {"containers": [{"name": "e", "env": env}]}}}]);
    assert_eq!(
        differences(&with(json!([{"name": "A"}, {"name": "B"}])), &with(json!([{"name": "B"}, {"name": "A"}]))),
        ["role a: entryTemplate.spec.containers[e].env (order): A, B -> B, A"]
    );
    assert_eq!(differences(&with(json!([])), &with(json!([]))), Vec::<String>::new());
}

#[test]
fn each_revision_says_what_it_is_to_the_groups() {
    let past = [json!([role("a", "v1")]), json!([role("a", "v2")]), json!([role("a", "v3")])];
    let history = history(&past);
    let name = |number: usize| history.entries()[number - 1].revision.name.clone();
    let states = |current: &str, update: &str| {
        let mut serving = serving(&past[2]);
        let status = json!({"currentRevision": current, "updateRevision": update});
        serving.status = Some(serde_json::from_value(status).expect("a status"));
        lines(&serving, &history).iter().map(|line| (line.number, line.state.word())).collect::<Vec<_>>()
    };
    assert_eq!(states(&name(2), &name(3)), [(1, ""), (2, "leaving"), (3, "updating")]);
    assert_eq!(states(&name(3), &name(3)), [(1, ""), (2, ""), (3, "current")]);
    let line = &lines(&serving(&past[2]), &history)[0];
    assert_eq!(line.change_cause.as_deref(), Some("change 1"));
}

#[test]
fn a_revision_is_compared_with_the_one_before() {
    let history = history(&[json!([role("a", "v1")]), json!([role("a", "v2")])]);
    let (before, changes) = change_of(&history, &history.entries()[1]).expect("a change");
    assert_eq!((before.revision.number, changes.len()), (1, 2));
    assert_eq!(change_of(&history, &history.entries()[0]), None);
}

#[test]
fn undoing_goes_one_back_and_keeps_the_counts() {
    let past = [json!([role("a", "v1")]), json!([role("a", "v2")]), json!([role("a", "v3")])];
    let history = history(&past);
    let mut now = serving(&past[2]);
    now.spec.template.roles[0].replicas = Some(8);
    let image = |undo: &Undo| json!(undo.roles)[0]["entryTemplate"]["spec"]["containers"][0]["image"].clone();

    let one = undo(&now, &history, None).expect("something to undo");
    assert_eq!((one.number, image(&one), one.roles[0].replicas), (2, json!("v2"), Some(8)));
    assert_eq!(one.change_cause.as_deref(), Some("change 2"));
    assert_eq!(one.changes.len(), 2, "the counts are no change: {:?}", one.changes);
    let first = undo(&now, &history, Some("1")).expect("something to undo");
    assert_eq!((first.number, image(&first)), (1, json!("v1")));

    // The template has moved on, and the operator has not seen it.
    let unseen = undo(&serving(&json!([role("a", "v4")])), &history, None).expect("something to undo");
    assert_eq!(unseen.number, 3);
}

#[test]
fn what_cannot_be_undone_says_why_and_what_to_do() {
    let past = [json!([role("a", "v1")]), json!([role("a", "v2")])];
    let history = history(&past);
    let now = serving(&past[1]);
    let said =
        |serving: &ModelServing, to: Option<&str>| undo(serving, &history, to).expect_err("a refusal").to_string();
    assert_eq!(said(&now, Some("7")), "llm has no revision 7; it has 1, 2");
    assert_eq!(said(&now, Some("2")), "llm is at revision 2 already: there is nothing to undo");
    assert_eq!(said(&serving(&past[0]), None), "llm has no revision before the one it has: there is nothing to undo");
    let annotated = |key: &str, value: &str| {
        let mut serving = now.clone();
        serving.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
        serving
    };
    assert_eq!(
        said(&annotated("modelserving.volcano.sh/paused", "true"), None),
        "llm is paused: resume it first (kthena rollout resume llm)"
    );
    assert_eq!(
        said(&annotated("modelserving.volcano.sh/rollback-to", "1"), None),
        "llm asks for revision 1 in the object itself, which goes before the template: change or remove the annotation \
         modelserving.volcano.sh/rollback-to"
    );
}

#[test]
fn progress_is_told_until_it_is_complete() {
    let told = |status: Value| {
        let mut serving = serving(&json!([role("a", "v1")]));
        serving.status = Some(serde_json::from_value(status).expect("a status"));
        progress(&serving)
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "revision 9 does not exist", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(told(json!({})), Progress::Going("waiting for the operator to see the change of llm".to_owned()));
    let status = |replicas: i32, updated: i32, ready: i32, conditions: Value| {
        told(json!({
            "observedGeneration": 5, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": ready,
            "conditions": conditions,
        }))
    };
    let not_ready = json!([condition("Ready", "False")]);
    assert_eq!(
        status(3, 1, 2, not_ready.clone()),
        Progress::Going("llm: 1 of 3 groups are updated, 2 ready".to_owned())
    );
    assert_eq!(status(3, 3, 2, not_ready.clone()), Progress::Going("llm: 2 of 3 groups are ready".to_owned()));
    assert_eq!(
        status(4, 3, 3, not_ready),
        Progress::Going("llm: 3 of 3 groups are updated, 3 ready; 1 to remove".to_owned())
    );
    let complete = Progress::Complete("llm is rolled out: 3 of 3 groups are ready, 3 updated".to_owned());
    assert_eq!(status(3, 3, 3, json!([condition("Ready", "True")])), complete);
    assert_eq!(status(3, 3, 3, json!([])), complete, "Kthena's operator has no such condition");
    assert_eq!(
        status(3, 0, 3, json!([condition("Ready", "True")])),
        Progress::Complete("llm is rolled out: 3 of 3 groups are ready, 0 updated".to_owned()),
        "a partition keeps them"
    );
    assert_eq!(
        status(3, 0, 3, json!([condition("Ready", "False"), condition("Stalled", "True")])),
        Progress::Held("llm is stalled: revision 9 does not exist".to_owned())
    );
    let mut paused = serving(&json!([role("a", "v1")]));
    paused.spec.rollout_strategy =
        serde_json::from_value(json!({"type": "ServingGroupRollingUpdate", "paused": true})).expect("a strategy");
    paused.status =
        serde_json::from_value(json!({"observedGeneration": 5, "updatedReplicas": 1, "availableReplicas": 3}))
            .expect("a status");
    assert_eq!(
        progress(&paused),
        Progress::Held(
            "llm is paused: 1 of 3 groups are updated, 3 ready; resume it with kthena rollout resume llm".to_owned()
        )
    );
}
