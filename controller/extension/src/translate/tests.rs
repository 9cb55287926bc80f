//! A gateway as Envoy Gateway has it before its extension is asked, and what becomes of it.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as ListenerConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ExternalProcessor;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use prost::Message;
use prost::bytes::Bytes;

use super::*;
use crate::mark::mark;
use crate::pool::{Body, Picker};
use crate::shares::Shares;

const LISTENER: &str = "default/inference/http";
const RULE: &str = "httproute/default/llama/rule/0";
/// A field that no message of Envoy's has: number 1000, the text "new".
const FROM_THE_FUTURE: &[u8] = b"\xc2\x3e\x03new";

fn newer(message: &impl Message) -> Bytes {
    [message.encode_to_vec(), FROM_THE_FUTURE.to_vec()].concat().into()
}

fn pool(name: &str) -> Pool {
    Pool {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        picker: Some(Picker { service: format!("{name}-epp"), port: 9002 }),
        fail_open: false,
        body: Body::FullDuplex,
        h2c: false,
    }
}

/// Two routes, one of them to the rule, of a listener with some filter and the router; all of it newer than we are.
fn given(pools: Vec<Pool>, shares: Option<&Shares>) -> Resources {
    let filter = |name: &str, config: Any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        http_filters: vec![
            filter("envoy.filters.http.cors", Any::default()),
            filter("envoy.filters.http.router", pack_any(Router::default())),
        ],
        route_specifier: Some(RouteSpecifier::Rds(Rds { route_config_name: LISTENER.to_owned(), ..Rds::default() })),
        ..HttpConnectionManager::default()
    };
    let mut any = pack_any(HttpConnectionManager::default());
    any.value = newer(&manager).into();
    let chain = FilterChain {
        filters: vec![Filter { name: "hcm".to_owned(), config_type: Some(ListenerConfig::TypedConfig(any)) }],
        ..FilterChain::default()
    };
    let listener = Listener { name: LISTENER.to_owned(), default_filter_chain: Some(chain), ..Listener::default() };
    let route = |name: &str, cluster: &str| Route {
        name: name.to_owned(),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let routes = RouteConfiguration {
        name: LISTENER.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            routes: vec![route("to-pools", RULE), route("elsewhere", "web")],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    let cluster = |name: &str| newer(&Cluster { name: name.to_owned(), ..Cluster::default() });
    Resources {
        clusters: vec![cluster("web"), mark(cluster(RULE), pools, shares).unwrap()],
        listeners: vec![newer(&listener)],
        routes: vec![newer(&routes)],
    }
}

struct Made {
    clusters: HashMap<String, Cluster>,
    manager: HttpConnectionManager,
    routes: Vec<Route>,
    bytes: Resources,
}

fn made(pools: Vec<Pool>, shares: Option<&Shares>) -> Made {
    let settings = Settings { endpoints: "operator:5005".to_owned() };
    let bytes = translate(&settings, given(pools, shares)).unwrap();
    let clusters = bytes.clusters.iter().map(|cluster| Cluster::decode(cluster.clone()).unwrap());
    let mut listener = Listener::decode(bytes.listeners[0].clone()).unwrap();
    let Some(ListenerConfig::TypedConfig(any)) =
        listener.default_filter_chain.take().unwrap().filters[0].config_type.clone()
    else {
        panic!("no connection manager");
    };
    let mut routes = RouteConfiguration::decode(bytes.routes[0].clone()).unwrap();
    Made {
        clusters: clusters.map(|cluster| (cluster.name.clone(), cluster)).collect(),
        manager: HttpConnectionManager::decode(any.value.as_slice()).unwrap(),
        routes: routes.virtual_hosts.remove(0).routes,
        bytes,
    }
}

fn filter(manager: &HttpConnectionManager, at: usize) -> ExternalProcessor {
    let Some(ConfigType::TypedConfig(any)) = &manager.http_filters[at].config_type else { panic!("no filter") };
    ExternalProcessor::decode(any.value.as_slice()).unwrap()
}

fn names<T>(all: &[T], name: impl Fn(&T) -> &str) -> Vec<&str> {
    all.iter().map(name).collect()
}

#[test]
fn a_pools_route_meets_its_picker_and_no_other_route_does() {
    let Made { clusters, manager, routes, .. } = made(vec![pool("llama")], None);
    let ours = "envoy.filters.http.ext_proc/kthena/default/llama";
    let filters = names(&manager.http_filters, |filter| &filter.name);
    assert_eq!(filters, ["envoy.filters.http.cors", ours, "envoy.filters.http.router"]);
    assert!(manager.http_filters[1].disabled, "but for the routes of the pool");
    assert_eq!(routes[0].typed_per_filter_config.keys().collect::<Vec<_>>(), [ours]);
    assert!(routes[1].typed_per_filter_config.is_empty());
    let Some(Action::Route(action)) = &routes[0].action else { panic!("no action") };
    assert_eq!(action.cluster_specifier, Some(ClusterSpecifier::Cluster(RULE.to_owned())));
    assert!(action.retry_policy.is_some());
    assert_eq!(manager.early_header_mutation_extensions.len(), 1);

    let engines = &clusters[RULE];
    assert!(matches!(engines.cluster_discovery_type, Some(ClusterDiscoveryType::Type(3))), "EDS");
    assert_eq!(engines.eds_cluster_config.as_ref().unwrap().service_name, "kthena/pool/default/llama");
    let policy = &engines.load_balancing_policy.as_ref().unwrap().policies[0];
    let policy = policy.typed_extension_config.as_ref().unwrap();
    assert_eq!(policy.name, "envoy.load_balancing_policies.override_host");
    assert!(engines.metadata.as_ref().is_none_or(|metadata| metadata.filter_metadata.is_empty()), "the mark is gone");
    assert!(clusters.contains_key("kthena/picker/default/llama-epp:9002"));
    assert_eq!(clusters.len(), 3);
}

#[test]
fn pools_and_services_of_a_rule_share_its_traffic_by_weight_and_each_has_its_own_picker() {
    let shares = Shares { pools: vec![9, 1], services: 5 };
    let Made { clusters, manager, routes, .. } = made(vec![pool("old"), pool("new")], Some(&shares));
    let Some(Action::Route(action)) = &routes[0].action else { panic!("no action") };
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else { panic!("no weights") };
    let shares = weighted.clusters.iter().map(|one| {
        let filters: Vec<&str> =
            one.typed_per_filter_config.keys().map(|name| name.rsplit('/').next().unwrap()).collect();
        (one.name.strip_prefix(RULE).unwrap(), one.weight.unwrap().value, filters)
    });
    let expected = [("/default/old", 9, vec!["old"]), ("/default/new", 1, vec!["new"]), ("", 5, vec![])];
    assert_eq!(shares.collect::<Vec<_>>(), expected);
    assert!(routes[0].typed_per_filter_config.is_empty());
    assert!(weighted.clusters.iter().all(|one| clusters.contains_key(&one.name)));
    assert!(clusters[RULE].eds_cluster_config.is_none(), "the Services' cluster stays as it was");
    assert_eq!(manager.http_filters.len(), 4);
}

#[test]
fn the_failure_mode_and_the_body_mode_of_the_pool_are_the_filters() {
    for (body, mode, overrides) in [
        (Body::FullDuplex, BodySendMode::FullDuplexStreamed, false),
        (Body::Buffered, BodySendMode::Buffered, false),
        (Body::OnDemand, BodySendMode::None, true),
    ] {
        for fail_open in [false, true] {
            let Made { manager, .. } = made(vec![Pool { body, fail_open, ..pool("llama") }], None);
            let filter = filter(&manager, 1);
            assert_eq!((filter.failure_mode_allow, filter.allow_mode_override), (fail_open, overrides), "{body:?}");
            assert_eq!(filter.processing_mode.unwrap().request_body_mode, i32::from(mode));
        }
    }
}

#[test]
fn a_pool_without_a_picker_is_balanced_by_envoy() {
    let Made { clusters, manager, routes, .. } = made(vec![Pool { picker: None, ..pool("llama") }], None);
    let policy = &clusters[RULE].load_balancing_policy.as_ref().unwrap().policies[0];
    let policy = policy.typed_extension_config.as_ref().unwrap();
    assert_eq!(policy.name, "envoy.load_balancing_policies.least_request");
    assert_eq!((manager.http_filters.len(), routes[0].typed_per_filter_config.len(), clusters.len()), (2, 0, 2));
}

#[test]
fn what_we_do_not_know_is_kept_everywhere_and_what_has_no_pools_is_not_touched() {
    let Made { bytes, .. } = made(vec![pool("llama")], None);
    let count = |bytes: &Bytes| bytes.windows(FROM_THE_FUTURE.len()).filter(|part| *part == FROM_THE_FUTURE).count();
    let counts = [&bytes.clusters[1], &bytes.listeners[0], &bytes.routes[0]].map(count);
    assert_eq!(counts, [1, 2, 1]);
    let without = given(Vec::new(), None);
    let settings = Settings { endpoints: "operator:5005".to_owned() };
    assert_eq!(translate(&settings, without.clone()).unwrap(), without);
}
