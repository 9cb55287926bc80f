//! Prefill and decode in engines of their own, by manifests alone: no sidecar.

use serde_json::json;
use tests::config_dir::{ConfigDir, Group};
use tests::poll;

use crate::fleet::{Fleet, MODEL, Role, SOON};
use crate::stage::{POOL, Stage, alone, fixed, long_prompt, prompt_tokens, token_ids};

const TOKENS: u32 = 16;
pub(crate) const PREFILLS: &str = "kthena_router_prefill_requests_total";

#[tokio::test]
async fn a_nixl_pair_moves_the_blocks_and_makes_the_tokens_of_a_single_engine() {
    let fleet = Fleet::start(&[Role::Prefill, Role::Decode, Role::Whole]).await.unwrap();
    let [prefill, decode, whole] = fleet.addresses()[..] else { panic!("three engines") };
    let config = ConfigDir::new().unwrap();
    let group = Group { prefills: vec![prefill], decodes: vec![decode] };
    config.pairs(POOL, MODEL, &[group], &json!({}), |_| {}).unwrap();
    let stage = Stage::before(fleet, config, &[decode], |options| options).await;
    let (prefill, decode) = (stage.fleet.at(prefill), stage.fleet.at(decode));
    let single = stage.fleet.at(whole).client();

    let mut moved = 0;
    for seed in ["alice", "bob", "carol", "dave"] {
        let prompt = long_prompt(seed);
        let reply = fixed(stage.client.complete(MODEL, &prompt), TOKENS).send().await.unwrap();
        let decision = stage.decision(&reply).await;
        assert_eq!(decision["endpoint"], decode.address().to_string(), "{decision:#}");
        assert_eq!(decision["disaggregation"]["prefills"], json!([prefill.address().to_string()]), "{decision:#}");
        assert_eq!(token_ids(&reply), alone(&single, &prompt, TOKENS).await, "{seed}");
        moved += prompt_tokens(&reply);
    }
    // A chat, streamed.
    let ask = fixed(stage.client.chat(MODEL, &[("user", &long_prompt("erin"))]), TOKENS).stream(true);
    let reply = ask.send().await.unwrap();
    assert!(reply.status == 200 && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    let ask = fixed(single.chat(MODEL, &[("user", &long_prompt("erin"))]), TOKENS).stream(true);
    let expected = ask.send().await.unwrap();
    let words = |reply: &tests::client::Reply| -> String {
        reply
            .events()
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(String::from))
            .collect()
    };
    assert_eq!(words(&reply), words(&expected));
    moved += prompt_tokens(&reply);

    // Each prompt was computed once, by prefill, and fetched whole.
    let source = |name: &str| format!("source=\"{name}\"");
    poll::until("the engines' own account", SOON, async || {
        let fetched = decode.metric("vllm:external_prefix_cache_hits_total", &[]).await.ok()?;
        (fetched == moved as f64).then_some(())
    })
    .await
    .unwrap();
    let sources = "vllm:prompt_tokens_by_source_total";
    assert_eq!(decode.metric(sources, &[&source("external_kv_transfer")]).await.unwrap(), moved as f64);
    assert_eq!(decode.metric(sources, &[&source("local_compute")]).await.unwrap(), 0.0);
    assert_eq!(prefill.metric(sources, &[&source("local_compute")]).await.unwrap(), moved as f64);
    assert!(decode.metric("vllm:nixl_bytes_transferred_sum", &[]).await.unwrap() > 0.0);
    assert_eq!(stage.counted(PREFILLS, &["outcome=\"ok\""]).await, 5.0);

    // What decode holds already, and what is short, it computes itself.
    for prompt in [long_prompt("alice"), "short".to_owned()] {
        let reply = fixed(stage.client.complete(MODEL, &prompt), TOKENS).send().await.unwrap();
        assert_eq!(token_ids(&reply), alone(&single, &prompt, TOKENS).await);
    }
    assert_eq!(stage.counted(PREFILLS, &[]).await, 5.0);
    assert_eq!(decode.metric("vllm:external_prefix_cache_hits_total", &[]).await.unwrap(), moved as f64);
    stage.assert_idle().await;
    println!("{moved} prompt tokens moved by NIXL in 5 requests, all tokens equal to a single engine's");
}
