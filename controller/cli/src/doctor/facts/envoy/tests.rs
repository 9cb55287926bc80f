use serde_json::json;

use super::*;

const PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";

fn manager(more: Value) -> Value {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "http_filters": [{"name": "one", "disabled": true, "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
            "processing_mode": {"request_body_mode": "BUFFERED"},
        }}],
    });
    if let (Some(fields), Value::Object(more)) = (manager.as_object_mut(), more) {
        fields.extend(more);
    }
    json!({"name": "http", "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}]})
}

fn routes() -> Value {
    json!({"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"route": {"cluster": "off"}},
        {"name": "on", "route": {"cluster": "on", "timeout": "1.5s"}, "typed_per_filter_config": {
            "one": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}},
        }},
        {"name": "shares", "route": {"weighted_clusters": {"clusters": [
            {"name": "left", "weight": 1, "typed_per_filter_config": {"one": {"@type": PER_ROUTE, "overrides": {
                "processing_mode": {"request_body_mode": "FULL_DUPLEX_STREAMED"}, "failure_mode_allow": true,
            }}}},
            {"name": "right", "weight": 1},
        ]}}},
        {"name": "nowhere", "direct_response": {"status": 404}},
    ]}]})
}

/// Cluster, and the body mode of the filter that is on.
fn ways(envoy: &Envoy) -> Vec<(&str, Option<Body>)> {
    let way = |route: &'_ Route| route.filters.first().map(|filter| filter.request_body);
    envoy.routes.iter().map(|route| (route.cluster.as_str(), way(route))).collect()
}

const WAYS: [(&str, Option<Body>); 4] =
    [("off", None), ("on", Some(Body::Buffered)), ("left", Some(Body::FullDuplex)), ("right", None)];

#[test]
fn a_route_switches_a_filter_on_and_changes_it_and_so_does_a_share_of_it() {
    let bootstrap = json!({"static_resources": {"listeners": [manager(json!({"route_config": routes()}))]}});
    let envoy = Envoy::read(bootstrap).unwrap();
    assert_eq!(ways(&envoy), WAYS);
    let told: Vec<(&str, f64)> = envoy.routes.iter().map(|route| (route.name.as_str(), route.timeout)).collect();
    assert_eq!(told, [("all[0]", 15.0), ("on", 1.5), ("shares", 15.0), ("shares", 15.0)]);
    let fail_open: Vec<bool> = envoy.routes.iter().flat_map(|route| &route.filters).map(|it| it.fail_open).collect();
    assert_eq!(fail_open, [false, true]);
}

#[test]
fn a_config_dump_has_its_parts_in_other_places() {
    let listener = manager(json!({"rds": {"route_config_name": "routes"}}));
    let dump = json!({"configs": [
        {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"static_resources": {}}},
        {"dynamic_listeners": [{"name": "http", "active_state": {"listener": listener}}, {"name": "warming"}]},
        {"dynamic_route_configs": [{"route_config": routes()}]},
        {"static_clusters": [{"cluster": {"name": "picker"}}], "dynamic_active_clusters": [{"cluster": {"name": "on"}}]},
    ]});
    let envoy = Envoy::read(dump).unwrap();
    assert_eq!(ways(&envoy), WAYS);
    assert_eq!(envoy.clusters.keys().collect::<Vec<_>>(), ["on", "picker"]);
    assert!(envoy.elsewhere.is_empty());
}

#[test]
fn routes_that_come_from_elsewhere_are_missed() {
    let listener = manager(json!({"rds": {"route_config_name": "routes"}}));
    let envoy = Envoy::read(json!({"static_resources": {"listeners": [listener]}})).unwrap();
    assert_eq!((envoy.routes.len(), envoy.elsewhere.into_iter().collect::<Vec<_>>()), (0, vec!["routes".to_owned()]));
}

#[test]
fn fields_may_be_written_as_json_writes_them() {
    let camel = json!({"staticResources": {"clusters": [{
        "name": "picker", "commonLbConfig": {"healthyPanicThreshold": {}}, "http2ProtocolOptions": {},
        "loadAssignment": {"endpoints": [{"lbEndpoints": [
            {"endpoint": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": 9002}}}},
        ]}]},
    }]}});
    let envoy = Envoy::read(camel).unwrap();
    let picker = &envoy.clusters["picker"];
    assert!(picker.no_panic && picker.http2 && !picker.tls);
    assert_eq!(picker.hosts, ["127.0.0.1:9002"]);
}

#[test]
fn what_is_no_configuration_is_refused() {
    for other in [json!({}), json!([]), json!({"kind": "Pod"})] {
        assert!(Envoy::read(other).is_err());
    }
}
