//! One picker in a namespace of its own, for pools of all.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::*;
use crate::attachment::model_server::{Answer, Around, answer};
use crate::attachment::picker_endpoints;

const ORIGINAL: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";

struct World {
    home: Option<&'static str>,
    server: ModelServer,
    picker: Option<Service>,
    picker_slices: Vec<Arc<EndpointSlice>>,
    service: Option<Service>,
    slices: Vec<Arc<EndpointSlice>>,
}

fn picker() -> Service {
    let ports = json!([{"name": "grpc", "port": 9002, "protocol": "TCP", "targetPort": "ext-proc"}, {"port": 9003}]);
    let spec = json!({"selector": {"app": "picker"}, "ports": ports});
    serde_json::from_value(json!({"metadata": {"name": "picker", "namespace": "pickers"}, "spec": spec})).unwrap()
}

/// As Kubernetes makes it of the picker's pods.
fn original(uid: &str, address: &str, ready: bool) -> Arc<EndpointSlice> {
    let endpoint = json!({
        "addresses": [address], "conditions": {"ready": ready, "serving": ready, "terminating": !ready},
        "nodeName": "node-0", "targetRef": {"kind": "Pod", "namespace": "pickers", "name": "picker-0"},
    });
    let slice = json!({
        "metadata": {
            "name": "picker-x7k2p", "namespace": "pickers", "uid": uid,
            "labels": {"kubernetes.io/service-name": "picker", "app": "picker"},
        },
        "addressType": if address.contains(':') { "IPv6" } else { "IPv4" },
        "endpoints": [endpoint],
        "ports": [{"name": "", "port": 9003, "protocol": "TCP"}, {"name": "grpc", "port": 9012, "protocol": "TCP"}],
    });
    Arc::new(serde_json::from_value(slice).unwrap())
}

impl World {
    fn new() -> Self {
        Self {
            home: Some("pickers"),
            server: server("llm", 1, &json!({"app": "llm"})),
            picker: Some(picker()),
            picker_slices: vec![original(ORIGINAL, "10.0.0.7", true)],
            service: None,
            slices: Vec::new(),
        }
    }

    fn ask(&self) -> Answer {
        let settings = super::Settings { picker_namespace: self.home.map(ToOwned::to_owned), ..settings() };
        let around = Around {
            settings: &settings,
            servers: &[Arc::new(self.server.clone())],
            pools: true,
            pool: None,
            picker: self.picker.as_ref(),
            picker_slices: &self.picker_slices,
            service: self.service.as_ref(),
            slices: &self.slices,
            pods: &[],
        };
        answer(&self.server, around, at(100))
    }

    /// With the Service that is asked for, as the API server answers.
    fn with_service(mut self) -> Self {
        let mut service = *self.ask().service.expect("a Service");
        service.metadata.uid = Some("u-service".to_owned());
        self.service = Some(service);
        self
    }

    /// And with the EndpointSlices that are asked for then.
    fn settled() -> Self {
        let mut world = Self::new().with_service();
        let made = |mut slice: EndpointSlice| {
            slice.metadata.uid = Some(format!("u-{}", slice.metadata.name.as_deref().unwrap_or_default()));
            Arc::new(slice)
        };
        world.slices = world.ask().slices.into_iter().map(made).collect();
        world
    }
}

fn resolved(answer: &Answer) -> (String, String) {
    let conditions = &answer.status.as_ref().unwrap().conditions;
    (say(conditions)[1].clone(), message(conditions, "ResolvedRefs").to_owned())
}

#[test]
fn the_pools_service_has_no_selector_and_the_endpoints_of_the_pickers() {
    let world = World::new();
    let first = world.ask();
    assert_eq!(first.slices, [], "they belong to the Service");
    assert_eq!(
        serde_json::to_value(first.service.as_ref().unwrap().spec.clone()).unwrap(),
        json!({"ports": [{"name": "grpc", "port": 9002, "protocol": "TCP", "targetPort": "ext-proc"}]})
    );
    assert_eq!(resolved(&first).1, "the Service picker of the picker is there, in pickers");
    assert_eq!(first.apply.unwrap().spec.endpoint_picker_ref.unwrap().name, "llm-epp");

    let second = world.with_service().ask();
    assert_eq!((second.service, second.retire, second.drop_slices), (None, None, Vec::new()));
    assert_eq!(
        serde_json::to_value(&second.slices).unwrap(),
        json!([{
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("llm-epp-{ORIGINAL}"), "namespace": "serve",
                "labels": {
                    "kubernetes.io/service-name": "llm-epp",
                    "endpointslice.kubernetes.io/managed-by": "kthena-controller-manager",
                },
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": "llm-epp", "uid": "u-service", "controller": true,
                }],
            },
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["10.0.0.7"], "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "node-0", "targetRef": {"kind": "Pod", "namespace": "pickers", "name": "picker-0"},
            }],
            "ports": [{"name": "grpc", "port": 9012, "protocol": "TCP"}],
        }])
    );
    assert_eq!(picker_endpoints::pool(second.slices[0].metadata.name.as_deref().unwrap()), Some("llm"));
}

#[test]
fn endpoints_follow_the_pickers_and_what_is_the_same_is_not_written_again() {
    let mut world = World::settled();
    let (made, writes) = (world.slices[0].clone(), |answer: Answer| (answer.slices, answer.drop_slices));
    assert_eq!(writes(world.ask()), (Vec::new(), Vec::new()));

    // A picker is not ready any more, another family of addresses comes.
    world.picker_slices = vec![original(ORIGINAL, "10.0.0.7", false), original(OTHER, "fd00::7", true)];
    let (written, dropped) = writes(world.ask());
    let shown: Vec<_> = written.iter().map(|slice| (slice.address_type.as_str(), slice.metadata.uid.clone())).collect();
    assert_eq!(shown, [("IPv4", made.metadata.uid.clone()), ("IPv6", None)]);
    let conditions = written[0].endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap();
    assert_eq!((conditions.ready, conditions.terminating, dropped), (Some(false), Some(true), Vec::new()));

    // What has not the picker's port is of no use; what is gone, or without a picker, has no copy.
    let gone = |answer: Answer| answer.slices.is_empty() && answer.drop_slices.len() == 1;
    Arc::make_mut(&mut world.picker_slices[0]).ports = None;
    world.picker_slices.truncate(1);
    assert!(gone(world.ask()));
    world.picker_slices.clear();
    assert!(gone(world.ask()));
    world.picker_slices = vec![original(ORIGINAL, "10.0.0.7", true)];
    world.picker = None;
    let answer = world.ask();
    assert_eq!(resolved(&answer).0, "ResolvedRefs=False/PickerNotFound");
    assert!(resolved(&answer).1.contains("the namespace pickers of --picker-namespace"));
    assert!(gone(answer));
}

#[test]
fn endpoints_of_a_service_that_went_before_are_left_to_go_with_it() {
    let mut world = World::settled();
    world.service.as_mut().unwrap().metadata.uid = Some("u-next".to_owned());
    let answer = world.ask();
    assert_eq!(answer.drop_slices, []);
    assert_eq!(answer.slices.len(), 1, "created, which fails as long as the name is taken");
    assert_eq!(answer.slices[0].metadata.uid, None);
}

#[test]
fn a_service_goes_where_its_picker_moves_so_that_nobodys_endpoints_are_left_in_it() {
    // From the pool's namespace to another, and back.
    let mut world = World { home: None, ..World::new() }.with_service();
    assert!(world.service.as_ref().unwrap().spec.as_ref().unwrap().selector.is_some());
    let retired = |world: &World| {
        let answer = world.ask();
        assert_eq!((answer.service, answer.slices, answer.drop_slices), (None, Vec::new(), Vec::new()));
        answer.retire
    };
    let expected = Some(("llm-epp".to_owned(), "u-service".to_owned()));
    world.home = Some("pickers");
    assert_eq!(retired(&world), expected);
    let mut world = World { home: None, ..World::settled() };
    assert_eq!(retired(&world), expected);
    // Also where no picker is left.
    world.picker = None;
    assert_eq!(retired(&world), expected);
}

#[test]
fn pools_beside_the_picker_and_services_of_others_are_as_they_always_were() {
    let world = World { home: Some("serve"), ..World::new() };
    assert!(world.ask().service.unwrap().spec.unwrap().selector.is_some());

    let mut world = World::new();
    world.service = Some(picker());
    let answer = world.ask();
    assert_eq!((&answer.service, &answer.retire, answer.slices.len()), (&None, &None, 0));
    assert!(resolved(&answer).1.contains("which somebody else made"));
}

#[test]
fn a_pool_that_can_have_no_service_says_so() {
    let world = World { server: server("llama-3.1", 1, &json!({"app": "llm"})), ..World::new() };
    let answer = world.ask();
    assert!(answer.service.is_none());
    let (verdict, message) = resolved(&answer);
    assert_eq!(verdict, "ResolvedRefs=False/PickerNotFound");
    assert!(message.contains("at most 59 small letters"), "{message}");
}
