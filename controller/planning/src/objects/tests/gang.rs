use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::*;

fn gang_of(serving: &Value, gangs: GangSupport) -> PodGroup {
    let serving = read(serving);
    let chain = Chain::default();
    let build = Build { serving: &serving, revision: "r1", gang: true, plugins: &chain };
    pod_group(&build, "llm-0", &serving.spec.template.roles, gangs)
}

fn spec_of(serving: &Value) -> Value {
    serde_json::to_value(gang_of(serving, GangSupport::SubGroups).spec).expect("JSON")
}

/// What a role with one entry pod of `spec` asks for.
fn asked(spec: &Value) -> Value {
    let mut serving = serving();
    serving["spec"]["template"]["roles"] =
        json!([{"name": "decode", "workerReplicas": 0, "entryTemplate": {"spec": spec}}]);
    spec_of(&serving)["minResources"].clone()
}

#[test]
fn a_gang_is_the_whole_group() {
    let group = gang_of(&serving(), GangSupport::Groups);
    assert_eq!(group.metadata.name.as_deref(), Some("llm-0"));
    let metadata = serde_json::to_value(&group.metadata).expect("JSON");
    assert_eq!(metadata["annotations"], json!({"scheduling.k8s.io/group-name": "llm-0"}));
    assert_eq!(metadata["labels"]["modelserving.volcano.sh/group-name"], "llm-0");
    assert_eq!(metadata["ownerReferences"][0]["blockOwnerDeletion"], true);
    assert_eq!(
        serde_json::to_value(&group.spec).expect("JSON"),
        json!({
            "minMember": 11,
            "minResources": {"cpu": "17", "memory": "33Gi"},
            "queue": "default",
            "priorityClassName": "",
        })
    );
}

#[test]
fn a_gang_policy_asks_for_fewer_instances() {
    let mut serving = serving();
    serving["spec"]["template"]["gangPolicy"] = json!({"minRoleReplicas": {"prefill": 1, "decode": 1}});
    let spec = spec_of(&serving);
    assert_eq!(spec["minMember"], 7);
    assert_eq!(spec["minResources"], json!({"cpu": "10", "memory": "19Gi"}));
    assert_eq!(spec["subGroupPolicy"][0]["minSubGroups"], 1);
    assert_eq!(spec["subGroupPolicy"][0]["subGroupSize"], 4);

    serving["spec"]["template"]["gangPolicy"] = json!({"minRoleReplicas": {"prefill": 9, "decode": 0}});
    let spec = spec_of(&serving);
    assert_eq!(spec["minMember"], 8, "no more than there are; decode is not part of it");
    assert_eq!(spec["subGroupPolicy"][1]["subGroupSize"], 3, "never 0, which Volcano refuses");
    assert_eq!(spec["subGroupPolicy"][1]["minSubGroups"], 0);
}

#[test]
fn role_instances_are_gangs_within_the_gang() {
    let mut serving = serving();
    serving["spec"]["template"]["networkTopology"] =
        json!({"groupPolicy": {"mode": "soft", "highestTierAllowed": 2}, "rolePolicy": {"highestTierAllowed": 1}});
    let spec = spec_of(&serving);
    assert_eq!(spec["networkTopology"], json!({"mode": "soft", "highestTierAllowed": 2}));
    assert_eq!(
        spec["subGroupPolicy"][0],
        json!({
            "name": "prefill",
            "labelSelector": {"matchLabels": {"modelserving.volcano.sh/name": "llm", "modelserving.volcano.sh/role": "prefill"}},
            "matchLabelKeys": ["modelserving.volcano.sh/role-id"],
            "subGroupSize": 4,
            "minSubGroups": 2,
            "networkTopology": {"highestTierAllowed": 1},
        })
    );
}

#[test]
fn queue_and_priority_class_are_the_users() {
    let mut serving = serving();
    serving["metadata"]["annotations"] = json!({"scheduling.volcano.sh/queue-name": "gold"});
    serving["spec"]["template"]["roles"][1]["entryTemplate"]["spec"]["priorityClassName"] = json!("high");
    let spec = spec_of(&serving);
    assert_eq!(spec["queue"], "gold");
    assert_eq!(spec["priorityClassName"], "high");
}

#[test]
fn a_limit_is_a_request_where_there_is_none() {
    let resources = json!({"limits": {"nvidia.com/gpu": "2", "cpu": "4"}, "requests": {"cpu": "500m"}});
    assert_eq!(
        asked(&json!({"containers": [{"name": "a", "resources": resources}]})),
        json!({"cpu": "500m", "nvidia.com/gpu": "2"})
    );
}

#[test]
fn the_greediest_moment_of_the_start_counts() {
    let container = |cpu: &str| json!({"name": "x", "resources": {"requests": {"cpu": cpu}}});
    let sidecar = |cpu: &str| json!({"name": "x", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
    let cpu = |spec: &Value| asked(spec)["cpu"].as_str().expect("cpu").to_owned();
    let running = json!([container("1"), container("2")]);
    assert_eq!(cpu(&json!({"containers": running, "initContainers": [container("2")]})), "3");
    assert_eq!(cpu(&json!({"containers": running, "initContainers": [container("5"), container("4")]})), "5");
    assert_eq!(cpu(&json!({"containers": running, "initContainers": [sidecar("1")]})), "4");
    assert_eq!(cpu(&json!({"containers": running, "initContainers": [sidecar("1"), container("5")]})), "6");
    assert_eq!(cpu(&json!({"containers": running, "initContainers": [container("5"), sidecar("1")]})), "5");
    assert_eq!(cpu(&json!({"containers": running, "overhead": {"cpu": "250m"}})), "3250m");
    assert_eq!(cpu(&json!({"containers": running, "resources": {"requests": {"cpu": "10"}}})), "10");
}

#[test]
fn a_group_without_roles_or_instances_asks_for_nothing() {
    let mut serving = serving();
    for role in [0, 1] {
        serving["spec"]["template"]["roles"][role]["replicas"] = json!(0);
    }
    let spec = spec_of(&serving);
    assert_eq!((&spec["minMember"], &spec["minResources"]), (&json!(0), &json!({})));
    serving["spec"]["template"]["roles"] = json!([]);
    let spec = spec_of(&serving);
    assert_eq!((&spec["minMember"], &spec["minResources"]), (&json!(0), &json!({})));
}

#[test]
fn a_gang_is_repaired_when_anything_differs_that_is_ours() {
    let mut serving = serving();
    serving["spec"]["template"]["networkTopology"] = json!({"groupPolicy": {}});
    let wanted = gang_of(&serving, GangSupport::SubGroups);
    let print = pod_group_fingerprint(&wanted);
    assert_eq!(pod_group_facts(&wanted).fingerprint, print);

    // As the API server and Volcano give it back.
    let mut found = wanted.clone();
    found.spec.priority_class_name = None;
    found.spec.network_topology = serde_json::from_value(json!({"mode": "hard"})).expect("a topology");
    found.spec.min_resources.get_or_insert_default().insert("cpu".to_owned(), Quantity("17000m".to_owned()));
    found.metadata.annotations.get_or_insert_default().insert("volcano.sh/x".to_owned(), "y".to_owned());
    assert_eq!(pod_group_fingerprint(&found), print);

    let changes: [fn(&mut PodGroup); 6] = [
        |found| found.spec.min_member = Some(5),
        |found| found.spec.queue = Some("gold".to_owned()),
        |found| found.spec.network_topology = None,
        |found| found.spec.sub_group_policy = None,
        |found| found.spec.min_resources = None,
        |found| found.metadata.labels = None,
    ];
    for change in changes {
        let mut found = wanted.clone();
        change(&mut found);
        assert_ne!(pod_group_fingerprint(&found), print);
    }
}

#[test]
fn a_tier_that_was_named_may_be_numbered_by_volcano_and_another_name_is_written() {
    let mut serving = serving();
    serving["spec"]["template"]["networkTopology"] =
        json!({"groupPolicy": {"highestTierName": "row"}, "rolePolicy": {"highestTierAllowed": 1}});
    let wanted = gang_of(&serving, GangSupport::SubGroups);
    let print = pod_group_fingerprint(&wanted);
    let mut found = wanted.clone();
    found.spec.network_topology = serde_json::from_value(json!({"mode": "hard", "highestTierAllowed": 2})).ok();
    assert_eq!(pod_group_fingerprint(&found), print);

    // What was asked for by number is not the scheduler's to write.
    let parts = found.spec.sub_group_policy.as_mut().expect("parts");
    parts[0].network_topology.as_mut().expect("a topology").highest_tier_allowed = Some(2);
    assert_ne!(pod_group_fingerprint(&found), print);

    serving["spec"]["template"]["networkTopology"]["groupPolicy"]["highestTierName"] = json!("rack");
    assert_ne!(pod_group_fingerprint(&gang_of(&serving, GangSupport::SubGroups)), print);
}

#[test]
fn an_entry_pod_that_workers_wait_for_is_bound_without_them() {
    let mut serving = serving();
    serving["metadata"]["annotations"] = json!({"modelserving.volcano.sh/startup-policy": "LeaderReady"});
    let spec = spec_of(&serving);
    assert_eq!(spec["minMember"], 3);
    assert_eq!(spec["subGroupPolicy"][0]["subGroupSize"], 1);
    assert_eq!(spec["minResources"]["cpu"], "17", "room for the workers is asked for at once");
}
