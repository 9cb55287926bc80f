//! What the picker believes of caches, against the engines' own counters.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tests::client::{Client, Completion, Reply};
use tests::config_dir::ConfigDir;
use tests::picker::PickerOptions;
use tests::poll;
use tests::scratch::Scratch;

use crate::fleet::{BLOCK, Engine, Fleet, MODEL, Role, SOON};
use crate::stage::{POOL, Stage, by_endpoint, fixed, prompt_tokens};

/// And system messages.
const ENGINES: usize = 3;
const CONVERSATIONS: usize = 2 * ENGINES;
const TURNS: usize = 4;

/// Three engines, and a picker that goes by the cache alone where there is one, and by chance else.
async fn stage(scorer: &str, files: &Scratch) -> Stage {
    let fleet = Fleet::start(&[Role::Whole; ENGINES]).await.unwrap();
    let port = fleet.ports.events;
    cached_stage(fleet, scorer, files, port, |options| options).await
}

/// A picker before `fleet` that hears KV events on `port`, and goes by the cache alone or else by chance.
pub(crate) async fn cached_stage(
    fleet: Fleet,
    scorer: &str,
    files: &Scratch,
    port: u16,
    vary: impl FnOnce(PickerOptions) -> PickerOptions,
) -> Stage {
    let addresses = fleet.addresses();
    let config = ConfigDir::new().unwrap();
    config.pool(POOL, &addresses).unwrap();
    let profile = json!({"scheduler": {"plugins": {"Score": {"enabled": [
        {"name": scorer, "weight": 1}, {"name": "random", "weight": 0.01},
    ]}}}});
    let path = files.file("profile.yaml");
    std::fs::write(&path, profile.to_string()).unwrap();
    let (ports, tokenizers) = (fleet.ports, fleet.tokenizers());
    let stage = Stage::before(fleet, config, &addresses, |options| {
        vary(options)
            .flag("--scheduler-config", path.display())
            .flag("--tokenizer-dir", tokenizers.display())
            .flag("--kv-events-port", port)
            .flag("--kv-replay-port", ports.replay)
    })
    .await;
    if scorer == "kvcache-aware" {
        // Each engine has told something: from now on the picker goes by its events.
        for engine in stage.fleet.engines() {
            past(&stage, engine, ids(&engine.client(), &(300..400).collect::<Vec<u32>>())).await;
        }
    }
    stage
}

/// Has `engine` answer past the picker, which learns of it from the engine alone.
pub(crate) async fn past(stage: &Stage, engine: &Engine, ask: Completion) {
    let name = engine.address().to_string();
    let before = batches(stage, &name).await.unwrap();
    assert_eq!(ask.send().await.unwrap().status, 200);
    heard(stage, &name, before).await;
}

/// A prompt of token ids.
pub(crate) fn ids(client: &Client, prompt: &[u32]) -> Completion {
    fixed(client.complete(MODEL, ""), 1).field("prompt", prompt)
}

/// A thousand token ids, others for each seed.
pub(crate) fn thousand(seed: u32) -> Vec<u32> {
    (0..1000).map(|place| 3 + (seed * 89 + place * 7) % 480).collect()
}

/// What the picker said the engine that it chose holds of the prompt, and what that engine took from its cache.
pub(crate) async fn foretold_and_taken(stage: &Stage, reply: &Reply) -> (u64, u64) {
    let decision = stage.decision(reply).await;
    let held = chosen(&decision)["heldTokens"].as_u64().unwrap_or_else(|| panic!("not exact: {decision:#}"));
    (held, cached(reply))
}

/// Conversations that begin with one of three system messages, and grow by a turn each time.
fn chat(client: &Client, conversation: usize, turn: usize) -> Completion {
    let manner = ["Strict", "Gentle", "Witty"][conversation % ENGINES];
    let system = format!("{manner} instructions for assistants. ").repeat(12);
    let said: Vec<String> =
        (0..=turn).map(|turn| format!("person {conversation} says line {turn}. ").repeat(5)).collect();
    let mut messages = vec![("system", system.as_str())];
    messages.extend(said.iter().map(|text| ("user", text.as_str())));
    fixed(client.chat(MODEL, &messages), 1)
}

/// Tokens that the engine took from its cache, by its answer.
pub(crate) fn cached(reply: &Reply) -> u64 {
    reply.usage().expect("usage")["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
}

/// Waits until the picker has heard a batch of the engine's events after number `before`. A request for
/// one token is one step of the engine and, where it fills a block, one batch.
pub(crate) async fn heard(stage: &Stage, engine: &str, before: u64) {
    poll::until("the engine's events", SOON, async || (batches(stage, engine).await? > before).then_some(()))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", stage.picker.log()));
}

/// Batches of events that are known of the engine.
pub(crate) async fn batches(stage: &Stage, engine: &str) -> Option<u64> {
    let fleet = stage.picker.fleet().await.ok()?;
    let endpoint = fleet.into_iter().find(|endpoint| endpoint["address"] == engine)?;
    // None before the first is followed.
    let ranks = endpoint["kvEvents"].as_array().into_iter().flatten();
    Some(ranks.map(|rank| rank["nextSequence"].as_u64().unwrap_or(0)).sum())
}

/// The candidate that was chosen.
fn chosen(decision: &Value) -> &Value {
    let candidates = decision["candidates"].as_array().expect("candidates");
    candidates.iter().find(|candidate| candidate["address"] == decision["endpoint"]).expect("the chosen one")
}

/// The engines' own count of hits, all of them together.
pub(crate) async fn hits(stage: &Stage) -> u64 {
    let mut sum = 0.0;
    for engine in stage.fleet.engines() {
        sum += engine.metric("vllm:prefix_cache_hits_total", &[]).await.unwrap();
    }
    sum as u64
}

#[tokio::test]
async fn the_index_of_blocks_equals_the_engines_own_hit_counters() {
    let files = Scratch::new("profile").unwrap();
    let stage = stage("kvcache-aware", &files).await;
    // Each system message is somewhere, and the picker had no part in it: persons 99 to 101 ask nothing more.
    for (place, engine) in stage.fleet.engines().iter().enumerate() {
        past(&stage, engine, chat(&engine.client(), 99 + place, 0)).await;
    }
    let mut decisions = Vec::new();
    let (mut foretold, mut taken) = (0, 0);
    for turn in 0..TURNS {
        for conversation in 0..CONVERSATIONS {
            let mut sequences = BTreeMap::new();
            for address in stage.fleet.addresses() {
                let address = address.to_string();
                sequences.insert(address.clone(), batches(&stage, &address).await.unwrap());
            }
            let reply = chat(&stage.client, conversation, turn).send().await.unwrap();
            let decision = stage.decision(&reply).await;
            let engine = decision["endpoint"].as_str().unwrap().to_owned();
            let chosen = chosen(&decision);
            let held = chosen["heldTokens"].as_u64().unwrap_or_else(|| panic!("not exact: {decision:#}"));
            // Of a prompt that it holds whole an engine computes the last block again.
            let most = (prompt_tokens(&reply) - 1) / BLOCK as u64 * BLOCK as u64;
            assert_eq!(cached(&reply), held.min(most), "{decision:#}");
            for candidate in decision["candidates"].as_array().unwrap() {
                let other = candidate["heldTokens"].as_u64().unwrap();
                assert!(other <= held && held > 0, "it did not go where the blocks are: {decision:#}");
            }
            foretold += held.min(most);
            taken += cached(&reply);
            let home = stage.fleet.addresses()[conversation % ENGINES];
            assert_eq!(engine, home.to_string(), "it did not go where the blocks are: {decision:#}");
            decisions.push(decision);
            // Each turn fills a block: the engine tells of it, and only then the next one is asked.
            heard(&stage, &engine, sequences[&engine]).await;
        }
    }
    assert_eq!((foretold, foretold), (taken, hits(&stage).await));
    assert_eq!(stage.counted("kthena_router_tokens_total", &["source=\"none\""]).await, 0.0);
    stage.assert_idle().await;
    println!(
        "{foretold} cached tokens foretold in {} decisions, {taken} taken and counted by the engines; decisions {:?}",
        decisions.len(),
        by_endpoint(&decisions)
    );
}

#[tokio::test]
async fn the_index_follows_what_engines_compute_and_evict() {
    let files = Scratch::new("profile").unwrap();
    let stage = stage("kvcache-aware", &files).await;
    let warm = &stage.fleet.engines()[1];
    let name = warm.address().to_string();
    let ask = |seed: u32| ids(&stage.client, &thousand(seed));
    let held_at_warm = |decision: &Value| {
        let candidates = decision["candidates"].as_array().unwrap();
        let own = candidates.iter().find(|candidate| candidate["address"] == *name).unwrap();
        own["heldTokens"].as_u64().unwrap_or_else(|| panic!("not exact: {decision:#}"))
    };
    past(&stage, warm, ids(&warm.client(), &thousand(1))).await;
    let reply = ask(1).send().await.unwrap();
    let decision = stage.decision(&reply).await;
    assert_eq!((decision["endpoint"].as_str(), held_at_warm(&decision)), (Some(&name[..]), 992), "{decision:#}");
    assert_eq!(cached(&reply), 992);

    // Five more such prompts do not fit beside the first: it is evicted.
    for seed in 2..7 {
        past(&stage, warm, ids(&warm.client(), &thousand(seed))).await;
    }
    let reply = ask(1).send().await.unwrap();
    let decision = stage.decision(&reply).await;
    assert_eq!(held_at_warm(&decision), 0, "{decision:#}");
    assert_eq!(cached(&reply), 0);
    // The newest one is still there.
    let reply = ask(6).send().await.unwrap();
    let decision = stage.decision(&reply).await;
    assert_eq!(decision["endpoint"], *name, "{decision:#}");
    assert_eq!(cached(&reply), held_at_warm(&decision), "{decision:#}");
    assert!(cached(&reply) > 0);
    stage.assert_idle().await;
}

#[tokio::test]
async fn a_shared_prefix_stays_with_its_engine_also_without_events() {
    let files = Scratch::new("profile").unwrap();
    let stage = stage("prefix-cache", &files).await;
    let mut homes: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for turn in 0..TURNS {
        for conversation in 0..CONVERSATIONS {
            let reply = chat(&stage.client, conversation, turn).send().await.unwrap();
            let decision = stage.decision(&reply).await;
            homes.entry(conversation).or_default().insert(decision["endpoint"].as_str().unwrap().to_owned());
            assert!(turn == 0 || cached(&reply) > 0, "{decision:#}");
        }
    }
    assert!(homes.values().all(|engines| engines.len() == 1), "conversations stay where they are: {homes:?}");
    stage.assert_idle().await;
}
