//! A bad day at full speed: clients that go away, an engine that dies and comes back, endpoints that
//! come and go, a picker that is killed. Afterwards nothing is counted that is not there.
//!
//! `KTHENA_CHURN_REQUESTS` sets how many requests are sent (50,000 unless set).

mod clients;
mod pairs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clients::{CONNECTIONS, Tally};
use serde_json::json;
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig};
use tests::picker::{Picker, PickerOptions};
use tests::poll;
use tests::shapes::{Pool, standalone};
use tests::usage::resident_memory;

const POOL: &str = "llama";
/// From one event of the day to the next, at most.
const DEADLINE: Duration = Duration::from_secs(300);
/// Until what is over is no longer counted.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn after_a_bad_day_nothing_is_left_in_flight() {
    let total = std::env::var("KTHENA_CHURN_REQUESTS").map_or(50_000, |count| count.parse().expect("a number"));
    let mut engines = Engine::start_many((0..5).map(|_| EngineConfig::timed("m", 0.02))).await.unwrap();
    let addresses: Vec<_> = engines.iter().map(Engine::address).collect();
    let config_dir = ConfigDir::new().unwrap();
    config_dir.pool(POOL, &addresses[..4]).unwrap();
    let start = async |port: u16| -> Picker {
        PickerOptions::new(config_dir.path()).flag("--grpc-port", port).start().await.unwrap()
    };
    let picker = start(0).await;
    // In the milliseconds until an Envoy that follows the fleet has heard of a change it may not know who was picked; that
    // is no business of this test.
    let gateway = standalone::knowing_all(&Pool::new(POOL, &addresses, picker.grpc_address())).unwrap();
    let envoy = gateway
        .vary(|gateway| {
            // So that every answer says what was decided for it.
            gateway.manager()["route_config"]["response_headers_to_add"] = json!([
                {"header": {"key": clients::PICKED, "value": "%DYNAMIC_METADATA(envoy.lb:x-gateway-destination-endpoint)%"}},
                {"header": {"key": clients::ATTEMPTS, "value": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}},
            ]);
        })
        .start()
        .await
        .unwrap();

    let begun = Instant::now();
    let tally = Arc::new(Tally::new(total));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|seed| tokio::spawn(clients::keep_asking(envoy.address(), Arc::clone(&tally), seed)))
        .collect();
    let reach = async |percent: u64| {
        let share = total * percent / 100;
        poll::until("its share of requests", DEADLINE, async || (tally.sent() >= share).then_some(())).await.unwrap();
    };

    reach(10).await;
    engines[0].kill().await;
    reach(25).await;
    engines[0].revive().await.unwrap();
    let before_revival = engines[0].received_count();
    reach(35).await;
    assert!(engines[0].received_count() > before_revival, "an engine that came back is used again");
    config_dir.pool(POOL, &addresses[..2]).unwrap();
    picker.wait_for_endpoints(2).await.unwrap();
    reach(45).await;
    config_dir.pool(POOL, &addresses).unwrap();
    picker.wait_for_endpoints(5).await.unwrap();
    reach(55).await;
    assert!(engines[4].received_count() > 0, "an endpoint that joined is used");
    let port = picker.grpc_address().port();
    drop(picker);
    let picker = start(port).await;
    reach(70).await;
    let memory_then = resident_memory(picker.process().pid()).unwrap();
    for client in clients {
        client.await.unwrap();
    }
    let memory_now = resident_memory(picker.process().pid()).unwrap();

    picker.wait_for_in_flight(0, SOON).await.unwrap();
    for engine in &engines {
        poll::until("an idle engine", SOON, async || (engine.load() == (0, 0)).then_some(())).await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{tally}, {:.0} requests/s; picker {} MiB at 70 %, {} MiB at the end",
        total as f64 / seconds,
        memory_then / 1024,
        memory_now / 1024,
    );
    assert_eq!(tally.astray(), Vec::<String>::new(), "answered by another endpoint than was decided");
    assert!(tally.answered() * 10 > total * 7, "most requests were answered: {tally}");
    assert!(memory_now < memory_then + 16 * 1024, "memory grew from {memory_then} KiB to {memory_now} KiB");
    // What was decided is also what the picker remembers.
    let id = tally.last_id().expect("requests were answered");
    let decision = picker.decision(&id).await.unwrap();
    let served = tally.last_engine().expect("requests were answered");
    assert_eq!(decision["endpoint"].as_str(), Some(served.to_string().as_str()), "{decision}");
}
