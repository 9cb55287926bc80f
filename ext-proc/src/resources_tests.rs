//! What objects declare: tests of [`super::declare`].

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, ip: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": "llama"}},
        "status": {"podIP": ip},
    });
    change(&mut value);
    object(value)
}

fn pool(ports: &[u16]) -> Arc<InferencePool> {
    let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
    object(json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": "llama", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "llama"}}, "targetPorts": ports,
                 "endpointPickerRef": {"name": "picker", "port": {"number": 9002}}},
    }))
}

fn server(name: &str, engine: &str, port: u16) -> Arc<server::ModelServer> {
    object(json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"inferenceEngine": engine, "workloadSelector": {"matchLabels": {"app": "llama"}},
                 "workloadPort": {"port": port}, "model": "org/llama"},
    }))
}

fn route(rule: &Value) -> Arc<route::ModelRoute> {
    object(json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
        "metadata": {"name": "r", "namespace": "ns", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {"modelName": "llama", "rules": [rule]},
    }))
}

fn endpoints(pods: Vec<Arc<Pod>>, ports: &[u16]) -> Vec<(String, bool)> {
    let declared = declare(&Resources { pods, inference_pools: vec![pool(ports)], ..Resources::default() }).unwrap();
    declared.pools[0].endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.ready)).collect()
}

#[test]
fn every_selected_pod_and_target_port_is_an_endpoint() {
    let pods = vec![
        pod("one", "10.0.0.1", |_| {}),
        pod("six", "fd00::6", |_| {}),
        pod("other-label", "10.0.0.2", |pod| pod["metadata"]["labels"]["app"] = "other".into()),
        pod("other-namespace", "10.0.0.3", |pod| pod["metadata"]["namespace"] = "elsewhere".into()),
        pod("no-address", "", |_| {}),
        pod("ended", "10.0.0.4", |pod| pod["status"]["phase"] = "Succeeded".into()),
    ];
    let expected = ["10.0.0.1:8000", "10.0.0.1:8001", "[fd00::6]:8000", "[fd00::6]:8001"];
    assert_eq!(endpoints(pods, &[8001, 8000]), expected.map(|address| (address.to_owned(), true)));
}

#[test]
fn a_pod_is_ready_when_nothing_says_otherwise() {
    let ready = |change: fn(&mut Value)| endpoints(vec![pod("a", "10.0.0.1", change)], &[8000])[0].1;
    assert!(ready(|_| {}));
    assert!(ready(|pod| pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}])));
    assert!(!ready(|pod| pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}])));
    assert!(!ready(|pod| pod["status"]["conditions"] = json!([{"type": "Initialized", "status": "True"}])));
    assert!(!ready(|pod| pod["status"]["phase"] = "Pending".into()));
    assert!(!ready(|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()));
}

#[test]
fn a_ready_pod_wins_an_address_that_another_still_shows() {
    let leaving = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let there = || pod("new", "10.0.0.1", |_| {});
    assert_eq!(endpoints(vec![pod("old", "10.0.0.1", leaving), there()], &[80]), [("10.0.0.1:80".to_owned(), true)]);
    assert_eq!(endpoints(vec![there(), pod("old", "10.0.0.1", leaving)], &[80]), [("10.0.0.1:80".to_owned(), true)]);
}

#[test]
fn the_pool_keeps_its_picker_and_the_endpoint_its_engine() {
    let declared = declare(&Resources {
        pods: vec![pod("a", "10.0.0.1", |_| {})],
        inference_pools: vec![pool(&[8000, 30000])],
        model_servers: vec![server("sglang", "SGLang", 30000), server("a-vllm", "vLLM", 8000)],
        model_routes: Vec::new(),
    })
    .unwrap();
    assert_eq!(declared.pools[0].picker, Some(("picker".into(), Some(9002))));
    let engines: Vec<_> = declared.pools[0].endpoints.iter().map(|endpoint| endpoint.engine).collect();
    assert_eq!(engines, [EngineKind::Vllm, EngineKind::Sglang]);
    assert_eq!(&*declared.model_servers[0].name, "ns/a-vllm");
}

#[test]
fn a_pool_without_ports_is_refused() {
    let error = declare(&Resources { inference_pools: vec![pool(&[])], ..Resources::default() }).unwrap_err();
    assert_eq!((error.kind, error.field.as_str()), ("InferencePool", "spec.targetPorts"));
    let error = declare(&Resources { inference_pools: vec![pool(&[1, 1])], ..Resources::default() }).unwrap_err();
    assert_eq!(error.field, "spec.targetPorts");
}

fn declared_route(rule: &Value) -> Result<ModelRoute, InvalidResource> {
    let resources = Resources { model_routes: vec![route(rule)], ..Resources::default() };
    declare(&resources).map(|mut declared| declared.model_routes.remove(0))
}

#[test]
fn exact_goes_before_prefix_and_prefix_before_regex() {
    let uri = |condition: Value| {
        let route = declared_route(&json!({"modelMatch": {"uri": condition}, "targetModels": []})).unwrap();
        format!("{:?}", route.rules[0].uri.as_ref().unwrap())
    };
    assert_eq!(uri(json!({"exact": "a", "prefix": "b", "regex": "c"})), r#"Exact("a")"#);
    assert_eq!(uri(json!({"prefix": "b", "regex": "c"})), r#"Prefix("b")"#);
    assert!(uri(json!({"regex": "c"})).starts_with("Regex"));
    assert_eq!(uri(json!({})), "Any");
}

#[test]
fn a_bad_regex_names_its_field() {
    let error = declared_route(&json!({"modelMatch": {"headers": {"X-Tier": {"regex": "("}}}, "targetModels": []}));
    let error = error.unwrap_err();
    assert_eq!(error.name, "ns/r");
    assert_eq!(error.field, "spec.rules[0].modelMatch.headers.X-Tier.regex");
}

#[test]
fn weights_default_to_equal_or_to_the_clusters_hundred() {
    let weights = |targets: Value| {
        let route = declared_route(&json!({"targetModels": targets})).unwrap();
        assert_eq!(route.created, Some(60));
        route.rules[0].targets.iter().map(|target| (target.model_server.to_string(), target.weight)).collect::<Vec<_>>()
    };
    let named = |name: &str, weight| (name.to_owned(), weight);
    assert_eq!(
        weights(json!([{"modelServerName": "a"}, {"modelServerName": "b"}])),
        [named("ns/a", 1), named("ns/b", 1)]
    );
    assert_eq!(
        weights(json!([{"modelServerName": "a", "weight": 0}, {"modelServerName": "b"}])),
        [named("ns/a", 0), named("ns/b", 100)]
    );
    let error = declared_route(&json!({"targetModels": [{"modelServerName": "a", "weight": 101}]})).unwrap_err();
    assert_eq!(error.field, "spec.rules[0].targetModels[0].weight");
}

fn pd_server(change: impl FnOnce(&mut Value)) -> Arc<server::ModelServer> {
    let mut value = serde_json::to_value(server("pd", "vLLM", 8000)).unwrap();
    value["spec"]["workloadSelector"]["pdGroup"] =
        json!({"groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"}});
    change(&mut value["spec"]);
    object(value)
}

fn declared_server(change: impl FnOnce(&mut Value)) -> Result<ModelServer, InvalidResource> {
    let resources = Resources { model_servers: vec![pd_server(change)], ..Resources::default() };
    declare(&resources).map(|mut declared| declared.model_servers.remove(0))
}

#[test]
fn a_server_with_data_parallel_ranks_has_every_port_of_its_pool() {
    let port = |ranks: &str| {
        let mut ranked = (*server("dp", "vLLM", 8000)).clone();
        let annotation = ("networking.serving.volcano.sh/data-parallel-ranks".to_owned(), ranks.to_owned());
        ranked.metadata.annotations = Some([annotation].into());
        declare_server(&ranked).unwrap().port
    };
    assert_eq!([port("1"), port("2"), port("many")], [Some(8000), None, Some(8000)]);
}

#[test]
fn a_pd_group_is_declared_and_one_that_selects_nobody_is_refused() {
    let group = declared_server(|_| {}).unwrap().pd_group.unwrap();
    assert_eq!((group.group_key.as_deref(), &group.decode_labels["role"][..]), (Some("group"), "decode"));
    let group = declared_server(|spec| spec["workloadSelector"]["pdGroup"]["groupKey"] = "".into()).unwrap();
    assert_eq!(group.pd_group.unwrap().group_key, None, "all pods are one group");
    for labels in ["prefillLabels", "decodeLabels"] {
        let error = declared_server(|spec| spec["workloadSelector"]["pdGroup"][labels] = json!({})).unwrap_err();
        assert_eq!(error.field, format!("spec.workloadSelector.pdGroup.{labels}"));
        assert!(error.reason.contains("must name at least one label"), "{error}");
    }
}

#[test]
fn the_connector_is_the_one_named_and_else_the_engines() {
    let connector = |engine: &str, connector: Value| {
        declared_server(|spec| (spec["inferenceEngine"], spec["kvConnector"]) = (engine.into(), connector))
            .unwrap()
            .connector
    };
    assert_eq!(connector("vLLM", Value::Null), KvConnector::Http);
    assert_eq!(connector("SGLang", Value::Null), KvConnector::Sglang);
    assert_eq!(connector("SGLang", json!({"type": "mooncake"})), KvConnector::Mooncake);
    assert_eq!(connector("vLLM", json!({"type": "nixl"})), KvConnector::Nixl);
    assert_eq!(connector("vLLM", json!({"type": "lmcache"})), KvConnector::Lmcache);
    assert_eq!(connector("SGLang", json!({})), KvConnector::Http, "the default of a connector that is there");
}

#[test]
fn prefill_pods_are_workers_though_no_pool_selects_them() {
    let worker = |name: &str, ip: &str, role: &str| {
        pod(name, ip, |pod| pod["metadata"]["labels"] = json!({"app": "llama", "role": role, "group": "a"}))
    };
    let workers = |change: fn(&mut Value)| {
        let mut pool = pool(&[8000, 8001]);
        Arc::make_mut(&mut pool).spec.selector.match_labels.insert("role".to_owned(), "decode".to_owned());
        let pods = vec![
            worker("p", "10.0.0.2", "prefill"),
            worker("d", "10.0.0.1", "decode"),
            pod("elsewhere", "10.0.0.3", |pod| {
                pod["metadata"]["namespace"] = "elsewhere".into();
                pod["metadata"]["labels"] = json!({"app": "llama", "role": "prefill", "group": "a"});
            }),
            pod("no-group", "10.0.0.4", |pod| pod["metadata"]["labels"] = json!({"app": "llama", "role": "prefill"})),
        ];
        let (inference_pools, model_servers) = (vec![pool], vec![pd_server(change)]);
        let declared = declare(&Resources { pods, inference_pools, model_servers, ..Resources::default() }).unwrap();
        assert!(declared.pools[0].endpoints.iter().all(|endpoint| &*endpoint.name == "ns/d"));
        declared.workers.iter().map(|worker| (worker.address.to_string(), worker.engine)).collect::<Vec<_>>()
    };
    let at = |address: &str, engine| (address.to_owned(), engine);
    assert_eq!(workers(|_| {}), [at("10.0.0.2:8000", EngineKind::Vllm)]);
    let everywhere =
        |spec: &mut Value| (spec["workloadPort"], spec["inferenceEngine"]) = (Value::Null, "SGLang".into());
    let both = ["10.0.0.2:8000", "10.0.0.2:8001"].map(|address| at(address, EngineKind::Sglang));
    assert_eq!(workers(everywhere), both);
}

#[test]
fn an_object_that_says_what_cannot_be_does_not_hide_the_others() {
    let resources = Resources {
        pods: vec![pod("one", "10.0.0.1", |_| {})],
        inference_pools: vec![pool(&[]), pool(&[8000])],
        ..Resources::default()
    };
    let (declared, invalid) = declare_all(&resources);
    assert_eq!(declared.pools.len(), 1);
    assert_eq!(declared.pools[0].endpoints.len(), 1);
    assert_eq!(invalid.len(), 1);
    assert_eq!(invalid[0].field, "spec.targetPorts");
    assert_eq!(declare(&resources).unwrap_err(), invalid[0], "files are taken as a whole");
}
