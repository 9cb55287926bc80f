//! What one decision costs: default profile, 10, 100 and 1,000 endpoints with gauges, prompts of 16
//! and 750 blocks, warm index. `cargo bench -p scheduling`
//!
//! Every endpoint holds the first blocks (a shared system prompt), one in ten holds half of the
//! prompt, and one endpoint all of it: so a look-up meets several depths.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a bench fails loudly, as a test does")]

use std::borrow::Cow;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduling::{
    Body, Content, Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, Gauges, Headers, Moment, PoolName,
    PrefixIndex, Profile, Prompt, Request, State, schedule,
};

const BLOCK_BYTES: usize = 64;

#[derive(Debug)]
struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

fn decision(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    for blocks in [16, 750] {
        for endpoints in [10, 100, 1000] {
            let name = BenchmarkId::new(format!("{blocks}-blocks"), endpoints);
            group.bench_function(name, |bencher| {
                let (profile, state, text) = world(endpoints, blocks);
                let snapshot = state.snapshot();
                let pool = snapshot.pools.values().next().expect("the pool is declared");
                let request = request(&text);
                let mut rng = SmallRng::seed_from_u64(1);
                let now = Moment::after(Duration::from_secs(1));
                let mut decide = || schedule(&profile, &snapshot, pool, black_box(&request), now, &mut rng);
                let first = decide().expect("somebody is ready");
                assert_eq!(first.report.blocks as usize, blocks, "the whole prompt is looked at");
                assert!(
                    first.report.candidates.iter().any(|it| it.matched_blocks as usize == blocks),
                    "the index is warm"
                );
                bencher.iter(&mut decide);
            });
        }
    }
    group.finish();
}

/// A fleet whose index has learned the prompt.
fn world(endpoints: usize, blocks: usize) -> (Profile, State, Vec<u8>) {
    let profile = serde_json::json!({"scheduler": {"pluginConfig": [
        {"name": "prefix-cache", "args": {"blockSizeToHash": BLOCK_BYTES, "maxBlocksToMatch": 750}},
    ]}});
    let profile = Profile::from_value(&profile).expect("the profile is right");
    let text: Vec<u8> = (0..blocks * BLOCK_BYTES).map(|place| (place * 7 % 251) as u8).collect();
    let mut state = State::new(Arc::new(PrefixIndex::default()));
    let address = |number: usize| SocketAddr::from(([10, 0, (number / 256) as u8, (number % 256) as u8], 8000));
    let declared = (0..endpoints).map(|number| DeclaredEndpoint {
        address: address(number),
        name: format!("default/pod-{number}").into(),
        labels: Arc::default(),
        ready: true,
        engine: EngineKind::Vllm,
    });
    let pool = DeclaredPool { name: PoolName::new("default", "pool"), picker: None, endpoints: declared.collect() };
    state.apply(Moment::START, Event::Declared(Declared { pools: vec![pool], ..Declared::default() }));
    for number in 0..endpoints {
        let gauges = Gauges {
            running: number as u32 % 13,
            kv_usage: Some(number as f64 % 17.0 / 17.0),
            time_to_first_token: Some(Duration::from_millis(100 + number as u64 % 50)),
            time_per_output_token: Some(Duration::from_millis(10 + number as u64 % 5)),
            ..Gauges::default()
        };
        state.apply(Moment::START, Event::Scraped { address: address(number), gauges });
    }
    let snapshot = state.snapshot();
    let pool = snapshot.pools.values().next().expect("the pool is declared");
    let mut rng = SmallRng::seed_from_u64(1);
    let decision = schedule(&profile, &snapshot, pool, &request(&text), Moment::START, &mut rng);
    let hashes = decision.expect("somebody is ready").blocks;
    for (number, endpoint) in pool.endpoints.iter().enumerate() {
        let held = match number {
            0 => blocks,
            number if number % 10 == 1 => blocks / 2,
            _ => blocks / 8,
        };
        snapshot.prefixes.learn(endpoint.slot, &hashes[..held], 50_000);
    }
    (profile, state, text)
}

fn request(text: &[u8]) -> Request<'_> {
    let body = Body {
        model: Cow::Borrowed("llama"),
        stream: true,
        max_tokens: None,
        prompt: Prompt { pieces: vec![Cow::Borrowed(text)] },
    };
    Request {
        id: "1",
        path: "/v1/completions",
        headers: &NoHeaders,
        content: Content::Parsed(body),
        subset: None,
        tokens: None,
        resolution: None,
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decision(&mut criterion);
    criterion.final_summary();
}
