//! A fleet to count in: one pool, declared in code.

use std::collections::BTreeMap;
use std::sync::Arc;

use scheduling::{
    Content, Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, PoolName, Profile, Request, Subset,
};

use super::{Fleet, Picked};
use crate::from_proto::WireHeaders;

pub(crate) fn pool() -> PoolName {
    PoolName::new("default", "llama")
}

/// A fleet whose only pool has these endpoints.
pub(crate) fn fleet(endpoints: &[&str]) -> Fleet {
    let endpoint = |address: &&str| DeclaredEndpoint {
        address: address.parse().unwrap(),
        name: Arc::from(*address),
        labels: Arc::new(BTreeMap::new()),
        ready: true,
        engine: EngineKind::Vllm,
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    let fleet = Fleet::new(Profile::default());
    let pools = vec![DeclaredPool { name: pool(), picker: None, endpoints }];
    fleet.apply(Event::Declared(Declared { pools, ..Declared::default() }));
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
    };
    fleet.pick(&pool(), &request).unwrap()
}

/// What each endpoint has in flight, in the order of addresses.
pub(crate) fn in_flight(fleet: &Fleet) -> Vec<u32> {
    let snapshot = fleet.snapshot();
    snapshot.pools.values().flat_map(|pool| pool.endpoints.iter()).map(|endpoint| endpoint.load.requests()).collect()
}
