use super::*;
use crate::fixtures::{Scene, address, declared, pd_server, pool_of, seconds, server, text, worker};
use crate::{EngineHash, Gauges, KvEvent, Medium};

fn one_pool(endpoints: Vec<DeclaredEndpoint>) -> Declared {
    Declared { pools: vec![pool_of("pool", endpoints)], ..Declared::default() }
}

fn apply(scene: &mut Scene, declared: Declared) {
    assert!(scene.state.apply(scene.now, Event::Declared(declared)));
}

#[test]
fn an_endpoint_keeps_load_gauges_and_slot_over_declared_states() {
    let mut scene = Scene::of(one_pool(vec![declared(1, &[]), declared(2, &[])]));
    scene.scrape(2, Gauges { running: 3, ..Gauges::default() });
    let before = Arc::clone(&scene.pool().endpoints[1]);
    let mut unready = declared(2, &[]);
    unready.ready = false;
    apply(&mut scene, one_pool(vec![unready, declared(0, &[])]));
    let after = Arc::clone(&scene.pool().endpoints[1]);
    assert!(Arc::ptr_eq(&before.load, &after.load));
    assert_eq!((before.slot, &before.gauges, after.ready), (after.slot, &after.gauges, false));
    apply(&mut scene, one_pool(vec![declared(2, &[])]));
    assert_eq!(scene.snapshot().generation, 3);
}

#[test]
fn one_engine_in_two_pools_is_one_load_and_a_scrape_reaches_both() {
    let pools =
        vec![pool_of("pool", vec![declared(1, &[])]), pool_of("twin", vec![declared(1, &[]), declared(2, &[])])];
    let mut scene = Scene::of(Declared { pools, ..Declared::default() });
    scene.scrape(1, Gauges { waiting: 2, ..Gauges::default() });
    let snapshot = scene.snapshot();
    let endpoints: Vec<_> = snapshot.pools.values().map(|pool| &pool.endpoints[0]).collect();
    assert!(Arc::ptr_eq(endpoints[0], endpoints[1]));
    assert_eq!(endpoints[0].gauges.as_ref().unwrap().waiting, 2);
}

#[test]
fn another_pod_at_the_address_starts_anew_but_is_counted_once() {
    let mut scene = Scene::equal(1);
    scene.scrape(0, Gauges { running: 3, ..Gauges::default() });
    let decision = scene.ask(&text("x", 640)).unwrap();
    scene.learn(&decision);
    let in_flight = decision.endpoint().unwrap().load.begin(1);
    let mut other = declared(0, &[]);
    other.name = "default/successor".into();
    apply(&mut scene, one_pool(vec![other]));
    let endpoint = Arc::clone(&scene.pool().endpoints[0]);
    assert_eq!((endpoint.gauges.is_none(), endpoint.load.requests()), (true, 1));
    assert!(scene.snapshot().prefixes.is_empty());
    drop(in_flight);
    assert_eq!(endpoint.load.requests(), 0);
}

#[test]
fn a_slot_is_given_again_only_without_traces() {
    let mut scene = Scene::equal(1);
    let decision = scene.ask(&text("x", 640)).unwrap();
    scene.learn(&decision);
    let slot = scene.pool().endpoints[0].slot;
    apply(&mut scene, one_pool(Vec::new()));
    assert!(scene.snapshot().prefixes.is_empty());
    // A request of the endpoint that left ends late and is learned.
    scene.learn(&decision);
    apply(&mut scene, one_pool(vec![declared(9, &[])]));
    assert_eq!(scene.pool().endpoints[0].slot, slot);
    let again = scene.ask(&text("x", 640)).unwrap();
    assert_eq!(again.report.candidates[0].matched_blocks, 0);
}

#[test]
fn an_endpoint_that_comes_back_still_has_its_requests() {
    let mut scene = Scene::equal(1);
    let in_flight = scene.pool().endpoints[0].load.begin(5);
    apply(&mut scene, one_pool(Vec::new()));
    apply(&mut scene, one_pool(vec![declared(0, &[])]));
    assert_eq!(scene.pool().endpoints[0].load.requests(), 1);
    drop(in_flight);
    assert_eq!(scene.pool().endpoints[0].load.requests(), 0);
    assert!(scene.state.departed.is_empty());
}

#[test]
fn a_failed_scrape_changes_nothing_and_unknown_or_older_readings_are_ignored() {
    let mut scene = Scene::equal(1);
    scene.now = seconds(5);
    scene.scrape(0, Gauges { running: 1, ..Gauges::default() });
    let before = scene.snapshot();
    let late = Gauges { running: 9, read_at: seconds(4), ..Gauges::default() };
    for event in [
        Event::ScrapeFailed { address: address(0) },
        Event::Scraped { address: address(0), gauges: late.clone() },
        Event::Scraped { address: address(7), gauges: late },
    ] {
        assert!(!scene.state.apply(seconds(6), event));
    }
    assert!(Arc::ptr_eq(&before, &scene.snapshot()));
}

#[test]
fn a_scrape_copies_only_the_pools_that_it_is_about() {
    let pools = vec![pool_of("pool", vec![declared(1, &[])]), pool_of("other", vec![declared(2, &[])])];
    let mut scene = Scene::of(Declared { pools, ..Declared::default() });
    let before = scene.snapshot();
    scene.scrape(1, Gauges::default());
    let other = PoolName::new("default", "other");
    assert!(Arc::ptr_eq(&before.pools[&other], &scene.snapshot().pools[&other]));
    assert!(before.pools[&PoolName::new("default", "pool")].endpoints[0].gauges.is_none(), "a snapshot never changes");
    assert!(Arc::ptr_eq(&before.pools[&PoolName::new("default", "pool")].routing, &scene.pool().routing));
}

#[test]
fn what_an_engine_said_of_its_cache_leaves_with_the_pod_and_not_with_a_label() {
    let event = KvEvent::Stored {
        hashes: vec![EngineHash(1)],
        parent: None,
        tokens: vec![1; 16],
        block_size: 16,
        lora: None,
        salt: None,
        medium: Medium::Gpu,
    };
    let declare = |endpoints| Declared { pools: vec![pool_of("pool", endpoints)], ..Declared::default() };
    let mut scene = Scene::of(declare(vec![declared(0, &[])]));
    let slot = scene.pool().endpoints[0].slot;
    let kv = Arc::clone(&scene.snapshot().kv);
    kv.apply(slot, 0, std::slice::from_ref(&event));
    scene.state.apply(seconds(1), Event::Declared(declare(vec![declared(0, &[("app", "x")])])));
    assert_eq!((scene.pool().endpoints[0].slot, scene.snapshot().kv.usage().blocks), (slot, 1));
    let mut other = declared(0, &[("app", "x")]);
    other.name = "default/other".into();
    scene.state.apply(seconds(2), Event::Declared(declare(vec![other])));
    assert_eq!(kv.usage().blocks, 0, "another pod at the address");
    kv.apply(slot, 0, &[event]);
    scene.state.apply(seconds(3), Event::Declared(declare(Vec::new())));
    assert_eq!(scene.snapshot().kv.usage().blocks, 0);
}

#[test]
fn scrapes_teach_how_fast_an_endpoint_prefills() {
    let mut scene = Scene::equal(1);
    scene.scrape(0, Gauges { prefilled: Some((6_000, std::time::Duration::from_secs(1))), ..Gauges::default() });
    let prefill = scene.pool().endpoints[0].load.rates().speed().prefill;
    assert_eq!(prefill, 14_000.0, "a fifth of the way from 16,000");
}

#[test]
fn scrapes_teach_how_long_an_output_token_takes_and_another_pod_has_to_be_learned_anew() {
    let mut scene = Scene::equal(1);
    let step = |scene: &Scene| scene.pool().endpoints[0].load.rates().speed().step;
    let prior = step(&scene);
    scene.scrape(0, Gauges { time_per_output_token: Some(std::time::Duration::from_millis(132)), ..Gauges::default() });
    assert!((step(&scene) - 0.052).abs() < 1e-6, "a fifth of the way: {}", step(&scene));
    let mut other = declared(0, &[]);
    other.name = "default/other".into();
    scene.state.apply(seconds(1), Event::Declared(one_pool(vec![other])));
    assert_eq!(step(&scene), prior);
}

#[test]
fn the_engine_is_that_of_the_first_model_server_that_selects_the_pod() {
    let mut sglang = server("a", &[("app", "x")]);
    sglang.engine = EngineKind::Sglang;
    let declared = Declared {
        pools: vec![pool_of("pool", vec![declared(0, &[("app", "x")]), declared(1, &[])])],
        model_servers: vec![server("b", &[]), sglang],
        ..Declared::default()
    };
    let engines: Vec<_> = Scene::of(declared).pool().endpoints.iter().map(|endpoint| endpoint.engine).collect();
    assert_eq!(engines, [EngineKind::Sglang, EngineKind::Vllm]);
}

#[test]
fn nothing_is_known_before_the_first_declared_state() {
    let mut state = State::new(Arc::default());
    assert!(!state.snapshot().known);
    assert!(state.apply(Moment::START, Event::Declared(Declared::default())));
    assert!(state.snapshot().known);
}

fn with_workers(server: ModelServer, workers: Vec<DeclaredEndpoint>) -> Declared {
    let pools = vec![pool_of("pool", vec![worker(0, "decode", Some("a"))])];
    Declared { pools, model_servers: vec![server], workers, ..Declared::default() }
}

#[test]
fn prefill_pods_that_no_pool_selects_are_endpoints_like_others() {
    let prefill = || worker(1, "prefill", Some("a"));
    let mut scene = Scene::of(with_workers(pd_server(), vec![prefill()]));
    scene.scrape(1, Gauges { waiting: 3, ..Gauges::default() });
    let pool = scene.pool();
    let before = Arc::clone(&pool.prefills["default/pd"][0]);
    assert_eq!(pool.all_endpoints().map(|endpoint| endpoint.address).collect::<Vec<_>>(), [address(0), address(1)]);
    assert!(Arc::ptr_eq(pool.endpoint(address(1)).unwrap(), &before));
    assert_eq!(before.gauges.as_ref().unwrap().waiting, 3);
    assert_ne!(before.slot, pool.endpoints[0].slot);
    assert_eq!(pool.routing.role(&before), Some(Role::Prefill));
    assert_eq!(pool.routing.role(&pool.endpoints[0]), Some(Role::Decode));

    scene.snapshot().prefixes.learn(before.slot, &[crate::BlockHash(1)], 8);
    apply(&mut scene, with_workers(pd_server(), vec![prefill()]));
    assert!(Arc::ptr_eq(&scene.pool().prefills["default/pd"][0], &before), "nothing has changed for it");
    apply(&mut scene, with_workers(pd_server(), Vec::new()));
    assert!(scene.pool().prefills["default/pd"].is_empty() && scene.snapshot().prefixes.is_empty());
}

#[test]
fn prefill_pods_are_reached_at_the_servers_port_or_at_the_pools() {
    let ports = |port: Option<u16>| {
        let workers = [8000, 9000].map(|port| {
            let mut worker = worker(1, "prefill", Some("a"));
            worker.address.set_port(port);
            worker
        });
        let server = ModelServer { port, ..pd_server() };
        let pool = Scene::of(with_workers(server, workers.to_vec())).pool();
        pool.prefills["default/pd"].iter().map(|endpoint| endpoint.address.port()).collect::<Vec<_>>()
    };
    assert_eq!((ports(Some(9000)), ports(None)), (vec![9000], vec![8000]));
}

#[test]
fn a_changed_pd_group_gives_every_pod_its_role_anew() {
    let mut scene = Scene::of(with_workers(pd_server(), vec![worker(1, "prefill", Some("a"))]));
    let mut swapped = pd_server();
    let group = swapped.pd_group.as_mut().unwrap();
    std::mem::swap(&mut group.prefill_labels, &mut group.decode_labels);
    apply(&mut scene, with_workers(swapped, vec![worker(0, "decode", Some("a"))]));
    let pool = scene.pool();
    assert_eq!(pool.routing.role(&pool.endpoints[0]), Some(Role::Prefill));
    assert!(Arc::ptr_eq(&pool.prefills["default/pd"][0], &pool.endpoints[0]), "one engine is one endpoint");
    assert_eq!(pool.all_endpoints().count(), 1);
}

#[test]
fn a_scrape_of_an_endpoint_that_is_in_both_lists_reaches_both() {
    let mut declared = with_workers(pd_server(), vec![worker(1, "prefill", Some("a"))]);
    declared.pools[0].endpoints.push(worker(1, "prefill", Some("a")));
    let mut scene = Scene::of(declared);
    scene.scrape(1, Gauges { waiting: 3, ..Gauges::default() });
    let pool = scene.pool();
    assert!(Arc::ptr_eq(&pool.prefills["default/pd"][0], &pool.endpoints[1]));
    assert!(pool.endpoints[1].gauges.is_some());
}

#[test]
fn a_pod_that_becomes_ready_again_is_no_outlier_any_more() {
    let mut scene = Scene::equal(1);
    let load = Arc::clone(&scene.pool().endpoints[0].load);
    let fail = || (0..5).filter_map(|_| load.outcome(false, Moment::START)).count();
    fail();
    let unready = || DeclaredEndpoint { ready: false, ..declared(0, &[]) };
    apply(&mut scene, one_pool(vec![unready()]));
    assert!(load.is_outlier(scene.now));
    apply(&mut scene, one_pool(vec![declared(0, &[])]));
    assert!(!load.is_outlier(scene.now));
    fail();
    apply(&mut scene, one_pool(vec![DeclaredEndpoint { name: "default/other".into(), ..declared(0, &[]) }]));
    assert!(!load.is_outlier(scene.now), "nor is another pod at its address");
}
