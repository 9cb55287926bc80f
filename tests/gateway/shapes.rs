//! The very shapes that gateways program, each with two pools in one picker.

use tests::client::Client;
use tests::engine::EngineConfig;
use tests::poll;
use tests::shapes::{GatewayConfig, ai_gateway, envoy_gateway, istio, plain, standalone};

use crate::world::{MODEL, SOON, World, addresses, envoy, long_prompt};

/// Requests to either virtual host are answered by the picked endpoint of its pool, streamed and
/// whole, with a body and without.
async fn picks_right_in_both_pools(shape: impl FnOnce(&World) -> GatewayConfig) {
    let world = World::two_pools().await;
    let (_envoy, client) = envoy(shape(&world)).await;
    for (pool, engines) in [("llama", &world.llama), ("qwen", &world.qwen)] {
        let host = format!("{pool}.example.com");
        for turn in 0..6 {
            let ask = client.chat("m", &[("user", &format!("{turn} for {pool}"))]).stream(turn % 2 == 0);
            let reply = ask.header("host", &host).send().await.unwrap();
            let decision = world.assert_picked(&reply).await;
            assert_eq!(decision["pool"], format!("default/{pool}"));
            assert!(addresses(engines).contains(&reply.engine().unwrap()));
        }
        let models = client.get("/v1/models").header("host", &host).send().await.unwrap();
        let decision = world.assert_picked(&models).await;
        assert_eq!(decision["pool"], format!("default/{pool}"));
    }
    stays_with_its_prompt(&client).await;
    world.assert_idle().await;
}

async fn stays_with_its_prompt(client: &Client) {
    for seed in ["dora", "emil"] {
        let ask = || client.complete("m", &long_prompt(seed)).send();
        let first = ask().await.unwrap().engine();
        for _ in 0..3 {
            assert_eq!(ask().await.unwrap().engine(), first, "the prompt's blocks are there");
        }
    }
}

#[tokio::test]
async fn envoy_gateway_buffered_with_override_host_by_header() {
    picks_right_in_both_pools(|world| envoy_gateway::config(&world.pools(), envoy_gateway::Body::Buffered)).await;
}

#[tokio::test]
async fn envoy_gateway_full_duplex_with_override_host_by_header() {
    picks_right_in_both_pools(|world| envoy_gateway::config(&world.pools(), envoy_gateway::Body::FullDuplex)).await;
}

#[tokio::test]
async fn ai_gateway_duplex_over_tls_with_original_dst() {
    picks_right_in_both_pools(|world| ai_gateway::config(&world.pools(), ai_gateway::Body::Duplex)).await;
}

#[tokio::test]
async fn ai_gateway_buffered_over_tls_with_original_dst() {
    picks_right_in_both_pools(|world| ai_gateway::config(&world.pools(), ai_gateway::Body::Buffered)).await;
}

#[tokio::test]
async fn istio_with_override_host_by_metadata() {
    picks_right_in_both_pools(|world| istio::config(&world.pools(), false)).await;
}

#[tokio::test]
async fn our_standalone_configuration_drives_traffic_as_it_stands() {
    let world = World::instant(3).await;
    let (envoy, client) = envoy(standalone::config(&world.pool()).unwrap()).await;
    for turn in 0..6 {
        let ask = client.chat("m", &[("user", &format!("number {turn}"))]).stream(turn % 2 == 0);
        let reply = ask.send().await.unwrap();
        let decision = world.assert_picked(&reply).await;
        assert_eq!(decision["bodyMode"], "full_duplex_streamed", "{decision:#}");
        assert_eq!(decision["served"], decision["endpoint"], "Envoy tells who served: {decision:#}");
        assert_eq!(reply.header("x-request-id"), decision["requestId"].as_str());
    }
    stays_with_its_prompt(&client).await;
    let models = client.get("/v1/models").send().await.unwrap();
    world.assert_picked(&models).await;
    world.assert_idle().await;
    poll::until("the access log", SOON, async || {
        (envoy.log().lines().filter(|line| line.contains("\"picked\"")).count() == 15).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_pool_is_known_by_the_cluster_attribute() {
    let world = World::two_pools().await;
    for (pool, engines) in world.pools().iter().zip([&world.llama, &world.qwen]) {
        let config = plain::config(pool, plain::Body::Buffered).vary(|config| {
            config.ext_proc()["grpc_service"] = serde_json::json!({"envoy_grpc": {"cluster_name": "picker"}});
            config.ext_proc()["request_attributes"] = serde_json::json!(["xds.cluster_name"]);
        });
        let (_envoy, client) = envoy(config).await;
        let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
        let decision = world.assert_picked(&reply).await;
        assert_eq!(decision["pool"], format!("default/{}", pool.name));
        assert!(addresses(engines).contains(&reply.engine().unwrap()));
    }
}

#[tokio::test]
async fn the_pool_is_known_by_the_port() {
    // Free now; a port of 0 could not be told apart in the log's list.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let two = || vec![EngineConfig::instant(MODEL); 2];
    let bound = |options: tests::picker::PickerOptions| options.flag("--pool-port", format!("default/qwen={port}"));
    let world = World::start(two(), two(), bound).await;
    let [_, mut qwen] = world.pools();
    qwen.picker.set_port(port);
    // The authority would name the other pool.
    let config = plain::config(&qwen, plain::Body::FullDuplex).vary(|config| {
        config.ext_proc()["grpc_service"]["envoy_grpc"]["authority"] = "llama-epp.default.svc:9002".into();
    });
    let (_envoy, client) = envoy(config).await;
    let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
    assert_eq!(world.assert_picked(&reply).await["pool"], "default/qwen");
}

#[tokio::test]
async fn a_stream_that_names_no_pool_is_refused_with_what_to_configure() {
    let world = World::two_pools().await;
    let config = plain::config(&world.pool(), plain::Body::Buffered)
        .vary(|config| config.ext_proc()["grpc_service"]["envoy_grpc"]["authority"] = "nobody".into());
    let (_envoy, client) = envoy(config).await;
    let reply = client.chat("m", &[("user", "x")]).send().await.unwrap();
    let error = &reply.json().unwrap()["error"];
    assert_eq!((reply.status, &error["code"]), (503, &"unknown_pool".into()));
    assert!(error["message"].as_str().unwrap().contains("--pool-name"), "{error}");
}
