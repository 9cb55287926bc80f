//! Engines that die in the middle of their work.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tests::config_dir::{ConfigDir, Group};
use tests::poll;

use crate::fleet::{Fleet, MODEL, Role, SOON};
use crate::stage::{POOL, Stage, alone, fixed, long_prompt, token_ids};

#[tokio::test]
async fn an_engine_killed_while_it_answers_takes_only_its_own_answers_with_it() {
    let fleet = Fleet::start(&[Role::Whole, Role::Whole]).await.unwrap();
    let addresses = fleet.addresses();
    let config = ConfigDir::new().unwrap();
    config.pool(POOL, &addresses).unwrap();
    let stage = Stage::before(fleet, config, &addresses, |options| options).await;

    // Eight long answers have begun, on both engines.
    let asks = (0..8).map(|turn| {
        let ask = stage.client.complete(MODEL, &format!("{turn}")).max_tokens(1500);
        ask.field("ignore_eos", true).stream(true).call().start()
    });
    let mut answers = Vec::new();
    for answer in join_all(asks).await {
        let mut answer = answer.unwrap();
        answer.next().await.unwrap();
        answers.push(answer);
    }
    let in_flight = stage.picker.in_flight().await.unwrap();
    let [lost, kept] = [in_flight[&addresses[0]], in_flight[&addresses[1]]];
    assert!(lost > 0 && kept > 0 && lost + kept == 8, "{in_flight:?}");
    stage.fleet.kill(stage.fleet.at(addresses[0])).await.unwrap();
    let ends = join_all(answers.into_iter().map(|answer| answer.finish())).await;
    let whole = ends.iter().flatten().filter(|reply| reply.text().ends_with("data: [DONE]\n\n")).count();
    assert_eq!(whole as u64, kept, "the survivor's answers are complete, and only those");

    // Whoever comes now is served.
    let asks = (0..20).map(|turn| fixed(stage.client.complete(MODEL, &format!("again {turn}")), 4).send());
    for reply in join_all(asks).await {
        token_ids(&reply.unwrap());
    }
    stage.assert_idle().await;
    println!("an engine died with {lost} of 8 answers; the other {kept} and 20 later requests were answered");
}

#[tokio::test]
async fn a_prefill_engine_killed_among_requests_costs_none_of_them() {
    const REQUESTS: usize = 24;
    let fleet = Fleet::start(&[Role::Prefill, Role::Prefill, Role::Decode, Role::Whole]).await.unwrap();
    let [victim, other, decode, whole] = fleet.addresses()[..] else { panic!("four engines") };
    let config = ConfigDir::new().unwrap();
    let group = Group { prefills: vec![victim, other], decodes: vec![decode] };
    config.pairs(POOL, MODEL, &[group], &json!({}), |_| {}).unwrap();
    let stage = Stage::before(fleet, config, &[decode], |options| options).await;

    let done = AtomicUsize::new(0);
    let ask = async |turn: usize| {
        let prompt = long_prompt(&format!("client {turn}"));
        let reply = fixed(stage.client.complete(MODEL, &prompt), 8).send().await.unwrap();
        done.fetch_add(1, Ordering::Relaxed);
        (prompt, token_ids(&reply))
    };
    let killing = async {
        poll::until("requests over both prefill engines", SOON, async || {
            let used = stage.fleet.at(victim).metric("vllm:request_success_total", &[]).await.ok()? > 0.0;
            (used && done.load(Ordering::Relaxed) >= 4).then_some(())
        })
        .await
        .unwrap();
        stage.fleet.kill(stage.fleet.at(victim)).await.unwrap();
        done.load(Ordering::Relaxed)
    };
    let asking = stream::iter(0..REQUESTS).map(ask).buffer_unordered(4).collect::<Vec<_>>();
    let (answers, before) = tokio::join!(asking, killing);
    assert!(before < REQUESTS, "the engine died after everything");
    let single = stage.fleet.at(whole).client();
    for (prompt, tokens) in answers {
        assert_eq!(tokens, alone(&single, &prompt, 8).await);
    }
    stage.assert_idle().await;
    println!("a prefill engine died after {before} of {REQUESTS} requests; all were answered, with the right tokens");
}
