//! The picker behind real gateways: their own control planes, their Envoy, a real API server.
//!
//! Everything runs as plain processes in a network namespace of its own, which needs no root. Each host is brought up
//! once, and the stories are told on it one after the other.
//!
//! | what | file |
//! |---|---|
//! | the namespace, what a user and kubelets write, Envoy Gateway's process | `tests/src/gateways/` |
//! | what a host is; the hosts | `host.rs`; `envoy_gateway.rs`, `envoy_gateway_pools.rs`, `ai_gateway.rs`, `istio.rs` |
//! | API server, engines, pickers and their pods | `stage.rs` |
//! | the picked endpoint answers | `picks.rs` |
//! | pods come, go and are not ready | `endpoints.rs` |
//! | headers that a client forged | `steering.rs` |
//! | the picker is gone, frozen, back: the table of the guide | `failures.rs` |
//! | a rolling restart under load | `rolling.rs` |
//! | one trace | `traces.rs` |
//! | two pools by weight | `weights.rs` |
//! | the guide's collector | `otel.rs` |
//! | the chart's picker and operator, for what follows | `scenario.rs` |
//! | ModelRoutes with traffic | `routes.rs` |
//! | one picker, pools of two other namespaces | `namespaces.rs` |
//! | the scenarios of the guide with traffic | `scenarios.rs` |
//! | a thousand pods in twenty pools, a tenth of them replaced | `fleet.rs` |
//!
//! `cargo test-gateways` runs all; `cargo test-gateways istio` one host, `cargo test-gateways istio picks` one story;
//! `cargo test-gateways system` is `cargo demo -- --cluster`.

mod ai_gateway;
mod endpoints;
mod envoy_gateway;
mod envoy_gateway_pools;
mod failures;
mod fleet;
mod host;
mod istio;
mod namespaces;
mod otel;
mod picks;
mod rolling;
mod routes;
mod scenario;
mod scenarios;
mod stage;
mod steering;
mod traces;
mod weights;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use tests::demo;
use tests::gateways::{self, objects, sandbox};
use tests::progress::say;

use crate::host::Host;
use crate::stage::Stage;

/// The names of the hosts.
const HOSTS: &[&str] = &[
    envoy_gateway::EnvoyGateway::NAME,
    envoy_gateway_pools::EnvoyGatewayPools::NAME,
    istio::Istio::NAME,
    ai_gateway::AiGateway::NAME,
];

/// `cargo demo -- --cluster`, in the same namespace.
const SYSTEM: &str = "system";

/// What is told on each host, in this order.
const STORIES: &[&str] = &[
    "picks",
    "endpoints",
    "steering",
    "failures",
    "rolling",
    "traces",
    "weights",
    "otel",
    "routes",
    "scenarios",
    "namespaces",
    "fleet",
];

fn main() -> ExitCode {
    // What cargo hands to every test target.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ran = if sandbox::is_inside() {
        runtime.block_on(run(&wanted))
    } else {
        // Outside there is a network: all that has to be fetched is fetched now.
        runtime.block_on(prepare(&wanted)).and_then(|()| sandbox::enter().map(|never| match never {}))
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}

/// Does the words' host, or all, with `$host` as its type.
macro_rules! each_host {
    ($wanted:expr, $host:ident => $done:expr) => {{
        let named = |name: &str| $wanted.iter().any(|word| word == name);
        let all = !HOSTS.iter().copied().any(named) && !named(SYSTEM);
        // The list of hosts.
        each_host!(@one all, named, $host, envoy_gateway::EnvoyGateway, $done);
        each_host!(@one all, named, $host, envoy_gateway_pools::EnvoyGatewayPools, $done);
        each_host!(@one all, named, $host, istio::Istio, $done);
        each_host!(@one all, named, $host, ai_gateway::AiGateway, $done);
    }};
    (@one $all:ident, $named:ident, $host:ident, $kind:ty, $done:expr) => {
        if $all || $named(<$kind>::NAME) {
            type $host = $kind;
            $done;
        }
    };
}

async fn prepare(wanted: &[String]) -> Result<()> {
    let known = [HOSTS, STORIES, &[SYSTEM]].concat();
    let unknown: Vec<&String> = wanted.iter().filter(|word| !known.contains(&word.as_str())).collect();
    anyhow::ensure!(unknown.is_empty(), "{unknown:?}: name hosts or stories: {}", known.join(", "));
    sandbox::check()?;
    gateways::prepare().await?;
    each_host!(wanted, Kind => {
        Kind::build().await?;
        for kinds in Kind::KINDS {
            kinds.manifests().await?;
        }
    });
    if is_system_wanted(wanted) {
        demo::cluster::prepare().await?;
    }
    Ok(())
}

fn is_system_wanted(wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|word| word == SYSTEM)
}

async fn run(wanted: &[String]) -> Result<()> {
    sandbox::furnish().await?;
    let start = Instant::now();
    let mut failures = Vec::new();
    each_host!(wanted, Kind => {
        if let Err(error) = tell::<Kind>(wanted).await {
            failures.push(format!("{}: {error:#}", Kind::NAME));
        }
    });
    if is_system_wanted(wanted)
        && let Err(error) = demo::cluster::run_inside(false).await
    {
        failures.push(format!("{SYSTEM}: {error:#}"));
    }
    for failure in &failures {
        say(&format!("FAILED {failure}"));
    }
    say(&format!("{} failed; {:.0} s", failures.len(), start.elapsed().as_secs_f64()));
    anyhow::ensure!(failures.is_empty(), "the picker does not behave behind every host");
    Ok(())
}

/// Tells the stories on one host, those that are named or all.
async fn tell<H: Host>(wanted: &[String]) -> Result<()> {
    let start = Instant::now();
    let mut stage = Stage::<H>::start().await?;
    say(&format!("{} is up ({:.1} s)", H::NAME, start.elapsed().as_secs_f64()));
    let named = |story: &str| wanted.iter().any(|word| word == story);
    let all = !STORIES.iter().copied().any(named);
    let mut failed = Vec::new();
    for story in STORIES.iter().copied().filter(|story| all || named(story)) {
        let start = Instant::now();
        let told = match story {
            "picks" => picks::tell(&mut stage).await,
            "endpoints" => endpoints::tell(&mut stage).await,
            "steering" => steering::tell(&mut stage).await,
            "failures" => failures::tell(&mut stage).await,
            "rolling" => rolling::tell(&mut stage).await,
            "traces" => traces::tell(&mut stage).await,
            "weights" => weights::tell(&mut stage).await,
            "otel" => otel::tell(&mut stage).await,
            "routes" => routes::tell(&mut stage).await,
            "scenarios" => scenarios::tell(&mut stage).await,
            "namespaces" => namespaces::tell(&mut stage).await,
            _ => fleet::tell(&mut stage).await,
        };
        let verdict = match &told {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("FAILED: {error:#}\n{}", stage.said()),
        };
        say(&format!("{} {story} ... {verdict} ({:.1} s)", H::NAME, start.elapsed().as_secs_f64()));
        if told.is_err() {
            failed.push(story);
        }
    }
    anyhow::ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}
