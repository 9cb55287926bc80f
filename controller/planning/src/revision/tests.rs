use std::collections::BTreeSet;
use std::sync::Arc;

use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};

use super::*;

fn serving(image: &str) -> ModelServing {
    serde_json::from_value(json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm", "namespace": "serve", "uid": "u-1", "annotations": {"kubernetes.io/change-cause": "first"}},
        "spec": {"replicas": 2, "template": {"roles": [
            {
                "name": "prefill",
                "replicas": 2,
                "entryTemplate": {"spec": {"containers": [{
                    "name": "engine",
                    "image": image,
                    "env": [{"name": "HF_HOME", "value": "/cache"}],
                    "ports": [{"containerPort": 8000}],
                    "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "1024Mi"}},
                }]}},
                "workerReplicas": 1,
                "workerTemplate": {"spec": {"containers": [{"name": "engine", "image": image}]}},
            },
            {"name": "decode", "entryTemplate": {"spec": {"containers": [{"name": "engine", "image": image}]}}, "workerReplicas": 0},
        ]}},
    }))
    .expect("a ModelServing")
}

/// As the API server gives it back.
fn stored(mut revision: ControllerRevision) -> Arc<ControllerRevision> {
    revision.metadata.uid = revision.metadata.name.as_ref().map(|name| format!("uid-of-{name}"));
    Arc::new(revision)
}

fn created(serving: &ModelServing, revisions: &[Arc<ControllerRevision>]) -> Arc<ControllerRevision> {
    let target = History::read(serving, revisions).target(serving).expect("a target");
    stored(target.create.expect("a new revision"))
}

fn kthenas(name: &str, number: i64, data: &Value) -> Arc<ControllerRevision> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("llm-{name}"), "uid": format!("uid-of-{name}"), "labels": {"modelserving.volcano.sh/revision": name}},
            "data": data,
            "revision": number,
        }))
        .expect("a ControllerRevision"),
    )
}

fn with(serving: ModelServing, change: Value) -> ModelServing {
    let mut value = serde_json::to_value(serving).expect("JSON");
    merge(&mut value, change);
    serde_json::from_value(value).expect("a ModelServing")
}

fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change,
    }
}

#[test]
fn the_first_revision_is_created_with_its_roles_and_reason() {
    let serving = serving("v1");
    let target = History::read(&serving, &[]).target(&serving).expect("a target");
    let object = target.create.expect("it is new");
    assert_eq!(target.revision.number, 1);
    assert_eq!(object.metadata.name, Some(format!("llm-{}", target.revision.name)));
    assert_eq!(object.metadata.namespace.as_deref(), Some("serve"));
    assert_eq!(object.data.0["data"][0]["name"], "prefill");
    let metadata = serde_json::to_value(&object.metadata).expect("JSON");
    assert_eq!(metadata["annotations"]["kubernetes.io/change-cause"], "first");
    assert_eq!(metadata["labels"]["modelserving.volcano.sh/name"], "llm");
    assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(metadata["ownerReferences"][0]["controller"], true);
}

/// A hash that changes with a release would restart every workload: this one is for ever.
#[test]
fn a_name_is_the_same_in_every_release() {
    let serving = serving("v1");
    let target = History::read(&serving, &[]).target(&serving).expect("a target");
    assert_eq!(target.revision.name, "djb7f8jlgx");
    assert_eq!(role_template_hash(&serving.spec.template.roles[1]), "fpbhznkz7b");
}

#[test]
fn how_many_there_are_is_no_matter_of_the_revision() {
    let before = serving("v1");
    let first = created(&before, &[]);
    let mut after = before.clone();
    after.spec.replicas = Some(9);
    for role in &mut after.spec.template.roles {
        role.replicas = Some(7);
        role.max_unavailable = Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(3));
    }
    let target = History::read(&after, std::slice::from_ref(&first)).target(&after).expect("a target");
    assert_eq!(target.create, None);
    assert_eq!(target.renumber, None);
    assert_eq!(target.revision.roles[0].replicas, Some(7), "the counts are the spec's");
}

#[test]
fn what_a_pod_is_made_of_is_the_revision() {
    let first = created(&serving("v1"), &[]);
    let mut workers = serving("v1");
    workers.spec.template.roles[0].worker_replicas = 3;
    let mut fewer = serving("v1");
    fewer.spec.template.roles.pop();
    for changed in [serving("v2"), workers, fewer] {
        let target = History::read(&changed, std::slice::from_ref(&first)).target(&changed).expect("a target");
        assert!(target.create.is_some());
        assert_eq!(target.revision.number, 2);
    }
}

#[test]
fn the_same_roles_written_otherwise_are_the_same_revision() {
    let first = created(&serving("v1"), &[]);
    let mut value = serde_json::to_value(serving("v1")).expect("JSON");
    let container = &mut value["spec"]["template"]["roles"][0]["entryTemplate"]["spec"]["containers"][0];
    container["resources"]["limits"] = json!({"memory": "1Gi", "nvidia.com/gpu": "1"});
    container["ports"][0]["protocol"] = json!("TCP");
    container["stdin"] = json!(false);
    container["args"] = json!([]);
    container["workingDir"] = json!("");
    let again: ModelServing = serde_json::from_value(value).expect("a ModelServing");
    let target = History::read(&again, &[first]).target(&again).expect("a target");
    assert_eq!(target.create, None);
}

#[test]
fn what_only_looks_empty_makes_a_difference() {
    let affinity = |term: &Value| {
        let mut value = serde_json::to_value(serving("v1")).expect("JSON");
        value["spec"]["template"]["roles"][0]["entryTemplate"]["spec"]["affinity"] =
            json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let serving: ModelServing = serde_json::from_value(value).expect("a ModelServing");
        canonical::roles(&serving.spec.template.roles)
    };
    let here = affinity(&json!({"topologyKey": "rack", "labelSelector": {}}));
    let everywhere = affinity(&json!({"topologyKey": "rack", "labelSelector": {}, "namespaceSelector": {}}));
    assert_ne!(here, everywhere);
}

#[test]
fn a_revision_of_kthena_is_taken_over_by_its_content() {
    let serving = serving("v1");
    // As Go writes it: null times, empty structs, no empty lists.
    let roles = json!([
        {
            "name": "prefill",
            "replicas": 5,
            "entryTemplate": {"metadata": {"creationTimestamp": null}, "spec": {"containers": [{
                "name": "engine", "image": "v1", "env": [{"name": "HF_HOME", "value": "/cache"}],
                "ports": [{"containerPort": 8000, "protocol": "TCP"}],
                "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}},
            }]}},
            "workerReplicas": 1,
            "workerTemplate": {"metadata": {"creationTimestamp": null}, "spec": {"containers": [{"name": "engine", "image": "v1", "resources": {}}]}},
        },
        {
            "name": "decode", "replicas": 1, "workerReplicas": 0,
            "entryTemplate": {"metadata": {"creationTimestamp": null}, "spec": {"containers": [{"name": "engine", "image": "v1", "resources": {}}]}},
        },
    ]);
    for data in [json!({"data": roles}), roles] {
        let target = History::read(&serving, &[kthenas("6c9f7b", 3, &data)]).target(&serving).expect("a target");
        assert_eq!(target.revision.name, "6c9f7b");
        assert_eq!(target.create, None);
        assert_eq!(target.renumber, None);
    }
}

#[test]
fn an_unreadable_revision_is_kept_apart_with_its_reason() {
    let serving = serving("v1");
    let history =
        History::read(&serving, &[kthenas("x", 4, &json!({"data": [{"name": 7}]})), kthenas("y", 2, &json!(null))]);
    assert_eq!(history.entries(), []);
    assert_eq!(history.unreadable.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    assert!(history.unreadable[0].reason.contains("expected a string"), "{}", history.unreadable[0].reason);
    let target = history.target(&serving).expect("a target");
    assert_eq!(target.revision.number, 5, "its number is not given again");
}

#[test]
fn a_name_that_something_else_has_is_not_used() {
    let serving = serving("v1");
    let name = History::read(&serving, &[]).target(&serving).expect("a target").revision.name;
    let other = kthenas(&name, 1, &json!({"data": [{"name": "other", "workerReplicas": 0, "entryTemplate": {}}]}));
    let broken = kthenas(&name, 1, &json!("nonsense"));
    for taken in [other, broken] {
        let target = History::read(&serving, &[taken]).target(&serving).expect("a target");
        assert_ne!(target.revision.name, name);
        assert!(target.create.is_some());
    }
}

#[test]
fn a_template_of_the_past_becomes_the_newest_again() {
    let first = created(&serving("v1"), &[]);
    let second = created(&serving("v2"), std::slice::from_ref(&first));
    let name = first.metadata.name.clone().expect("a name");
    let target = History::read(&serving("v1"), &[second, first]).target(&serving("v1")).expect("a target");
    assert_eq!(target.revision.number, 3);
    assert_eq!(target.renumber, Some((name.clone(), format!("uid-of-{name}"), 3)));
    assert_eq!(target.create, None);
}

#[test]
fn a_rollback_serves_the_roles_of_then_with_the_counts_of_now() {
    let first = created(&serving("v1"), &[]);
    let second = created(&serving("v2"), std::slice::from_ref(&first));
    let revisions = [first.clone(), second];
    let object = first.metadata.name.clone().expect("a name");
    let by_field = |to: &Value| {
        with(
            serving("v2"),
            json!({"spec": {"rolloutStrategy": {"type": "ServingGroupRollingUpdate", "rollbackTo": to}}}),
        )
    };
    let by_annotation =
        with(serving("v2"), json!({"metadata": {"annotations": {"modelserving.volcano.sh/rollback-to": "1"}}}));
    let label = object.strip_prefix("llm-").expect("its name").to_owned();
    for mut serving in
        [by_field(&json!(1)), by_field(&json!("1")), by_field(&json!(label)), by_field(&json!(object)), by_annotation]
    {
        serving.spec.template.roles[0].replicas = Some(6);
        let target = History::read(&serving, &revisions).target(&serving).expect("a target");
        assert_eq!(target.revision.name, label);
        assert_eq!((target.create, target.renumber), (None, None), "its number must stay what the field says");
        let roles = serde_json::to_value(&target.revision.roles).expect("JSON");
        assert_eq!(roles[0]["entryTemplate"]["spec"]["containers"][0]["image"], "v1");
        assert_eq!(roles[0]["replicas"], 6);
    }
    let both =
        with(by_field(&json!(2)), json!({"metadata": {"annotations": {"modelserving.volcano.sh/rollback-to": "1"}}}));
    let target = History::read(&both, &revisions).target(&both).expect("a target");
    assert_eq!(target.revision.number, 2, "the field wins");
}

#[test]
fn a_rollback_to_nowhere_says_what_there_is() {
    let first = created(&serving("v1"), &[]);
    let asking = with(
        serving("v1"),
        json!({"spec": {"rolloutStrategy": {"type": "ServingGroupRollingUpdate", "rollbackTo": 7}}}),
    );
    let error =
        History::read(&asking, std::slice::from_ref(&first)).target(&asking).expect_err("there is no 7").to_string();
    let name = History::read(&asking, &[first]).entries()[0].revision.name.clone();
    assert_eq!(
        error,
        format!(
            "spec.rolloutStrategy.rollbackTo asks for revision 7, which does not exist; there is only 1 ({name}): name \
             one of these, or remove spec.rolloutStrategy.rollbackTo"
        )
    );
}

#[test]
fn the_oldest_unused_revisions_go_beyond_the_limit() {
    let mut revisions = Vec::new();
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        let next = created(&serving(image), &revisions);
        revisions.push(next);
    }
    revisions.reverse();
    let history = History::read(&serving("v5"), &revisions);
    let name = |number: usize| history.entries()[number - 1].revision.name.as_str();
    let gone = |in_use: &[&str], limit| {
        let in_use: BTreeSet<&str> = in_use.iter().copied().collect();
        let deletions = history.surplus(&in_use, limit);
        assert!(deletions.iter().all(|one| one.uid == format!("uid-of-{}", one.name)));
        deletions.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    let object = |number: usize| history.entries()[number - 1].object.clone();
    assert_eq!(gone(&[], 10), Vec::<String>::new());
    assert_eq!(gone(&[], 2), [object(1), object(2)]);
    assert_eq!(gone(&[name(1)], 2), [object(2)], "in use, so it does not count");
    assert_eq!(gone(&[], 0), [object(1), object(2), object(3), object(4)], "the target stays");
}
