//! Gauges come from the engines, and stay when an engine falls silent.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig};
use tests::poll;

use crate::running::{DEADLINE, Running};

async fn endpoint(running: &Running) -> Option<Value> {
    let fleet: Value = serde_json::from_str(&running.debug("/debug/fleet").await.ok()?).ok()?;
    fleet.get("endpoints")?.get(0).cloned()
}

#[tokio::test]
async fn an_engines_gauges_arrive_and_outlive_the_engine() -> Result<()> {
    let mut engine = Engine::start(EngineConfig::instant("tiny")).await?;
    let config = ConfigDir::new()?;
    config.pool("llama", &[engine.address()])?;
    let running = Running::start(config, &[]).await?;
    let scraped = poll::until("gauges of the engine", DEADLINE, async || {
        endpoint(&running).await.filter(|endpoint| endpoint.to_string().contains("tiny"))
    })
    .await?;
    assert!(scraped.to_string().contains("\"running\":0"), "{scraped}");

    engine.kill().await;
    running.until_counted("scrape_failures_total{").await?;
    let after = endpoint(&running).await.context("the endpoint")?;
    assert!(after.to_string().contains("tiny"), "a silent engine is not an unknown one: {after}");
    Ok(())
}
