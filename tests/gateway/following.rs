//! A stand-alone Envoy knows engines only from the picker: which come, which go, and which to go on with alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tests::client::Client;
use tests::envoy::Envoy;
use tests::picker::PickerOptions;
use tests::poll;
use tests::process::Signal;
use tests::shapes::standalone;

use crate::world::{SOON, World, addresses, envoy};

async fn wait_for(envoy: &Envoy, wanted: &[SocketAddr]) {
    let wanted: BTreeSet<SocketAddr> = wanted.iter().copied().collect();
    poll::until(&format!("the hosts {wanted:?} in Envoy"), SOON, async || {
        (envoy.hosts("engines").await.ok()? == wanted).then_some(())
    })
    .await
    .unwrap();
}

/// Who answers a request more than there are engines.
async fn who_answers(client: &Client) -> BTreeSet<SocketAddr> {
    let mut engines = BTreeSet::new();
    for turn in 0..4 {
        let reply = client.chat("m", &[("user", &format!("turn {turn}"))]).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        engines.extend(reply.engine());
    }
    engines
}

#[tokio::test]
async fn engines_come_and_go_with_the_files_and_stay_while_the_picker_is_gone() {
    let mut world = World::instant(3).await;
    let all = addresses(&world.llama);
    let (envoy, client) = envoy(standalone::config(&world.pool()).unwrap()).await;
    for declared in [&all[..1], &all[1..], &all[..]] {
        world.config.pool("llama", declared).unwrap();
        wait_for(&envoy, declared).await;
        for turn in 0..4 {
            let reply = client.chat("m", &[("user", &format!("{turn} of {}", declared.len()))]).send().await.unwrap();
            world.assert_picked(&reply).await;
            assert!(declared.contains(&reply.engine().unwrap()));
        }
    }

    world.picker.process().signal(Signal::Kill).unwrap();
    world.picker.process().exit_code(SOON).await.unwrap();
    assert_eq!(who_answers(&client).await, all.iter().copied().collect(), "Envoy goes on with all that it knew");
    world.config.pool("llama", &all[..2]).unwrap();
    let port = world.picker.grpc_address().port();
    world.picker = PickerOptions::new(world.config.path()).flag("--grpc-port", port).start().await.unwrap();
    wait_for(&envoy, &all[..2]).await;
    world.assert_idle().await;
}

#[tokio::test]
async fn one_picker_tells_each_cluster_the_engines_of_its_own_pool() {
    let world = World::two_pools().await;
    let [llama, qwen] = world.pools();
    let config = standalone::config(&llama).unwrap().vary(|config| {
        let mut second = config.clusters()[1].clone();
        second["name"] = "others".into();
        second["eds_cluster_config"]["service_name"] = "qwen".into();
        config.clusters().push(second);
    });
    let (envoy, _client) = envoy(config).await;
    assert_eq!(envoy.hosts("engines").await.unwrap(), llama.endpoints.into_iter().collect());
    assert_eq!(envoy.hosts("others").await.unwrap(), qwen.endpoints.into_iter().collect());
    let metrics = world.picker.metrics().await.unwrap();
    assert_eq!(metrics.sum("kthena_router_xds_streams", &[]), Some(1.0));
    assert_eq!(metrics.sum("kthena_router_xds_refusals_total", &[]), Some(0.0));
}
