use k8s_openapi::api::core::v1::EnvVar;
use serde_json::json;

use super::*;
use crate::objects::{self, Build};

fn serving(spec: Value, owner: Option<Value>) -> ModelServing {
    let mut serving = json!({
        "metadata": {"name": "llm", "namespace": "serve", "uid": "u-1"},
        "spec": {
            "template": {"roles": [{
                "name": "decode",
                "entryTemplate": {"spec": {
                    "initContainers": [{"name": "fetch"}],
                    "containers": [{"name": "engine", "env": [{"name": "LWS_GROUP_SIZE", "value": "9"}, {"name": "MINE", "value": "$(LWS_LEADER_ADDRESS)"}]}],
                }},
                "workerReplicas": 2,
                "workerTemplate": {"spec": {"containers": [{"name": "engine"}]}},
            }]},
        },
    });
    serving["spec"]["plugins"] = spec;
    if let Some(owner) = owner {
        serving["metadata"]["ownerReferences"] = json!([owner]);
    }
    serde_json::from_value(serving).expect("a ModelServing")
}

fn pod(serving: &ModelServing, number: u32) -> Pod {
    let chain = Chain::new(&serving.spec.plugins).expect("the plugins exist");
    let build = Build { serving, revision: "r1", gang: false, plugins: &chain };
    objects::pod(&build, "llm-3", &serving.spec.template.roles[0], 0, number).expect("a pod")
}

fn environment(pod: &Pod) -> Vec<(&str, &str)> {
    let container = &pod.spec.as_ref().expect("a spec").containers[0];
    let variables = container.env.iter().flatten();
    variables.map(|EnvVar { name, value, .. }| (name.as_str(), value.as_deref().unwrap_or_default())).collect()
}

fn tweak(annotation: &str, scope: &Value) -> Value {
    json!({"name": "demo-pod-tweaks", "type": "BuiltIn", "config": {"annotations": {"step": annotation}}, "scope": scope})
}

fn step(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get("step").map(String::as_str)
}

#[test]
fn plugins_work_in_their_order() {
    let serving = serving(json!([tweak("one", &json!({})), tweak("two", &json!({}))]), None);
    assert_eq!(step(&pod(&serving, 0)), Some("two"));
}

#[test]
fn a_plugin_keeps_to_its_scope() {
    for (scope, entry, worker) in [
        (json!({}), true, true),
        (json!({"target": "All"}), true, true),
        (json!({"target": "Entry"}), true, false),
        (json!({"target": "Worker"}), false, true),
        (json!({"roles": ["prefill"]}), false, false),
        (json!({"roles": ["prefill", "decode"], "target": "Entry"}), true, false),
    ] {
        let serving = serving(json!([tweak("x", &scope)]), None);
        assert_eq!(step(&pod(&serving, 0)).is_some(), entry, "{scope}");
        assert_eq!(step(&pod(&serving, 2)).is_some(), worker, "{scope}");
    }
}

#[test]
fn demo_pod_tweaks_sets_class_annotations_and_environment() {
    let config = json!({"runtimeClassName": "nvidia", "annotations": {"a": "b"}, "env": [{"name": "X", "value": "y"}]});
    let serving = serving(json!([{"name": "demo-pod-tweaks", "type": "BuiltIn", "config": config}]), None);
    let pod = pod(&serving, 0);
    assert_eq!(environment(&pod).last(), Some(&("X", "y")));
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.runtime_class_name.as_deref(), Some("nvidia"));
    let init = &spec.init_containers.expect("init containers")[0];
    assert_eq!(init.env.iter().flatten().last().expect("its environment").name, "X");
    assert_eq!(pod.metadata.annotations.expect("annotations")["a"], "b");
}

#[test]
fn a_mistake_is_named_with_its_place_and_its_mending() {
    let serving = serving(
        json!([
            {"name": "demo-pod-tweak", "type": "BuiltIn"},
            {"name": "demo-pod-tweaks", "type": "BuiltIn", "config": {"annotation": {}}},
            {"name": "autoscale", "type": "BuiltIn"},
            {"name": "lws-standard-labels", "type": "BuiltIn", "config": {"x": 1}},
            {"name": "lws-standard-labels", "type": "BuiltIn", "config": {}},
        ]),
        None,
    );
    assert_eq!(
        validate(&serving.spec.plugins),
        [
            (0, "there is no plugin \"demo-pod-tweak\", did you mean \"demo-pod-tweaks\"?".to_owned()),
            (
                1,
                "config: unknown field `annotation`, expected one of `runtimeClassName`, `annotations`, `env`"
                    .to_owned()
            ),
            (
                2,
                "there is no plugin \"autoscale\"; there are demo-pod-tweaks, lws-environment, lws-exclusive-topology, lws-standard-labels"
                    .to_owned()
            ),
            (3, "config: it takes none; remove it".to_owned()),
        ]
    );
    let error = Chain::new(&serving.spec.plugins).expect_err("the first is wrong").to_string();
    assert_eq!(
        error,
        "plugin demo-pod-tweak: there is no plugin \"demo-pod-tweak\", did you mean \"demo-pod-tweaks\"?"
    );
}

fn owner(controller: bool) -> Value {
    json!({"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "set", "uid": "l-1", "controller": controller})
}

#[test]
fn pods_of_a_leader_worker_set_have_its_labels() {
    let serving = serving(json!([{"name": "lws-standard-labels", "type": "BuiltIn"}]), Some(owner(true)));
    for number in [0, 2] {
        let labels = pod(&serving, number).metadata.labels.expect("labels");
        let label = |name: &str| labels[&format!("leaderworkerset.sigs.k8s.io/{name}")].clone();
        assert_eq!(label("name"), "set");
        assert_eq!(label("group-index"), "3");
        assert_eq!(label("worker-index"), number.to_string());
        // printf 'set-3' | sha1sum
        assert_eq!(label("group-key"), "a77cf3e43e4a4b1a593bb83af8a6ebbdc97c7a26");
    }
}

#[test]
fn other_pods_have_none_of_them() {
    for owner in [None, Some(owner(false))] {
        let serving = serving(json!([{"name": "lws-standard-labels", "type": "BuiltIn"}]), owner);
        let labels = pod(&serving, 0).metadata.labels.expect("labels");
        assert!(labels.keys().all(|key| !key.starts_with("leaderworkerset")), "{labels:?}");
    }
}

#[test]
fn the_environment_of_a_leader_worker_set_comes_first() {
    let serving = serving(json!([{"name": "lws-environment", "type": "BuiltIn"}]), Some(owner(true)));
    let entry = pod(&serving, 0);
    assert_eq!(
        environment(&entry),
        [
            ("LWS_LEADER_ADDRESS", "llm-3-decode-0-0.serve"),
            ("LWS_GROUP_SIZE", "3"),
            ("LWS_WORKER_INDEX", "0"),
            ("MINE", "$(LWS_LEADER_ADDRESS)"),
            ("GROUP_SIZE", "3"),
            ("ENTRY_ADDRESS", "llm-3-decode-0-0.serve"),
            ("WORKER_INDEX", "0"),
        ]
    );
    let worker = pod(&serving, 2);
    assert_eq!(environment(&worker)[2], ("LWS_WORKER_INDEX", "2"));
}

#[test]
fn a_group_has_a_topology_domain_for_itself() {
    let exclusive = json!({"name": "lws-exclusive-topology", "type": "BuiltIn", "config": {"topologyKey": "rack"}});
    let labels = json!({"name": "lws-standard-labels", "type": "BuiltIn"});
    let serving_with = |plugins: Value| serving(plugins, Some(owner(true)));
    let key = "leaderworkerset.sigs.k8s.io/group-key";
    let group = "a77cf3e43e4a4b1a593bb83af8a6ebbdc97c7a26";
    for number in [0, 1] {
        let pod = pod(&serving_with(json!([labels, exclusive])), number);
        assert_eq!(
            json!(pod.spec.expect("a spec").affinity),
            json!({
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": "rack",
                    "labelSelector": {"matchExpressions": [{"key": key, "operator": "In", "values": [group]}]},
                }]},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": "rack",
                    "labelSelector": {"matchExpressions": [
                        {"key": key, "operator": "Exists"},
                        {"key": key, "operator": "NotIn", "values": [group]},
                    ]},
                }]},
            })
        );
    }
    let alone = serving_with(json!([exclusive]));
    let chain = Chain::new(&alone.spec.plugins).expect("the plugin exists");
    let build = Build { serving: &alone, revision: "r1", gang: false, plugins: &chain };
    let error = objects::pod(&build, "llm-3", &alone.spec.template.roles[0], 0, 0).expect_err("no labels");
    assert!(error.to_string().ends_with("list lws-standard-labels first"), "{error}");
    let unset = serving_with(json!([{"name": "lws-exclusive-topology", "type": "BuiltIn"}]));
    assert!(validate(&unset.spec.plugins)[0].1.contains("set topologyKey"));
}
