//! Headers that steer are the picker's to set: what a client writes there neither decides nor arrives.

use tests::client::Completion;
use tests::shapes::plain::{self, Body};
use tests::shapes::{GatewayConfig, ai_gateway, envoy_gateway, istio, standalone};

use crate::world::{World, envoy};

const DESTINATION: &str = "x-gateway-destination-endpoint";

const OTHERS: [&str; 7] = [
    "x-gateway-destination-endpoint-subset",
    "x-gateway-destination-endpoint-served",
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-data-parallel-rank",
    "x-kv-cache-source-host-port",
];

fn spoof(ask: Completion, address: &str) -> Completion {
    OTHERS.iter().fold(ask.header(DESTINATION, address), |ask, name| ask.header(name, address))
}

/// A client that names one engine every time is spread like any other, and the engine sees only what
/// the picker said.
async fn is_not_steered_by_clients(world: &World, config: GatewayConfig, what: &str) {
    let (_envoy, client) = envoy(config).await;
    let wanted = world.llama[0].address();
    let mut elsewhere = 0;
    for turn in 0..12 {
        let ask = client.chat("m", &[("user", &format!("{turn} should go to the first"))]);
        let reply = spoof(ask, &wanted.to_string()).send().await.unwrap();
        let decision = world.assert_picked(&reply).await;
        let engine = world.engine(reply.engine().unwrap());
        elsewhere += u32::from(engine.address() != wanted);
        let received = engine.received().pop().unwrap();
        let sent: Vec<_> = received.headers.get_all(DESTINATION).iter().collect();
        assert_eq!(sent, [decision["endpoint"].as_str().unwrap()], "{what}");
        for name in OTHERS {
            assert_eq!(received.header(name), None, "{what}: {name}");
        }
    }
    // By chance alone once in 16 million.
    assert!(elsewhere > 0, "{what}: the client has steered");
}

#[tokio::test]
async fn a_clients_steering_headers_neither_decide_nor_arrive_in_any_mode() {
    let world = World::instant(4).await;
    for body in Body::ALL {
        is_not_steered_by_clients(&world, plain::config(&world.pool(), body), &format!("{body:?}")).await;
    }
}

#[tokio::test]
async fn a_clients_steering_headers_neither_decide_nor_arrive_in_any_gateway() {
    let world = World::instant(4).await;
    let pools = [world.pool()];
    let shapes = [
        ("Envoy Gateway buffered", envoy_gateway::config(&pools, envoy_gateway::Body::Buffered)),
        ("Envoy Gateway full duplex", envoy_gateway::config(&pools, envoy_gateway::Body::FullDuplex)),
        ("AI Gateway duplex", ai_gateway::config(&pools, ai_gateway::Body::Duplex)),
        ("AI Gateway buffered", ai_gateway::config(&pools, ai_gateway::Body::Buffered)),
        ("Istio", istio::config(&pools, false)),
        ("standalone", standalone::config(&pools[0]).unwrap()),
    ];
    for (what, config) in shapes {
        is_not_steered_by_clients(&world, config, what).await;
    }
}

#[tokio::test]
async fn headers_that_do_not_steer_arrive_untouched_and_nothing_is_added() {
    let world = World::instant(1).await;
    for body in Body::ALL {
        let (_envoy, client) = envoy(plain::config(&world.pool(), body)).await;
        let ask = client.chat("m", &[("user", "x")]).header("x-tenant", "a").header("x-tenant", "b");
        world.assert_picked(&ask.header("authorization", "Bearer x").send().await.unwrap()).await;
        let received = world.llama[0].received().pop().unwrap();
        let tenants: Vec<_> = received.headers.get_all("x-tenant").iter().collect();
        assert_eq!(tenants, ["a", "b"], "{body:?}");
        assert_eq!(received.header("authorization"), Some("Bearer x"), "{body:?}");
        let known =
            ["host", "content-type", "content-length", "transfer-encoding", "x-tenant", "authorization", DESTINATION];
        let envoys_own =
            |name: &str| name.starts_with("x-envoy-") || name.starts_with("x-forwarded-") || name == "x-request-id";
        let added: Vec<_> = received
            .headers
            .keys()
            .filter(|name| !known.contains(&name.as_str()) && !envoys_own(name.as_str()))
            .collect();
        assert!(added.is_empty(), "{body:?}: {added:?}");
    }
}
