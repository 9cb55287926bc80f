//! Engines that connect to the picker and publish there.

use std::net::SocketAddr;

use anyhow::Result;
use kthena_ext_proc::kv_events::Bind;
use tests::engine::{Engine, EngineConfig, KvCall, KvEvents, KvPorts, Lost, ReplayForm};
use tests::poll;
use tokio::net::TcpListener;

use crate::kv_events::{Listening, compute, prompt};
use crate::running::DEADLINE;

/// Where engines of one rank connect.
async fn listener() -> Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok((listener.local_addr()?, listener))
}

/// A fleet that waits for its engines, pods `0`, `1` and so on.
fn waiting(engines: &[Engine], replay: Option<KvPorts>, listeners: Vec<TcpListener>) -> Listening {
    let names: Vec<String> = (0..engines.len()).map(|place| format!("default/pod-{place}")).collect();
    let endpoints = engines.iter().zip(&names).map(|(engine, name)| (engine.address(), name.as_str()));
    let ranks = u16::try_from(listeners.len()).unwrap_or(1);
    let replay = replay.map(|ports| ports.replay);
    Listening::with(endpoints, 1, replay, ranks, |subscriber| subscriber.called_at(listeners))
}

/// Has the engine compute prompts, of `kind` and the next kinds, until the picker has heard of one; its kind.
/// What is published before the subscription stands reaches nobody.
async fn heard(listening: &Listening, engine: &Engine, kind: u32) -> Result<u32> {
    let mut last = kind;
    poll::until("the engine's first event", DEADLINE, async || {
        compute(engine, &prompt(last, 2), &[]).await.ok()?;
        let found = (kind..=last).rev().find(|kind| listening.held(&prompt(*kind, 2), &[engine.address()]) == [2]);
        last += 1;
        found
    })
    .await
}

#[tokio::test]
async fn engines_that_connect_are_told_apart_by_their_topics() -> Result<()> {
    let config = || EngineConfig::instant("tiny");
    let engines = Engine::start_many([config(), config(), config()]).await?;
    let (to, listener) = listener().await?;
    let listening = waiting(&engines, None, vec![listener]);
    // All come from one address.
    let topics = [
        format!("kv@{}@tiny", engines[0].address()),
        format!("kv@{}@tiny", engines[1].address().ip()),
        "kv@pod-2@tiny".to_owned(),
    ];
    let calls = topics.map(|topic| KvCall { to, topic });
    Engine::call_with_kv_events(engines.iter().zip(calls), KvEvents::default()).await?;
    let addresses: Vec<SocketAddr> = engines.iter().map(Engine::address).collect();
    for (place, engine) in engines.iter().enumerate() {
        let kind = heard(&listening, engine, 100 * (place as u32 + 1)).await?;
        let mut expected = vec![0; engines.len()];
        expected[place] = 2;
        assert_eq!(listening.held(&prompt(kind, 2), &addresses), expected);
    }
    Ok(())
}

#[tokio::test]
async fn each_rank_of_an_engine_that_connects_has_a_port_of_its_own() -> Result<()> {
    let engines = Engine::start_many([EngineConfig { ranks: 2, ..EngineConfig::instant("tiny") }]).await?;
    let (to, listeners) = poll::until("two free ports side by side", DEADLINE, async || {
        let (to, first) = listener().await.ok()?;
        drop(first);
        let bind: Bind = format!("tcp://{to}").parse().ok()?;
        Some((to, bind.listen(2).await.ok()?))
    })
    .await?;
    let listening = waiting(&engines, None, listeners);
    let call = KvCall { to, topic: format!("kv@{}@tiny", engines[0].address()) };
    Engine::call_with_kv_events([(&engines[0], call)], KvEvents::default()).await?;
    for rank in ["0", "1"] {
        poll::until("the rank's events", DEADLINE, async || {
            compute(&engines[0], &prompt(rand::random_range(1..9000), 2), &[("rank", rank)]).await.ok()?;
            let ranks = listening.metrics.kv_events.ranks();
            let state = ranks.get(&(engines[0].address(), rank.parse().ok()?))?;
            (state.is_connected() && state.next() > 0).then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_gap_costs_all_that_is_known_of_an_engine_that_connects_and_repeats_nothing() -> Result<()> {
    let engines = Engine::start_many([EngineConfig::instant("tiny")]).await?;
    let (to, listener) = listener().await?;
    let listening = waiting(&engines, None, vec![listener]);
    let call = KvCall { to, topic: format!("kv@{}@tiny", engines[0].address()) };
    let config = KvEvents { replay: ReplayForm::Off, ..KvEvents::default() };
    Engine::call_with_kv_events([(&engines[0], call)], config).await?;
    let known = heard(&listening, &engines[0], 1).await?;
    engines[0].lose_kv_events(1, Lost::Forgotten).await?;
    compute(&engines[0], &prompt(8000, 2), &[]).await?;
    compute(&engines[0], &prompt(8001, 2), &[]).await?;
    listening.until_blocks(&prompt(8001, 2), 2).await?;
    assert_eq!((listening.blocks(&prompt(known, 2)), listening.blocks(&prompt(8000, 2))), (0, 0));
    assert_eq!(listening.counted("kv_forgotten"), "kthena_router_kv_forgotten_total 1");
    Ok(())
}

#[tokio::test]
async fn an_engine_that_connects_anew_is_asked_for_what_was_missed_where_it_can_be() -> Result<()> {
    let mut engines = Engine::start_many([EngineConfig::instant("tiny")]).await?;
    let (to, listener) = listener().await?;
    let call = KvCall { to, topic: "kv@pod-0@tiny".to_owned() };
    let first = waiting(&engines, None, vec![listener]);
    let ports = Engine::call_with_kv_events([(&engines[0], call)], KvEvents::default()).await?;
    drop(first);
    engines[0].kill().await;
    let listener =
        poll::until("the port of the first picker", DEADLINE, async || TcpListener::bind(to).await.ok()).await?;
    let listening = waiting(&engines, Some(ports), vec![listener]);
    engines[0].revive().await?;
    // Mostly published before the subscription stands: then only a replay brings it.
    compute(&engines[0], &prompt(1, 3), &[]).await?;
    heard(&listening, &engines[0], 2).await?;
    listening.until_blocks(&prompt(1, 3), 3).await?;

    engines[0].kill().await;
    engines[0].revive().await?;
    let fresh = heard(&listening, &engines[0], 5000).await?;
    assert!(fresh >= 5000);
    assert_eq!(listening.blocks(&prompt(1, 3)), 0, "a new process holds nothing of before");
    Ok(())
}
