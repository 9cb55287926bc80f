mod gang;
mod health;

use serde_json::{Value, json};

use super::*;

/// prefill: 2 × (1 + 3), decode: 1 × (1 + 2), with requests of one round number each.
fn serving() -> Value {
    let template = |cpu: &str, memory: &str| json!({"spec": {"containers": [{"name": "engine", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
    json!({
        "metadata": {"name": "llm", "namespace": "serve", "uid": "u-1"},
        "spec": {"template": {"roles": [
            {"name": "prefill", "replicas": 2, "entryTemplate": template("1", "2Gi"), "workerReplicas": 3, "workerTemplate": template("2", "4Gi")},
            {"name": "decode", "entryTemplate": template("1", "1Gi"), "workerReplicas": 2, "workerTemplate": template("1", "2Gi")},
        ]}},
    })
}

fn read(serving: &Value) -> ModelServing {
    serde_json::from_value(serving.clone()).expect("a ModelServing")
}

fn pod_of(serving: &Value, gang: bool, number: u32) -> Value {
    let serving = read(serving);
    let chain = Chain::default();
    let build = Build { serving: &serving, revision: "r1", gang, plugins: &chain };
    let pod = pod(&build, "llm-0", &serving.spec.template.roles[0], 1, number).expect("no plugin, no error");
    serde_json::to_value(pod).expect("JSON")
}

fn service_of(serving: &Value) -> Option<Service> {
    let serving = read(serving);
    let chain = Chain::default();
    let build = Build { serving: &serving, revision: "r1", gang: true, plugins: &chain };
    headless_service(&build, "llm-0", &serving.spec.template.roles[0], 1)
}

#[test]
fn a_worker_knows_its_place() {
    let mut serving = serving();
    serving["spec"]["template"]["roles"][0]["workerTemplate"]["metadata"] =
        json!({"labels": {"team": "a"}, "annotations": {"note": "kept"}});
    let pod = pod_of(&serving, true, 2);
    let hash = crate::revision::role_template_hash(&read(&serving).spec.template.roles[0]);
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "llm-0-prefill-1-2",
                "namespace": "serve",
                "labels": {
                    "team": "a",
                    "modelserving.volcano.sh/name": "llm",
                    "modelserving.volcano.sh/group-name": "llm-0",
                    "modelserving.volcano.sh/role": "prefill",
                    "modelserving.volcano.sh/role-id": "prefill-1",
                    "modelserving.volcano.sh/revision": "r1",
                    "modelserving.volcano.sh/role-template-hash": hash,
                },
                "annotations": {
                    "note": "kept",
                    "scheduling.k8s.io/group-name": "llm-0",
                    "volcano.sh/task-spec": "prefill-1",
                },
                "ownerReferences": [{
                    "apiVersion": "workload.serving.volcano.sh/v1alpha1",
                    "kind": "ModelServing",
                    "name": "llm",
                    "uid": "u-1",
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": {
                "schedulerName": "volcano",
                "containers": [{
                    "name": "engine",
                    "resources": {"requests": {"cpu": "2", "memory": "4Gi"}},
                    "env": [
                        {"name": "GROUP_SIZE", "value": "4"},
                        {"name": "ENTRY_ADDRESS", "value": "llm-0-prefill-1-0.serve"},
                        {"name": "WORKER_INDEX", "value": "2"},
                    ],
                }],
            },
        })
    );
}

#[test]
fn the_entry_pod_is_marked_and_has_its_own_template() {
    let pod = pod_of(&serving(), false, 0);
    assert_eq!(pod["metadata"]["name"], "llm-0-prefill-1-0");
    assert_eq!(pod["metadata"]["labels"]["modelserving.volcano.sh/entry"], "true");
    assert_eq!(pod["metadata"]["annotations"], Value::Null, "no gang, no annotations");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
    assert_eq!(pod["spec"]["containers"][0]["env"][2], json!({"name": "WORKER_INDEX", "value": "0"}));
}

#[test]
fn the_users_variables_of_these_names_give_way_in_every_container() {
    let mut serving = serving();
    let spec = &mut serving["spec"]["template"]["roles"][0]["entryTemplate"]["spec"];
    spec["containers"][0]["env"] = json!([{"name": "WORKER_INDEX", "value": "7"}, {"name": "MINE", "value": "x"}]);
    spec["initContainers"] = json!([{"name": "wait", "env": [{"name": "GROUP_SIZE", "value": "7"}]}]);
    let pod = pod_of(&serving, false, 0);
    let names = |container: &Value| {
        let env = container["env"].as_array().expect("a list").clone();
        env.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&pod["spec"]["containers"][0]), ["MINE", "GROUP_SIZE", "ENTRY_ADDRESS", "WORKER_INDEX"]);
    assert_eq!(names(&pod["spec"]["initContainers"][0]), ["GROUP_SIZE", "ENTRY_ADDRESS", "WORKER_INDEX"]);
}

#[test]
fn a_template_cannot_break_the_selection() {
    let mut serving = serving();
    serving["spec"]["template"]["roles"][0]["workerTemplate"]["metadata"] =
        json!({"labels": {"modelserving.volcano.sh/entry": "true", "modelserving.volcano.sh/role": "mine"}});
    let labels = pod_of(&serving, false, 1)["metadata"]["labels"].clone();
    assert_eq!(labels["modelserving.volcano.sh/role"], "prefill");
    assert_eq!(labels["modelserving.volcano.sh/entry"], Value::Null);
}

#[test]
fn an_empty_scheduler_name_is_the_default() {
    let mut serving = serving();
    serving["spec"]["schedulerName"] = json!("");
    assert_eq!(pod_of(&serving, false, 0)["spec"]["schedulerName"], "volcano");
    serving["spec"]["schedulerName"] = json!("default-scheduler");
    assert_eq!(pod_of(&serving, false, 0)["spec"]["schedulerName"], "default-scheduler");
}

#[test]
fn duplicate_host_aliases_stay() {
    let mut serving = serving();
    let aliases = json!([{"ip": "10.0.0.1", "hostnames": ["a"]}, {"ip": "10.0.0.1", "hostnames": ["b"]}]);
    serving["spec"]["template"]["roles"][0]["entryTemplate"]["spec"]["hostAliases"] = aliases.clone();
    assert_eq!(pod_of(&serving, false, 0)["spec"]["hostAliases"], aliases);
}

#[test]
fn the_headless_service_leads_to_the_entry_pod_only() {
    let service = serde_json::to_value(service_of(&serving()).expect("it has workers")).expect("JSON");
    assert_eq!(service["metadata"]["name"], "llm-0-prefill-1-0");
    assert_eq!(service["metadata"]["labels"]["modelserving.volcano.sh/revision"], "r1");
    assert_eq!(service["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
    assert_eq!(
        service["spec"],
        json!({
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": {
                "modelserving.volcano.sh/group-name": "llm-0",
                "modelserving.volcano.sh/role": "prefill",
                "modelserving.volcano.sh/role-id": "prefill-1",
                "modelserving.volcano.sh/entry": "true",
            },
        })
    );
}

#[test]
fn a_service_exists_for_each_role_that_has_a_worker_template() {
    let mut serving = serving();
    serving["spec"]["template"]["roles"][0]["workerReplicas"] = json!(0);
    assert!(service_of(&serving).is_some());
    serving["spec"]["template"]["roles"][0]["workerTemplate"] = Value::Null;
    assert!(service_of(&serving).is_none());
}

#[test]
fn workers_without_a_template_are_none() {
    let mut serving = serving();
    serving["spec"]["template"]["roles"][0]["workerTemplate"] = Value::Null;
    assert_eq!(instance_size(&read(&serving).spec.template.roles[0]), 1);
}

#[test]
fn a_service_is_repaired_for_what_is_ours_alone() {
    let wanted = service_of(&serving()).expect("a service");
    let mut found = wanted.clone();
    found.metadata.labels.get_or_insert_default().insert("team".to_owned(), "a".to_owned());
    let spec = found.spec.get_or_insert_default();
    spec.session_affinity = Some("None".to_owned());
    spec.cluster_ips = Some(vec!["None".to_owned()]);
    assert_eq!(service_fingerprint(&wanted), service_fingerprint(&found));
    found.spec.get_or_insert_default().selector.get_or_insert_default().clear();
    assert_ne!(service_fingerprint(&wanted), service_fingerprint(&found));
    let mut found = wanted.clone();
    found.metadata.labels.get_or_insert_default().remove("modelserving.volcano.sh/role-id");
    assert_ne!(service_fingerprint(&wanted), service_fingerprint(&found));
    let facts = service_facts(&wanted);
    assert_eq!((facts.group.as_str(), facts.role_id.as_str(), facts.revision.as_str()), ("llm-0", "prefill-1", "r1"));
    assert_eq!(facts.fingerprint, service_fingerprint(&wanted));
}
