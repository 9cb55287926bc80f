//! What Envoy is told by EDS: the endpoints of a pool, and of a picker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use controller_api::inference_pool::InferencePoolSpec;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, Metadata, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, UInt32Value, Value};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Where Envoy looks for what `transport_socket_matches` compares.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";
/// `appProtocol` of a port without TLS.
const H2C: &str = "kubernetes.io/h2c";

/// Whose endpoints, as Envoy names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Those of an InferencePool.
    Pool {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Those of a picker's Service.
    Picker {
        /// Its namespace.
        namespace: String,
        /// Its name.
        service: String,
        /// The Service's port.
        port: u16,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { namespace, name } => write!(f, "kthena/pool/{namespace}/{name}"),
            Self::Picker { namespace, service, port } => write!(f, "kthena/picker/{namespace}/{service}:{port}"),
        }
    }
}

/// A name that is none of ours.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not the name of a pool's or a picker's endpoints")]
pub struct Unknown(String);

impl FromStr for Subject {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let parts: Vec<&str> = text.split('/').collect();
        let picker = |service: &str| {
            let (service, port) = service.split_once(':')?;
            Some((service.to_owned(), port.parse().ok()?))
        };
        match *parts {
            ["kthena", "pool", namespace, name] => Some(Self::Pool { namespace: namespace.into(), name: name.into() }),
            ["kthena", "picker", namespace, service] => {
                picker(service).map(|(service, port)| Self::Picker { namespace: namespace.into(), service, port })
            }
            _ => None,
        }
        .ok_or_else(|| Unknown(text.to_owned()))
    }
}

/// What is kept of a pod that may get requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: IpAddr,
}

/// A pod that is ready; nothing of one that is not, or ends.
#[must_use]
pub fn pod(pod: &Pod) -> Option<PodAddress> {
    let status = pod.status.as_ref()?;
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let ip = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok())?;
    let counts = ready && !over && pod.metadata.deletion_timestamp.is_none();
    counts.then(|| PodAddress { labels: pod.metadata.labels.clone().unwrap_or_default(), ip })
}

/// The endpoints of a pool: every selected pod of its namespace, at every port.
#[must_use]
pub fn of_pool<'a>(
    subject: &Subject,
    spec: &InferencePoolSpec,
    pods: impl Iterator<Item = &'a PodAddress>,
) -> ClusterLoadAssignment {
    let wanted = &spec.selector.match_labels;
    let selected = pods.filter(|pod| wanted.iter().all(|(key, value)| pod.labels.get(key) == Some(value)));
    let ports = || spec.target_ports.iter().map(|port| port.number);
    // Sorted, so that the same endpoints are the same message.
    let endpoints: BTreeSet<(IpAddr, u16)> = match wanted.is_empty() {
        true => BTreeSet::new(),
        false => selected.flat_map(|pod| ports().map(|port| (pod.ip, port))).collect(),
    };
    assignment(subject, endpoints.into_iter().map(|(ip, port)| endpoint(ip, port)))
}

/// The endpoints of a picker: the ready ones of its Service, at the port that the pool names. Ports without
/// `appProtocol: kubernetes.io/h2c` speak TLS.
#[must_use]
pub fn of_picker<'a>(
    subject: &Subject,
    number: u16,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> ClusterLoadAssignment {
    let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let Some(port) = ports.find(|port| port.port == i32::from(number)) else {
        return assignment(subject, std::iter::empty());
    };
    let plain = port.app_protocol.as_deref() == Some(H2C);
    let mut endpoints = BTreeSet::new();
    for slice in slices {
        let mut offered = slice.ports.iter().flatten();
        let name = port.name.as_deref().unwrap_or_default();
        let Some(target) = offered.find(|one| one.name.as_deref().unwrap_or_default() == name) else { continue };
        let Some(target) = target.port.and_then(|port| u16::try_from(port).ok()) else { continue };
        for one in slice.endpoints.iter().flatten() {
            // Not known is ready (Kubernetes' EndpointConditions).
            if one.conditions.as_ref().and_then(|state| state.ready) == Some(false) {
                continue;
            }
            let addresses = one.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            endpoints.extend(addresses.map(|ip| (ip, target)));
        }
    }
    let tls = (!plain).then(|| Metadata {
        filter_metadata: HashMap::from([(SOCKET_MATCH.to_owned(), tls_match())]),
        ..Metadata::default()
    });
    let with_socket = |(ip, port)| LbEndpoint { metadata: tls.clone(), ..endpoint(ip, port) };
    assignment(subject, endpoints.into_iter().map(with_socket))
}

/// No endpoints: of what is not there.
#[must_use]
pub fn of_nobody(subject: &Subject) -> ClusterLoadAssignment {
    assignment(subject, std::iter::empty())
}

/// What an endpoint with TLS says of itself.
pub(crate) fn tls_match() -> Struct {
    Struct { fields: HashMap::from([("tls".to_owned(), Value { kind: Some(Kind::BoolValue(true)) })]) }
}

fn assignment(subject: &Subject, endpoints: impl Iterator<Item = LbEndpoint>) -> ClusterLoadAssignment {
    let locality = LocalityLbEndpoints {
        lb_endpoints: endpoints.collect(),
        // A policy of the gateway's may go by the weights of localities.
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: subject.to_string(),
        endpoints: if locality.lb_endpoints.is_empty() { Vec::new() } else { vec![locality] },
        ..ClusterLoadAssignment::default()
    }
}

fn endpoint(ip: IpAddr, port: u16) -> LbEndpoint {
    let address = SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    let endpoint = Endpoint {
        address: Some(Address { address: Some(AddressKind::SocketAddress(address)) }),
        ..Endpoint::default()
    };
    LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn addresses(assignment: &ClusterLoadAssignment) -> Vec<String> {
        let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let address = |one: &LbEndpoint| match &one.host_identifier {
            Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(Address { address: Some(AddressKind::SocketAddress(socket)) }),
                ..
            })) => format!("{}:{:?}", socket.address, socket.port_specifier.as_ref().unwrap()),
            other => panic!("{other:?}"),
        };
        endpoints.map(address).map(|text| text.replace("PortValue(", "").replace(')', "")).collect()
    }

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn one_pod(ip: &str, app: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": ip, "labels": {"app": app}},
            "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_subject_is_read_as_it_is_written() {
        for text in ["kthena/pool/default/llama", "kthena/picker/default/llama-epp:9002"] {
            assert_eq!(subject(text).to_string(), text);
        }
        for other in ["kthena/pool/llama", "kthena/picker/default/llama-epp", "httproute/default/llama/rule/0"] {
            assert!(other.parse::<Subject>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_pools_endpoints_are_its_ready_pods_at_each_port() {
        let mut ending = one_pod("10.0.0.5", "vllm", "True");
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
        let pods: Vec<PodAddress> = [
            one_pod("10.0.0.3", "vllm", "True"),
            one_pod("10.0.0.2", "vllm", "True"),
            one_pod("10.0.0.4", "vllm", "False"),
            one_pod("10.0.0.6", "other", "True"),
            ending,
        ]
        .iter()
        .filter_map(pod)
        .collect();
        let spec = |labels: serde_json::Value| {
            let ports = json!([{"number": 8001}, {"number": 8000}]);
            serde_json::from_value(json!({"selector": {"matchLabels": labels}, "targetPorts": ports})).unwrap()
        };
        let made = of_pool(&subject("kthena/pool/default/llama"), &spec(json!({"app": "vllm"})), pods.iter());
        assert_eq!(made.cluster_name, "kthena/pool/default/llama");
        assert_eq!(addresses(&made), ["10.0.0.2:8000", "10.0.0.2:8001", "10.0.0.3:8000", "10.0.0.3:8001"]);
        let none = of_pool(&subject("kthena/pool/default/llama"), &spec(json!({})), pods.iter());
        assert_eq!(addresses(&none), [""; 0], "no label selects nothing");
    }

    #[test]
    fn a_pickers_endpoints_are_those_of_its_port_and_say_whether_they_speak_tls() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "metadata": {},
            "ports": [{"name": "health", "port": 9003}, {"name": "grpc", "port": 9012}],
            "endpoints": [
                {"addresses": ["10.0.0.9"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.8"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.7"]},
            ],
        }))
        .unwrap();
        for (protocol, tls) in [(json!("kubernetes.io/h2c"), false), (json!("http2"), true), (json!(null), true)] {
            let service: Service = serde_json::from_value(json!({"spec": {"ports": [
                {"name": "health", "port": 9003},
                {"name": "grpc", "port": 9002, "appProtocol": protocol},
            ]}}))
            .unwrap();
            let picker = subject("kthena/picker/default/epp:9002");
            let made = of_picker(&picker, 9002, &service, std::iter::once(&slice));
            assert_eq!(addresses(&made), ["10.0.0.7:9012", "10.0.0.9:9012"]);
            assert!(made.endpoints[0].lb_endpoints.iter().all(|one| one.metadata.is_some() == tls), "{protocol}");
            assert_eq!(addresses(&of_picker(&picker, 9009, &service, std::iter::once(&slice))), [""; 0]);
        }
    }
}
