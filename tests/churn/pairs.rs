//! A bad day of prefill and decode pods: clients that go away, prefill pods that die, engines that
//! restart. Nothing is left in flight, no transfer parameter is used twice, no pair crosses groups.
//!
//! `KTHENA_CHURN_PAIRS` sets how many requests are sent (20,000 unless set).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tests::client::Client;
use tests::config_dir::{ConfigDir, Group};
use tests::engine::{Engine, EngineConfig};
use tests::picker::Picker;
use tests::poll;
use tests::shapes::Pool;
use tests::shapes::plain::{self, Body};
use tests::usage::resident_memory;

use crate::{DEADLINE, SOON};

/// Clients at once.
const CONNECTIONS: u64 = 48;
/// Prefill and decode engines of each of the two groups.
const PREFILLS: usize = 2;
const DECODES: usize = 2;

/// What became of the requests.
#[derive(Debug)]
struct Tally {
    total: u64,
    sent: AtomicU64,
    answered: AtomicU64,
    given_up: AtomicU64,
    failed: AtomicU64,
}

async fn keep_asking(gateway: SocketAddr, tally: Arc<Tally>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let client = Client::new(gateway);
    loop {
        let number = tally.sent.fetch_add(1, Ordering::Relaxed);
        if number >= tally.total {
            return;
        }
        // Never seen before: a prompt that decode holds would not be transferred.
        let prompt = format!("{number} {}", "Be short and exact. ".repeat(80));
        let ask = client.complete("m", &prompt).stream(rng.random_bool(0.5)).max_tokens(4).send();
        // Anywhere from before the prefill to the middle of the answer.
        let patience = rng.random_bool(0.2).then(|| Duration::from_micros(rng.random_range(0..40_000)));
        let reply = tokio::time::timeout(patience.unwrap_or(DEADLINE), ask).await;
        let what = match reply {
            Err(_) => &tally.given_up,
            Ok(Ok(reply)) if reply.status == 200 => &tally.answered,
            Ok(_) => &tally.failed,
        };
        what.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_bad_day_of_pairs_nothing_was_used_twice_and_nothing_is_left() {
    let total = std::env::var("KTHENA_CHURN_PAIRS").map_or(20_000, |count| count.parse().expect("a number"));
    let mut config = EngineConfig::timed("m", 0.02);
    // What nobody fetches is given up soon.
    config.kv_lease = Duration::from_secs(2);
    let mut engines = Engine::start_many(vec![config; 2 * (PREFILLS + DECODES)]).await.unwrap();
    let mut decodes = engines.split_off(2 * PREFILLS);
    let mut prefills = engines;
    let addresses = |engines: &[Engine]| engines.iter().map(Engine::address).collect::<Vec<_>>();
    let groups: Vec<Group> = std::iter::zip(prefills.chunks(PREFILLS), decodes.chunks(DECODES))
        .map(|(prefills, decodes)| Group { prefills: addresses(prefills), decodes: addresses(decodes) })
        .collect();
    let config_dir = ConfigDir::new().unwrap();
    config_dir.pairs("llama", "m", &groups, &json!({}), |_| {}).unwrap();
    let picker = Picker::start(config_dir.path()).await.unwrap();
    let mut gateway = plain::config(&Pool::new("llama", &addresses(&decodes), picker.grpc_address()), Body::FullDuplex);
    // A retry might take an engine of the other group.
    let route = &mut gateway.manager()["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
    route.as_object_mut().unwrap().remove("retry_policy").expect("there was one");
    let envoy = gateway.start().await.unwrap();

    let begun = Instant::now();
    let counter = AtomicU64::default;
    let tally = Arc::new(Tally { total, sent: counter(), answered: counter(), given_up: counter(), failed: counter() });
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|seed| tokio::spawn(keep_asking(envoy.address(), Arc::clone(&tally), seed))).collect();
    let reach = async |percent: u64| {
        let share = total * percent / 100;
        let sent = async || (tally.sent.load(Ordering::Relaxed) >= share).then_some(());
        poll::until("its share of requests", DEADLINE, sent).await.unwrap();
    };
    let mut memory_then = 0;
    for percent in (10..=90).step_by(10) {
        reach(percent).await;
        let turn = usize::try_from(percent).unwrap() / 10;
        prefills[turn % 4].kill().await;
        if turn % 3 == 0 {
            decodes[turn % 4].kill().await;
        }
        reach(percent + 4).await;
        prefills[turn % 4].revive().await.unwrap();
        decodes[turn % 4].revive().await.unwrap();
        if percent == 60 {
            memory_then = resident_memory(picker.process().pid()).unwrap();
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let memory_now = resident_memory(picker.process().pid()).unwrap();

    picker.wait_for_in_flight(0, SOON).await.unwrap();
    for engine in prefills.iter().chain(&decodes) {
        poll::until("an idle engine", SOON, async || (engine.load() == (0, 0)).then_some(())).await.unwrap();
    }
    let [kept, fetched] = [|engine: &Engine| engine.transfers().kept, |engine: &Engine| engine.transfers().fetched]
        .map(|count| prefills.iter().map(count).sum::<u64>());
    let metrics = picker.metrics().await.unwrap();
    let sum = |name: &str| metrics.sum(&format!("kthena_router_prefill_{name}_total"), &[]).unwrap_or_default();
    println!(
        "{tally:?}, {:.0} requests/s; {} prefill calls, {kept} prompts kept, {fetched} fetched, {} done by decode alone, \
         {} orphaned; picker {} MiB at 60 %, {} MiB at the end",
        total as f64 / seconds,
        sum("requests"),
        sum("fallbacks"),
        sum("orphaned"),
        memory_then / 1024,
        memory_now / 1024,
    );
    for (prefills, decodes) in std::iter::zip(prefills.chunks(PREFILLS), decodes.chunks(DECODES)) {
        let own: BTreeSet<SocketAddr> = prefills.iter().map(Engine::address).collect();
        for engine in prefills.iter().chain(decodes) {
            let transfers = engine.transfers();
            assert_eq!((transfers.used_twice, transfers.altered), (0, 0), "{}: {transfers:?}", engine.address());
            assert!(transfers.sources.is_subset(&own), "{}: {transfers:?}", engine.address());
        }
    }
    assert!(tally.answered.load(Ordering::Relaxed) * 10 > total * 6, "most requests were answered: {tally:?}");
    assert!(fetched * 2 > total, "most were transferred");
    assert!(memory_now < memory_then + 16 * 1024, "memory grew from {memory_then} KiB to {memory_now} KiB");
}
