//! What one gateway is about to be sent, and what the operator makes of it: `cases/*.yaml`, as Envoy prints it.
//!
//! The protocol buffers of Envoy's messages come with `envoy-types`, and are read as YAML by their definitions alone:
//! a field that the operator's code does not know is seen here all the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails so")]

use std::path::Path;

use extension::mark::mark;
use extension::pool::Pool;
use extension::shares::Shares;
use extension::translate::{Resources, Settings, translate};
use prost::Message as _;
use prost::bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::Deserialize;
use serde_json::Value;

/// What is in the cases.
const FILES: &[&str] = &[
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/ext_proc/v3/ext_proc.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/override_host/v3/override_host.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
];

/// The folders that these begin in.
const ROOTS: &[&str] =
    &["data-plane-api", "xds", "protoc-gen-validate", "googleapis", "client_model", "cel-spec/proto"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The rule with pools: its cluster, its InferencePools, and the weights, where they are told.
    rule: Rule,
    given: Documents,
    made: Documents,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    cluster: String,
    pools: Vec<Value>,
    #[serde(default)]
    weights: Option<Vec<u32>>,
    #[serde(default)]
    services: u32,
}

#[derive(Debug, Deserialize, PartialEq, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Documents {
    clusters: Vec<Value>,
    listeners: Vec<Value>,
    routes: Vec<Value>,
}

/// What cargo says here: where it runs a test is the package's folder.
fn cargo(arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO")).args(arguments).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Envoy's definitions.
struct Envoy(DescriptorPool);

impl Envoy {
    fn read() -> Self {
        let version = cargo(&["--version", "--verbose"]);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        // What only other platforms need was never downloaded.
        let metadata = cargo(&["metadata", "--format-version", "1", "--offline", "--filter-platform", host]);
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let package = metadata["packages"].as_array().unwrap().iter().find(|one| one["name"] == "envoy-types").unwrap();
        let protos = Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("proto");
        let mut compiler = protox::Compiler::new(ROOTS.iter().map(|root| protos.join(root))).unwrap();
        compiler.include_imports(true).open_files(FILES).unwrap();
        Self(compiler.descriptor_pool())
    }

    fn encode(&self, name: &str, yaml: &Value) -> Bytes {
        let descriptor = self.0.get_message_by_name(name).unwrap();
        DynamicMessage::deserialize(descriptor, yaml.clone())
            .unwrap_or_else(|error| panic!("{error}: {yaml}"))
            .encode_to_vec()
            .into()
    }

    fn decode(&self, name: &str, message: &Bytes) -> Value {
        let descriptor = self.0.get_message_by_name(name).unwrap();
        let message = DynamicMessage::decode(descriptor, with_json(message)).unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
        message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
    }
}

/// `config: {}` of a FilterConfig, which switches a filter on, has no JSON: it is shown as `is_optional: true`.
const ON: [&[u8]; 2] = [b"v3.FilterConfig\x12\x02\x0a\x00", b"v3.FilterConfig\x12\x02\x10\x01"];

fn with_json(message: &Bytes) -> Bytes {
    let [without, with] = ON;
    let mut bytes = message.to_vec();
    for at in 0..bytes.len().saturating_sub(without.len() - 1) {
        if bytes[at..].starts_with(without) {
            bytes[at..at + with.len()].copy_from_slice(with);
        }
    }
    bytes.into()
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

fn made(envoy: &Envoy, case: &Case) -> Documents {
    let encoded = |name: &'static str, all: &[Value]| all.iter().map(|one| envoy.encode(name, one)).collect::<Vec<_>>();
    let given = &case.given;
    let mut resources = Resources {
        clusters: encoded(CLUSTER, &given.clusters),
        listeners: encoded(LISTENER, &given.listeners),
        routes: encoded(ROUTES, &given.routes),
    };
    let rule = given.clusters.iter().position(|cluster| cluster["name"] == case.rule.cluster).unwrap();
    let read = |pool: &Value| {
        let (pool, ignored) = Pool::read(pool.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(ignored, [""; 0]);
        pool
    };
    let pools = case.rule.pools.iter().map(read).collect();
    let shares = case.rule.weights.clone().map(|pools| Shares { pools, services: case.rule.services });
    resources.clusters[rule] = mark(resources.clusters[rule].clone(), pools, shares.as_ref()).unwrap();
    let made = translate(&Settings { endpoints: "operator.kthena-system.svc:5005".to_owned() }, resources).unwrap();
    let decoded = |name: &'static str, all: &[Bytes]| all.iter().map(|one| envoy.decode(name, one)).collect::<Vec<_>>();
    Documents {
        clusters: decoded(CLUSTER, &made.clusters),
        listeners: decoded(LISTENER, &made.listeners),
        routes: decoded(ROUTES, &made.routes),
    }
}

/// By name.
const CASES: &[(&str, &str)] = &[("two-pools-by-weight", include_str!("cases/two-pools-by-weight.yaml"))];

#[test]
fn each_gateway_is_made_what_its_case_says() {
    let envoy = Envoy::read();
    for (name, case) in CASES {
        let case: Case = serde_saphyr::from_str(case).unwrap();
        let made = made(&envoy, &case);
        assert!(made == case.made, "{name}: made was\n{}", serde_saphyr::to_string(&made).unwrap());
    }
}
