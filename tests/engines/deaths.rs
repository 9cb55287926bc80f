//! Engines that die in the middle of their work.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tests::config_dir::{ConfigDir, Group};
use tests::picker::PickerOptions;
use tests::poll;

use crate::fleet::{Fleet, MODEL, Role, SOON};
use crate::pairs::PREFILLS;
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

#[tokio::test]
async fn a_decode_engine_killed_while_it_answers_takes_only_its_own_answers_with_it() {
    let fleet = Fleet::start(&[Role::Prefill, Role::Decode, Role::Decode, Role::Whole]).await.unwrap();
    let [prefill, victim, other, whole] = fleet.addresses()[..] else { panic!("four engines") };
    let config = ConfigDir::new().unwrap();
    let group = Group { prefills: vec![prefill], decodes: vec![victim, other] };
    config.pairs(POOL, MODEL, &[group], &json!({}), |_| {}).unwrap();
    // On a busy machine a prefill takes longer than it may by default.
    let patient = |options: PickerOptions| options.flag("--exchange-timeout", "90s");
    let stage = Stage::before(fleet, config, &[victim, other], patient).await;

    let prompt = |turn: usize| long_prompt(&format!("client {turn}")).chars().take(1100).collect::<String>();
    // What an engine does for the first time takes seconds.
    let mut warm = BTreeSet::new();
    for turn in 100..120 {
        let reply = fixed(stage.client.complete(MODEL, &prompt(turn)), 4).send().await.unwrap();
        warm.insert(stage.decision(&reply).await["endpoint"].to_string());
        if warm.len() == 2 {
            break;
        }
    }
    let ok = &["outcome=\"ok\""];
    let before = stage.counted(PREFILLS, ok).await;

    // Four long answers, on both decode engines, of prompts that the prefill engine computed. The victim dies as soon as
    // its first one has begun.
    let killed = AtomicBool::new(false);
    let asks = (0..4).map(async |turn| {
        let ask = stage.client.complete(MODEL, &prompt(turn)).max_tokens(700);
        let mut answer = ask.field("ignore_eos", true).stream(true).call().start().await.unwrap();
        let begun = answer.next().await.ok().flatten().unwrap_or_default();
        // The engine's name for the answer ends with the request's.
        let begun = String::from_utf8_lossy(&begun).into_owned();
        let id = begun.split_once("\"cmpl-").and_then(|(_, rest)| rest.split_once('"'));
        let endpoint = match id {
            Some((id, _)) => stage.picker.decision(id).await.unwrap()["endpoint"].clone(),
            None => json!(null),
        };
        let is_first = endpoint == victim.to_string() && !killed.swap(true, Ordering::SeqCst);
        if is_first {
            stage.fleet.kill(stage.fleet.at(victim)).await.unwrap();
        }
        let end = answer.finish().await;
        (endpoint, is_first, end.is_ok_and(|reply| reply.status == 200 && reply.text().ends_with("data: [DONE]\n\n")))
    });
    let ends = join_all(asks).await;
    let [by_victim, by_other] = [victim, other].map(|engine| {
        ends.iter()
            .filter(|(endpoint, ..)| *endpoint == engine.to_string())
            .map(|(.., whole)| *whole)
            .collect::<Vec<_>>()
    });
    assert!(ends.iter().any(|(_, is_first, whole)| *is_first && !whole), "{ends:?}");
    assert!(!by_other.is_empty() && by_other.iter().all(|whole| *whole), "{ends:?}");
    assert_eq!(stage.counted(PREFILLS, ok).await - before, 4.0);

    // Whoever comes now is served by the pair that is left, with the right tokens.
    let single = stage.fleet.at(whole).client();
    for turn in 4..10 {
        let reply = fixed(stage.client.complete(MODEL, &prompt(turn)), 8).send().await.unwrap();
        assert_eq!(token_ids(&reply), alone(&single, &prompt(turn), 8).await, "{turn}");
    }
    stage.assert_idle().await;
    let (lost, kept) = (by_victim.iter().filter(|whole| !**whole).count(), by_other.len());
    println!("a decode engine died with {lost} of 4 answers; the other's {kept} and 6 later requests were answered");
}
