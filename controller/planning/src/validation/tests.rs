use controller_api::v1alpha1::model_serving::ModelServing;
use serde_json::{Value, json};

use super::{validate, warnings};

/// A ModelServing that can be served: prefill with two workers, decode without.
fn manifest() -> Value {
    let template = json!({"spec": {"containers": [{"name": "engine", "image": "registry/vllm:v1"}]}});
    json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "schedulerName": "volcano",
            "recoveryPolicy": "RoleRecreate",
            "template": {"roles": [
                {"name": "prefill", "replicas": 2, "entryTemplate": template, "workerReplicas": 2, "workerTemplate": template},
                {"name": "decode", "replicas": 1, "entryTemplate": template, "workerReplicas": 0}
            ]}
        }
    })
}

/// The manifest with values put at JSON pointers; null takes a field away.
fn with(changes: &[(&str, Value)]) -> ModelServing {
    let mut manifest = manifest();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut at = &mut manifest;
        for step in parent.split('/').skip(1) {
            at = match at {
                Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
                at => &mut at[step],
            };
        }
        if at.is_null() {
            *at = json!({});
        }
        match at {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            at => at[key] = value.clone(),
        }
    }
    serde_json::from_value(manifest).unwrap()
}

/// `field: message` of each error.
fn errors(changes: &[(&str, Value)]) -> Vec<String> {
    validate(&with(changes)).iter().map(ToString::to_string).collect()
}

const ENTRY: &str = "/spec/template/roles/0/entryTemplate";
const UPDATE: &str = "/spec/rolloutStrategy/rollingUpdateConfiguration";

#[test]
fn a_good_one_has_neither_errors_nor_warnings() {
    assert_eq!(errors(&[]), Vec::<String>::new());
    assert_eq!(warnings(&with(&[])), Vec::<String>::new());
}

#[test]
fn each_error_names_the_field_and_the_remedy() {
    let update = |value: Value| json!({"type": "ServingGroupRollingUpdate", "rollingUpdateConfiguration": value});
    let table: &[(&str, Value, &str, &str)] = &[
        ("/metadata/name", json!("LLM"), "metadata.name", "lowercase"),
        ("/metadata/name", json!("1llm"), "metadata.name", "must start with a lowercase letter"),
        ("/metadata/name", json!("l.m"), "metadata.name", "services are named after it"),
        ("/metadata/name", json!("l".repeat(50)), "metadata.name", "has 64 characters, and at most 63"),
        ("/spec/replicas", json!(-1), "spec.replicas", "non-negative"),
        ("/spec/revisionHistoryLimit", json!(-1), "spec.revisionHistoryLimit", "non-negative"),
        (
            "/spec/template/restartGracePeriodSeconds",
            json!(-1),
            "spec.template.restartGracePeriodSeconds",
            "0 rebuilds",
        ),
        ("/spec/plugins", json!([{"name": "demo-pod-tweak"}]), "spec.plugins[0]", "demo-pod-tweaks"),
        ("/spec/template/roles", json!([]), "spec.template.roles", "name at least one"),
        ("/spec/template/roles/1/name", json!("prefill"), "spec.template.roles[1].name", "must be unique"),
        ("/spec/template/roles/1/name", json!("Decode"), "spec.template.roles[1].name", "lowercase"),
        ("/spec/template/roles/1/name", json!("d".repeat(13)), "spec.template.roles[1].name", "1 to 12"),
        ("/spec/template/roles/1/replicas", json!(-1), "spec.template.roles[1].replicas", "non-negative"),
        ("/spec/template/roles/1/workerReplicas", json!(-1), "spec.template.roles[1].workerReplicas", "non-negative"),
        ("/spec/template/roles/1/workerReplicas", json!(1), "spec.template.roles[1].workerTemplate", "add it"),
        (
            "/spec/template/gangPolicy",
            json!({"minRoleReplicas": {"encode": 1}}),
            "spec.template.gangPolicy.minRoleReplicas[encode]",
            "use one of prefill, decode",
        ),
        (
            "/spec/template/gangPolicy",
            json!({"minRoleReplicas": {"prefill": 3}}),
            "spec.template.gangPolicy.minRoleReplicas[prefill]",
            "minRoleReplicas (3) for role prefill cannot exceed replicas (2)",
        ),
        (
            "/spec/template/gangPolicy",
            json!({"minRoleReplicas": {"prefill": -1}}),
            "spec.template.gangPolicy.minRoleReplicas[prefill]",
            "non-negative",
        ),
        (
            "/spec/rolloutStrategy",
            json!({"type": "RoleRollingUpdate", "rollingUpdateConfiguration": {"maxUnavailable": 1}}),
            "spec.rolloutStrategy.rollingUpdateConfiguration",
            "on the roles",
        ),
        ("/spec/rolloutStrategy", json!({"rollbackTo": 0}), "spec.rolloutStrategy.rollbackTo", "number or the name"),
        ("/spec/rolloutStrategy", json!({"rollbackTo": ""}), "spec.rolloutStrategy.rollbackTo", "remove it"),
        (
            "/spec/rolloutStrategy",
            update(json!({"maxUnavailable": -1})),
            "spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailable",
            "non-negative",
        ),
        (
            "/spec/rolloutStrategy",
            update(json!({"maxUnavailable": "101%"})),
            "spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailable",
            "0-100%",
        ),
        (
            "/spec/rolloutStrategy",
            update(json!({"maxUnavailable": ""})),
            "spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailable",
            "such as 25%",
        ),
        (
            "/spec/rolloutStrategy",
            update(json!({"maxUnavailable": "0%", "maxSurge": 0})),
            "spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailable",
            "raise one of them",
        ),
        (
            "/spec/rolloutStrategy",
            update(json!({"partition": "half"})),
            "spec.rolloutStrategy.rollingUpdateConfiguration.partition",
            "such as 25%",
        ),
        (
            "/spec/template/roles/0/maxUnavailable",
            json!(0),
            "spec.template.roles[0].maxUnavailable",
            "raise one of them",
        ),
    ];
    for (pointer, value, field, remedy) in table {
        let found = errors(&[(pointer, value.clone())]);
        let right = |error: &String| error.starts_with(&format!("{field}: ")) && error.contains(remedy);
        assert!(found.iter().any(right), "{pointer} = {value}: {found:?} names neither {field} nor {remedy:?}");
    }
}

#[test]
fn whole_groups_cannot_be_recreated_role_by_role() {
    let found = errors(&[
        ("/spec/recoveryPolicy", json!("ServingGroupRecreate")),
        ("/spec/rolloutStrategy", json!({"type": "RoleRollingUpdate"})),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("spec.rolloutStrategy.type: incompatible recoveryPolicy"), "{found:?}");
}

#[test]
fn a_template_that_cannot_become_a_pod_is_refused() {
    let table: &[(Value, &str)] = &[
        (json!({"spec": {"containers": []}}), "spec.template.roles[0].entryTemplate.spec.containers: "),
        (json!({}), "spec.template.roles[0].entryTemplate.spec.containers: "),
        (
            json!({"spec": {"containers": [{"name": "a", "image": " "}]}}),
            "spec.template.roles[0].entryTemplate.spec.containers[0].image: invalid container image reference: image \
             cannot be empty or whitespace only",
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "b", "image": "a\tb"}]}}),
            "spec.template.roles[0].entryTemplate.spec.initContainers[0].image: ",
        ),
        (
            json!({"metadata": {"labels": {"model": "org/name"}}, "spec": {"containers": [{"name": "a"}]}}),
            "spec.template.roles[0].entryTemplate.metadata.labels[model]: ",
        ),
    ];
    for (template, expected) in table {
        let found = errors(&[(ENTRY, template.clone())]);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{template}: {found:?}");
    }
    // Nobody makes pods of a worker template without workers.
    let unused = [("/spec/template/roles/1/workerTemplate", json!({"spec": {"containers": []}}))];
    assert_eq!(errors(&unused), Vec::<String>::new());
}

#[test]
fn an_object_stays_editable_whatever_an_autoscaler_makes_of_its_replicas() {
    for replicas in [0, 1, 4, 1000] {
        let strategy = json!({"type": "ServingGroupRollingUpdate",
                              "rollingUpdateConfiguration": {"maxUnavailable": "10%", "partition": 7}});
        let found = errors(&[("/spec/replicas", json!(replicas)), ("/spec/rolloutStrategy", strategy)]);
        assert_eq!(found, Vec::<String>::new(), "with {replicas} replicas");
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let found = errors(&[("/spec/replicas", json!(-1)), ("/metadata/name", json!("LLM"))]);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let table: &[(&[(&str, Value)], &str)] = &[
        (&[("/spec/template/roles/1/maxSurge", json!(1))], "only with rolloutStrategy.type RoleRollingUpdate"),
        (
            &[("/spec/schedulerName", json!("default-scheduler")), ("/spec/template/gangPolicy", json!({}))],
            "have no effect with schedulerName \"default-scheduler\"",
        ),
        (
            &[("/spec/template/roles/0/entryTemplate/spec/schedulerName", json!("other"))],
            "\"other\" is replaced by spec.schedulerName \"volcano\"",
        ),
        (
            &[(
                "/spec/template/roles/0/entryTemplate/metadata",
                json!({"labels": {"modelserving.volcano.sh/group-name": "x", "model": ""}}),
            )],
            "labels[modelserving.volcano.sh/group-name]: is replaced by what the operator sets",
        ),
        (
            &[("/spec/plugins", json!([{"name": "demo-pod-tweaks", "scope": {"roles": ["encode"]}}]))],
            "there is no role \"encode\"",
        ),
        (
            &[("/spec/rolloutStrategy", json!({})), (UPDATE, json!({"maxUnavailable": "10%"}))],
            "less than one of 2 groups",
        ),
    ];
    for (changes, expected) in table {
        let serving = with(changes);
        assert_eq!(validate(&serving), Vec::new());
        let found = warnings(&serving);
        assert!(found.len() == 1 && found[0].contains(expected), "{changes:?}: {found:?}");
    }
}
