//! A simulated vLLM engine as a process of its own. **A test fixture**: what a pod's container is where there are none.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ::tests::engine::{Engine, EngineConfig};
use ::tests::poll;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Once it is told to end: so long nobody has come.
const QUIET: Duration = Duration::from_secs(2);
/// Once it is told to end: at the latest.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
#[command(name = "simulated-engine", about = "Speaks vLLM's API and keeps its times; its answers are made-up words")]
struct Options {
    /// Where to listen.
    #[arg(long)]
    address: SocketAddr,
    /// The model that it serves.
    #[arg(long)]
    model: String,
    /// All times of a middling GPU are multiplied by this.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Where spans are exported to (OTLP over gRPC).
    #[arg(long)]
    traces: Option<SocketAddr>,
    /// Of no consequence but for another revision.
    #[arg(long)]
    release: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    match serve(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let config = EngineConfig { address: options.address, ..EngineConfig::timed(&options.model, options.scale) };
    let engine = Engine::start(EngineConfig { traces: options.traces, ..config }).await?;
    println!("a simulated engine for {} at {}, release {:?}", options.model, options.address, options.release);
    terminate.recv().await;
    // Whoever sends requests learns a little later that this pod leaves.
    let (mut seen, mut since) = (engine.received_count(), Instant::now());
    poll::until("the last request", GRACE, async || {
        if engine.load() != (0, 0) || engine.received_count() != seen {
            (seen, since) = (engine.received_count(), Instant::now());
        }
        (since.elapsed() >= QUIET).then_some(())
    })
    .await
}
