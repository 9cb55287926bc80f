//! A fleet to count in: one pool, declared in code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use scheduling::{
    Content, Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, KvConnector, ModelServer, PdGroup, PoolName,
    Profile, Request, Subset,
};

use super::{Fleet, Picked};
use crate::from_proto::WireHeaders;

pub(crate) fn pool() -> PoolName {
    PoolName::new("default", "llama")
}

/// A fleet whose only pool has these endpoints.
pub(crate) fn fleet(endpoints: &[&str]) -> Fleet {
    let fleet = Fleet::new(Profile::default());
    fleet.apply(Event::Declared(declared(endpoints)));
    fleet
}

/// A state whose only pool has these endpoints.
pub(crate) fn declared(endpoints: &[&str]) -> Declared {
    let endpoint = |address: &&str| DeclaredEndpoint {
        address: address.parse().unwrap(),
        name: format!("default/{address}").into(),
        labels: Arc::new(BTreeMap::new()),
        ready: true,
        engine: EngineKind::Vllm,
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    Declared { pools: vec![DeclaredPool { name: pool(), picker: None, endpoints }], ..Declared::default() }
}

/// A ModelServer that selects every pod of its namespace.
pub(crate) fn server(name: &str) -> ModelServer {
    ModelServer {
        name: name.into(),
        model: None,
        engine: EngineKind::Vllm,
        selector: BTreeMap::new(),
        port: None,
        pd_group: None,
        connector: KvConnector::Http,
    }
}

/// A fleet that pairs: a decode endpoint at port 1, and prefill endpoints at these ports.
pub(crate) fn pairs(prefills: &[u16]) -> Fleet {
    let labels = |role: &str| -> BTreeMap<String, String> { [("role".to_owned(), role.to_owned())].into() };
    let endpoint = |port: u16, role: &str| DeclaredEndpoint {
        address: SocketAddr::from(([10, 0, 0, 1], port)),
        name: format!("default/{role}").into(),
        labels: Arc::new(labels(role)),
        ready: true,
        engine: EngineKind::Vllm,
    };
    // A server without a port takes the pool's ports, so the pool has them all.
    let group = PdGroup { group_key: None, prefill_labels: labels("prefill"), decode_labels: labels("decode") };
    let server = ModelServer { pd_group: Some(group), ..server("default/pd") };
    let fleet = Fleet::new(Profile::default());
    let endpoints =
        std::iter::once(endpoint(1, "decode")).chain(prefills.iter().map(|port| endpoint(*port, "prefill"))).collect();
    fleet.apply(Event::Declared(Declared {
        pools: vec![DeclaredPool { name: pool(), picker: None, endpoints }],
        workers: prefills.iter().map(|port| endpoint(*port, "prefill")).collect(),
        model_servers: vec![server],
        model_routes: Vec::new(),
    }));
    fleet
}

/// A request counted at the endpoint.
pub(crate) fn pick(fleet: &Fleet, address: &str) -> Picked {
    let subset = Subset { addresses: vec![address.parse().unwrap()], hosts: Vec::new() };
    let headers = WireHeaders::default();
    let request = Request {
        id: "id",
        path: "/",
        headers: &headers,
        content: Content::Absent,
        subset: Some(&subset),
        tokens: None,
        resolution: None,
    };
    fleet.pick(&pool(), &request).unwrap()
}

/// What each endpoint has in flight, in the order of addresses.
pub(crate) fn in_flight(fleet: &Fleet) -> Vec<u32> {
    let snapshot = fleet.snapshot();
    snapshot.pools.values().flat_map(|pool| pool.endpoints.iter()).map(|endpoint| endpoint.load.requests()).collect()
}
