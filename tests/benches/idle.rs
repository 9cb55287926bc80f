//! What the picker uses when nobody asks it anything: processor and memory, with the engines' metrics
//! being scraped. `cargo bench --bench idle` (options: `-- --help`).

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig};
use tests::picker::PickerOptions;
use tests::usage::{processor_time, resident_memory};

#[derive(Debug, Parser)]
struct Args {
    /// How many endpoints there are.
    #[arg(long, default_value_t = 100)]
    endpoints: usize,
    /// Seconds that are measured, after as many to settle.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Args { endpoints, seconds, bench: _ } = Args::parse();
    let engines = Engine::start_many((0..endpoints).map(|_| EngineConfig::instant("m"))).await?;
    let addresses: Vec<_> = engines.iter().map(Engine::address).collect();
    let config_dir = ConfigDir::new()?;
    config_dir.pool("idle", &addresses)?;
    let picker = PickerOptions::new(config_dir.path()).start().await?;
    picker.wait_for_endpoints(endpoints).await?;

    let pid = picker.process().pid();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (begun, before) = (Instant::now(), processor_time(pid)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let cores = (processor_time(pid)? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let scraped = picker.fleet().await?.iter().filter(|endpoint| endpoint["gaugesAgeMs"].is_u64()).count();
    println!("endpoints {endpoints}, scraped {scraped}");
    println!("processor {cores:.4} of a core (goal 0.05)");
    println!("memory    {:.1} MiB resident (goal 40)", f64::from(u32::try_from(resident_memory(pid)?)?) / 1024.0);
    Ok(())
}
