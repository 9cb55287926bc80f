use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_server::ModelServerStatus;
use k8s_openapi::api::core::v1::Service;

use super::*;
use crate::attachment::model_server::{Answer, Around, answer};

struct World {
    servers: Vec<Arc<ModelServer>>,
    pools: bool,
    pool: Option<InferencePool>,
    picker: Option<Service>,
    service: Option<Service>,
    pods: Vec<Arc<PodEndpoint>>,
}

/// As the API server has it.
fn picker(port: u16) -> Service {
    let port = json!({"name": "grpc", "port": port, "protocol": "TCP", "targetPort": "ext-proc", "nodePort": 30000});
    let spec = json!({"selector": {"app": "picker"}, "ports": [port, {"port": 9003}], "clusterIP": "10.0.0.1"});
    serde_json::from_value(json!({"metadata": {"name": "picker", "namespace": "serve"}, "spec": spec})).unwrap()
}

impl World {
    /// With a picker and nothing else.
    fn of(servers: &[ModelServer]) -> Self {
        let servers = servers.iter().cloned().map(Arc::new).collect();
        Self { servers, pools: true, pool: None, picker: Some(picker(9002)), service: None, pods: Vec::new() }
    }

    fn ask(&self, index: usize) -> Answer {
        let around = Around {
            settings: &settings(),
            servers: &self.servers,
            pools: self.pools,
            pool: self.pool.as_ref(),
            picker: self.picker.as_ref(),
            picker_slices: &[],
            service: self.service.as_ref(),
            slices: &[],
            pods: &self.pods,
        };
        answer(&self.servers[index], around, at(100))
    }

    fn status(&self, index: usize) -> ModelServerStatus {
        *self.ask(index).status.expect("a status")
    }
}

#[test]
fn a_server_becomes_a_pool_of_its_name_that_goes_with_it() {
    let world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    let pool = world.ask(0).apply.expect("a pool");
    assert_eq!(
        serde_json::to_value(&*pool).unwrap(),
        json!({
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {
                "name": "llm", "namespace": "serve",
                "ownerReferences": [{
                    "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
                    "name": "llm", "uid": "u-llm", "controller": true,
                }],
            },
            "spec": {
                "selector": {"matchLabels": {"app": "llm"}},
                "targetPorts": [{"number": 8000}],
                "appProtocol": "http",
                "endpointPickerRef": {
                    "group": "", "kind": "Service", "name": "llm-epp", "port": {"number": 9002},
                    "failureMode": "FailClose",
                },
            },
        })
    );
}

#[test]
fn what_is_as_it_should_be_is_not_written_again() {
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    world.pods = vec![pod(&json!({"app": "llm"}), true)];
    let first = world.ask(0);
    world.pool = first.apply.map(|pool| *pool);
    world.service = first.service.map(|service| *service);
    let mut servers = vec![(*world.servers[0]).clone()];
    servers[0].status = first.status.map(|status| *status);
    world.servers = servers.into_iter().map(Arc::new).collect();
    assert_eq!(world.ask(0), Answer::default());

    // A pod less is a count, for which nobody is woken; no pod is another condition, with a time of its own.
    world.pods = vec![pod(&json!({"app": "llm"}), true), pod(&json!({"app": "llm"}), false)];
    let counted = world.ask(0);
    assert!(!counted.urgent && counted.status.unwrap().endpoints == Some(2));
    world.pods.clear();
    let empty = world.ask(0);
    assert!(empty.urgent);
    assert_eq!(
        say(&empty.status.unwrap().conditions),
        [
            "Accepted=True/Accepted",
            "ResolvedRefs=True/ResolvedRefs",
            "EndpointsReady=False/NoEndpoints",
            "Ready=False/NoEndpoints",
            "Reconciling=True/NoEndpoints"
        ]
    );
}

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    let mut before = world.status(0);
    for condition in &mut before.conditions {
        condition.last_transition_time = Time(at(7));
    }
    let mut changed = (*world.servers[0]).clone();
    changed.status = Some(before);
    changed.metadata.generation = Some(2);
    world.servers = vec![Arc::new(changed)];
    world.pods = vec![pod(&json!({"app": "llm"}), true)];
    let after = world.status(0);
    let times: Vec<_> =
        after.conditions.iter().map(|it| (it.type_.as_str(), it.last_transition_time.0.as_second())).collect();
    assert_eq!(times, [("Accepted", 7), ("ResolvedRefs", 7), ("EndpointsReady", 100), ("Ready", 100)]);
}

#[test]
fn a_pool_of_pairs_selects_decode_pods_and_the_status_counts_both() {
    let mut pairs = server("llm", 1, &json!({"app": "llm"}));
    pairs.spec.workload_selector.pd_group = serde_json::from_value(json!({
        "groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"},
    }))
    .unwrap();
    let mut world = World::of(&[pairs]);
    let of = |role: &str, group: &str| json!({"app": "llm", "role": role, "group": group});
    world.pods = vec![
        pod(&of("decode", "a"), true),
        pod(&of("prefill", "a"), true),
        pod(&of("decode", "b"), true),
        pod(&of("prefill", "b"), false),
        pod(&of("router", "b"), true),
        pod(&json!({"app": "other", "role": "decode"}), true),
    ];
    let answer = world.ask(0);
    let selector = answer.apply.unwrap().spec.selector.match_labels;
    assert_eq!(serde_json::to_value(selector).unwrap(), json!({"app": "llm", "role": "decode"}));
    let status = answer.status.unwrap();
    assert_eq!((status.endpoints, status.ready_endpoints), (Some(2), Some(2)));
    assert_eq!(
        message(&status.conditions, "EndpointsReady"),
        "2 of 2 decode endpoints and 1 of 2 prefill pods are ready, in 1 groups both"
    );
}

#[test]
fn ranks_are_ports_and_annotations_go_before_flags() {
    let mut ranks = server("llm", 1, &json!({"app": "llm"}));
    let annotate = |server: &mut ModelServer, key: &str, value: &str| {
        server.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    };
    annotate(&mut ranks, "networking.serving.volcano.sh/data-parallel-ranks", "3");
    annotate(&mut ranks, "networking.serving.volcano.sh/failure-mode", "FailOpen");
    let mut world = World::of(&[ranks.clone()]);
    world.pods = vec![pod(&json!({"app": "llm"}), true)];
    let answer = world.ask(0);
    let spec = serde_json::to_value(answer.apply.unwrap().spec).unwrap();
    assert_eq!(spec["targetPorts"], json!([{"number": 8000}, {"number": 8001}, {"number": 8002}]));
    assert_eq!(spec["endpointPickerRef"]["failureMode"], "FailOpen");
    assert_eq!(answer.status.unwrap().ready_endpoints, Some(3));

    annotate(&mut ranks, "networking.serving.volcano.sh/data-parallel-ranks", "9");
    let status = World::of(&[ranks]).status(0);
    assert_eq!(say(&status.conditions)[0], "Accepted=False/Invalid");
    assert!(message(&status.conditions, "Accepted").contains("from 1 to 8"));
}

#[test]
fn what_cannot_be_a_pool_says_why_and_leaves_the_pool_there_is() {
    let good = server("llm", 1, &json!({"app": "llm"}));
    let pool = World::of(std::slice::from_ref(&good)).ask(0).apply.map(|pool| *pool);
    let (mut no_port, mut no_labels, mut contradiction) = (good.clone(), good.clone(), good);
    no_port.spec.workload_port = None;
    no_labels.spec.workload_selector.match_labels.clear();
    contradiction.spec.workload_selector.pd_group =
        serde_json::from_value(json!({"groupKey": "g", "prefillLabels": {"r": "p"}, "decodeLabels": {"app": "b"}}))
            .unwrap();
    for (bad, word) in
        [(no_port, "workloadPort"), (no_labels, "workloadSelector.matchLabels"), (contradiction, "the label app")]
    {
        let mut world = World::of(&[bad]);
        world.pool.clone_from(&pool);
        let answer = world.ask(0);
        assert!(answer.apply.is_none() && answer.delete.is_none());
        let status = answer.status.unwrap();
        assert!(message(&status.conditions, "Stalled").contains(word), "{status:?}");
        assert_eq!(answer.events.len(), 1);
    }
}

#[test]
fn somebody_elses_pool_is_a_condition_and_never_an_overwrite() {
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    let mut foreign = *world.ask(0).apply.unwrap();
    foreign.metadata.owner_references = None;
    foreign.metadata.uid = Some("u-theirs".to_owned());
    world.pool = Some(foreign.clone());
    let answer = world.ask(0);
    assert!(answer.apply.is_none() && answer.delete.is_none());
    assert_eq!(say(&answer.status.unwrap().conditions)[0], "Accepted=False/NameClash");
    // Not even one that a ModelServer of this name had before.
    let mut predecessors = *World::of(&[server("llm", 1, &json!({"app": "llm"}))]).ask(0).apply.unwrap();
    predecessors.metadata.owner_references.as_mut().unwrap()[0].uid = "u-before".to_owned();
    world.pool = Some(predecessors);
    assert!(world.ask(0).apply.is_none());
}

#[test]
fn of_two_servers_with_the_same_pods_the_older_has_the_pool() {
    let (labels, wider) = (json!({"app": "llm"}), json!({"app": "llm", "tier": "a"}));
    let mut world = World::of(&[
        server("young", 2, &labels),
        server("old", 1, &labels),
        server("part", 1, &wider),
        server("beside", 1, &json!({"app": "b"})),
    ]);
    world.pods = vec![pod(&wider, true)];
    // It had a pool before the older one came to select the same pods.
    world.pool = World::of(&[server("young", 2, &labels)]).ask(0).apply.map(|pool| *pool);
    world.pool.as_mut().unwrap().metadata.uid = Some("u-pool".to_owned());
    let young = world.ask(0);
    assert_eq!((young.apply, young.delete.as_deref()), (None, Some("u-pool")));
    let status = young.status.unwrap();
    assert_eq!(say(&status.conditions)[0], "Accepted=True/SharesPool");
    assert!(message(&status.conditions, "Accepted").contains("older ModelServer old"));
    world.pool = None;
    assert!(world.ask(1).apply.is_some() && world.ask(2).apply.is_some());
    assert!(message(&world.status(2).conditions, "EndpointsReady").ends_with("other ModelServers too: old, young"));
    assert!(!message(&world.status(3).conditions, "EndpointsReady").contains("too"));
}

#[test]
fn what_is_missing_is_named() {
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    world.picker = None;
    assert!(message(&world.status(0).conditions, "ResolvedRefs").contains("no Service picker"));
    world.picker = Some(picker(80));
    assert!(message(&world.status(0).conditions, "ResolvedRefs").contains("no port 9002"));
    assert!(world.ask(0).apply.is_some(), "the pool waits for the picker");
    world.pools = false;
    let answer = world.ask(0);
    assert!(answer.apply.is_none());
    assert_eq!(say(&answer.status.unwrap().conditions)[0], "Accepted=False/KindMissing");
}

#[test]
fn each_pool_has_a_service_of_its_own_that_leads_to_the_pickers_pods() {
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"})), server("old", 0, &json!({"app": "b"}))]);
    let service = world.ask(0).service.expect("a Service");
    assert_eq!(
        serde_json::to_value(&*service).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "llm-epp", "namespace": "serve",
                "labels": {
                    "endpointslice.kubernetes.io/skip-mirror": "true",
                    "networking.serving.volcano.sh/picker-service": "picker",
                },
                "ownerReferences": [{
                    "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
                    "name": "llm", "uid": "u-llm", "controller": true,
                }],
            },
            "spec": {
                "selector": {"app": "picker"},
                "ports": [{"name": "grpc", "port": 9002, "protocol": "TCP", "targetPort": "ext-proc"}],
            },
        })
    );
    // What the API server adds is left, what somebody changed is set right.
    let mut found = *service;
    found.metadata.uid = Some("u-service".to_owned());
    found.spec.as_mut().unwrap().cluster_ip = Some("10.0.0.2".to_owned());
    world.service = Some(found.clone());
    assert_eq!(world.ask(0).service, None);
    found.spec.as_mut().unwrap().selector = Some([("app".to_owned(), "other".to_owned())].into());
    world.service = Some(found);
    assert!(world.ask(0).service.is_some());

    // It goes with the pool.
    world.servers =
        World::of(&[server("llm", 1, &json!({"app": "b"})), server("old", 0, &json!({"app": "b"}))]).servers;
    let answer = world.ask(0);
    assert_eq!((answer.service, answer.retire), (None, Some(("llm-epp".to_owned(), "u-service".to_owned()))));
}

#[test]
fn where_a_pool_can_have_no_service_of_its_own_the_pickers_is_named_and_the_status_says_so() {
    let named = |world: &World| {
        let answer = world.ask(0);
        let message = message(&answer.status.unwrap().conditions, "ResolvedRefs").to_owned();
        (answer.service.is_some(), answer.apply.unwrap().spec.endpoint_picker_ref.unwrap().name, message)
    };
    for name in ["llama-3.1", "3b", &"a".repeat(60)] {
        let (made, service, message) = named(&World::of(&[server(name, 1, &json!({"app": "llm"}))]));
        assert_eq!((made, service.as_str()), (false, "picker"), "{name}");
        assert!(message.contains("it can serve one such pool"), "{message}");
    }
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    world.picker.as_mut().unwrap().spec.as_mut().unwrap().selector = None;
    assert_eq!(named(&world).1, "picker");
    // Whoever says where it leads to may say so for the pool's.
    world.service = Some(picker(9002));
    let (made, service, message) = named(&world);
    assert_eq!((made, service.as_str()), (false, "llm-epp"));
    assert!(message.contains("which somebody else made"), "{message}");
}

#[test]
fn somebody_elses_service_of_that_name_is_used_and_never_written() {
    let mut world = World::of(&[server("llm", 1, &json!({"app": "llm"}))]);
    world.service = Some(picker(9002));
    let answer = world.ask(0);
    assert_eq!((answer.service, answer.retire), (None, None));
    assert!(message(&answer.status.unwrap().conditions, "ResolvedRefs").contains("llm-epp, which somebody else made"));
    world.service = Some(picker(80));
    let conditions = world.status(0).conditions;
    assert_eq!(say(&conditions)[1], "ResolvedRefs=False/PickerNotFound");
    assert!(message(&conditions, "ResolvedRefs").contains("llm-epp of the picker has no port 9002"));
}
