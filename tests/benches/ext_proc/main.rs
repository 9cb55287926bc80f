//! What our picker costs: processor time per request of Envoy and of the picker, against a picker
//! that does nothing, in one run.
//!
//! `cargo bench --bench ext_proc` (options: `-- --help`). Both pickers are asked by one real Envoy with
//! one worker in front of four endpoints that answer at once. Every cell (picker, body mode, body
//! size) is measured once in a round, in an order of its own, so that whatever else the machine does
//! meets all alike. The load is a closed loop. Where there is a second processor and `taskset`, Envoy
//! and the pickers have one for themselves. `--kv` compares our picker with itself.

mod cpu;
mod engines;
mod gateway;
mod kv;
mod load;
mod noop;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use gateway::Mode;
use kv::Kv;
use load::Load;
use rand::seq::SliceRandom as _;
use report::{Measure, Report};
use tests::config_dir::{ConfigDir, NAMESPACE};
use tests::envoy::Envoy;
use tests::picker::{Picker, PickerOptions};
use tests::process::{Process, Program};
use tests::usage::processor_time;

const POOL: &str = "bench";
const MODES: [Mode; 2] = [Mode::Buffered, Mode::FullDuplex];
const START_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
struct Args {
    /// How often each cell is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that a cell is measured, after a third of it to warm up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections that are kept busy.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Body sizes in KB.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    sizes: Vec<usize>,
    /// Only this body mode.
    #[arg(long)]
    mode: Option<String>,
    /// A flag for our picker beside those it needs: `--picker log-level=debug`.
    #[arg(long, value_name = "FLAG=VALUE")]
    picker: Vec<String>,
    /// Measure a second no-op picker in place of ours: what is then not 1.00 is noise.
    #[arg(long)]
    noise: bool,
    /// What KV awareness adds: ours as it is by default, against ours that tokenizes prompts and asks an index
    /// that engines' events filled. Prompts repeat, so most tokens come from the tokenizer's cache.
    #[arg(long, conflicts_with = "noise")]
    kv: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the picker that does nothing, for these endpoints.
    #[arg(long, hide = true, value_delimiter = ',')]
    noop: Option<Vec<SocketAddr>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    match &args.noop {
        Some(endpoints) => noop::serve(endpoints).await,
        None => tokio::task::LocalSet::new().run_until(measure(&args)).await,
    }
}

/// One of the two that are compared.
enum Contender {
    Noop(Process, SocketAddr),
    Ours(Picker),
}

impl Contender {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Noop(_, address) => *address,
            Self::Ours(picker) => picker.grpc_address(),
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Noop(process, _) => process.pid(),
            Self::Ours(picker) => picker.process().pid(),
        }
    }
}

async fn start_noop(endpoints: &[SocketAddr]) -> Result<Contender> {
    let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let process =
        Program::new("the no-op picker", std::env::current_exe()?).args(["--noop", &list.join(",")]).start()?;
    let address = process.find_line("its address", START_DEADLINE, |line| line.parse().ok()).await?;
    Ok(Contender::Noop(process, address))
}

async fn start_ours(config_dir: &ConfigDir, flags: &[String]) -> Result<Contender> {
    let options = PickerOptions::new(config_dir.path()).flag("--pool-name", POOL).flag("--pool-namespace", NAMESPACE);
    let flags = flags.iter().filter_map(|flag| flag.split_once('='));
    let options = flags.fold(options, |options, (flag, value)| options.flag(&format!("--{flag}"), value));
    Ok(Contender::Ours(options.start().await?))
}

async fn measure(args: &Args) -> Result<()> {
    let endpoints = engines::start(4).await?;
    let modes: Vec<Mode> = MODES
        .into_iter()
        .filter(|mode| args.mode.as_deref().is_none_or(|only| mode.name().starts_with(only)))
        .collect();

    let config_dir = ConfigDir::new()?;
    config_dir.pool(POOL, &endpoints)?;
    tests::picker::binary().await?;
    // What is started inherits the processor, and so knows that it has only one.
    let pinned = cpu::pin(std::process::id(), 1);
    let mut kv = if args.kv { Some(Kv::start(&endpoints).await?) } else { None };
    let (names, first) = match &kv {
        Some(_) => (["off", "on"], start_ours(&config_dir, &args.picker).await?),
        None => (["no-op", "ours"], start_noop(&endpoints).await?),
    };
    let flags = [args.picker.clone(), kv.as_ref().map(Kv::flags).unwrap_or_default()].concat();
    let second = if args.noise { start_noop(&endpoints).await? } else { start_ours(&config_dir, &flags).await? };
    if let (Some(kv), Contender::Ours(picker)) = (&mut kv, &second) {
        for size in &args.sizes {
            kv.fill(&load::bodies(size * 1024), picker).await?;
        }
    }
    let [one, other] = names;
    let pickers = [(one, first.address()), (other, second.address())];
    let envoy = Envoy::start(gateway::config(&pickers, &modes, &endpoints)).await?;
    let pickers = [(one, first.pid()), (other, second.pid())];

    let pinned = pinned && cpu::pin(std::process::id(), 0);
    let mut report = Report::new(pinned, args, names);
    let mut cells: Vec<(usize, Mode, (&str, u32))> = Vec::new();
    for size in &args.sizes {
        cells.extend(modes.iter().flat_map(|mode| pickers.map(|picker| (*size, *mode, picker))));
    }
    for round in 1..=args.rounds {
        cells.shuffle(&mut rand::rng());
        for (size, mode, (picker, pid)) in &cells {
            let gateway = envoy.listener(&gateway::listener_name(picker, *mode));
            let measure = cell(args, gateway, *size, envoy.process().pid(), *pid).await?;
            report.add(*size, *mode, picker, measure);
        }
        eprintln!("round {round} of {} done", args.rounds);
    }
    report.print();
    if let (Some(kv), Contender::Ours(picker)) = (&kv, &second) {
        println!("{}", kv.sources(picker).await?);
    }
    Ok(())
}

async fn cell(args: &Args, gateway: SocketAddr, size: usize, envoy: u32, picker: u32) -> Result<Measure> {
    let bodies = load::bodies(size * 1024);
    let mut load = Load::start(gateway, &bodies, args.connections);
    let length = Duration::from_secs_f64(args.seconds);
    tokio::time::sleep(length / 3).await;
    let before = (load.answered()?, processor_time(envoy)?, processor_time(picker)?);
    tokio::time::sleep(length).await;
    let after = (load.answered()?, processor_time(envoy)?, processor_time(picker)?);
    let requests = after.0 - before.0;
    anyhow::ensure!(requests > 0, "no request was answered in {length:?}");
    let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / requests as f64;
    Ok(Measure { requests, envoy: each(before.1, after.1), picker: each(before.2, after.2) })
}
