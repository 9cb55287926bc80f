//! `cargo demo`: the main job on a bare machine. A real Envoy asks the real picker about simulated
//! engines, and a person sees what became of it.

pub mod cluster;
pub mod photo;
mod picture;
mod report;
mod stage;
mod traffic;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proto::picker_v1::explain_client::ExplainClient;
use proto::picker_v1::{DecisionRecord, GetDecisionRequest};
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;
use crate::otlp_sink::TraceTree;
use crate::poll;
use stage::Stage;
use traffic::{Conversation, Kind, Outcome};

/// The demo's flags.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "demo", about = "A real Envoy asks the picker about simulated engines, on this machine only")]
pub struct Options {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// A whole system instead: a real API server, the operator, the picker and Envoy Gateway, and engines that are
    /// deployed, asked, rolled to another release and back. The flags below are not for it.
    #[arg(long)]
    pub cluster: bool,
    /// How many conversations there are.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(8..=2000))]
    pub conversations: u16,
    /// How many turns each has.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub turns: u16,
    /// How many conversations go on at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub at_once: u16,
    /// The same seed makes the same texts.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the traces that are shown as pictures into this folder too, as `hit.svg` and `pair.svg`.
    #[arg(long, value_name = "DIR")]
    pub pictures: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// When something does not start, and when a request was not answered by the endpoint picked for it.
pub async fn run(options: &Options) -> Result<()> {
    if options.cluster {
        return cluster::run(options.keep).await;
    }
    let started = Instant::now();
    crate::envoy::binary().await?;
    crate::picker::binary().await?;
    say("starting simulated vLLM engines (a test fixture: real API, made-up words), the picker and Envoy 1.40:");
    say("  six for two models, the same for round robin, and two prefill/decode pairs for a third model");
    let stage = Stage::start().await?;
    let Options { keep, cluster: _, conversations, turns, at_once, seed, pictures } = options.clone();
    let plan = traffic::plan(conversations.into(), turns.into(), seed);

    let (round_robin, _) = drive(&stage, &plan, None, at_once.into()).await?;
    let explain = ExplainClient::new(connect(&stage).await?);
    let (picked, decisions) = drive(&stage, &plan, Some(&explain), at_once.into()).await?;
    let wrong = wrong(&picked, &decisions);

    section("Requests per endpoint");
    print(&report::endpoints(&picked, &stage.engines.pods()));
    section("Against round robin, same traffic, same engines with caches of their own");
    print(&report::comparison(&round_robin, &picked));
    let shown = worth_showing(&picked, &decisions).context("no request is worth showing")?;
    let held = shown.candidates.iter().any(|it| it.rank == Some(0) && it.matched_blocks > 0);
    if !(held && shown.kv_measure.starts_with("exact")) {
        bail!("no request went where its blocks are by the engines' own account: {shown:#?}");
    }
    section("One decision explained: the engines say by KV events which blocks they hold");
    print(&shown.to_string());
    section("The same request as a trace");
    let hit = trace(&stage, shown).await?;
    print(&hit.waterfall(60));

    let pair = paired(&stage, &explain, seed).await?;
    section("A prompt that one engine reads and another answers: prefill and decode");
    print(&pair.to_string());
    section("Its trace: the picker's own call comes first");
    let pair = trace(&stage, &pair).await?;
    print(&pair.waterfall(60));
    if let Some(folder) = pictures {
        for (name, tree) in [("hit.svg", &hit), ("pair.svg", &pair)] {
            let file = folder.join(name);
            std::fs::write(&file, picture::svg(tree)).with_context(|| format!("cannot write {}", file.display()))?;
            say(&format!("  written: {}", file.display()));
        }
    }

    section("Result");
    for line in &wrong {
        say(line);
    }
    let (requests, seconds) = (picked.len(), started.elapsed().as_secs());
    say(&format!(
        "  {} of {requests} requests were answered, each by the endpoint that was picked for it ({seconds} s in all)",
        requests - wrong.len()
    ));
    if keep {
        wait(&stage).await?;
    }
    if !wrong.is_empty() {
        bail!("{} requests were not answered by the endpoint that was picked", wrong.len());
    }
    Ok(())
}

/// The outcomes, and the decision of each request by its id.
type Driven = (Vec<Outcome>, BTreeMap<String, DecisionRecord>);

/// Sends all conversations: with `explain` to the picker's listeners, without to those of round robin.
async fn drive(
    stage: &Stage,
    plan: &[Conversation],
    explain: Option<&ExplainClient<Channel>>,
    at_once: usize,
) -> Result<Driven> {
    let (name, prefix) = if explain.is_some() { ("Kthena's picker", "") } else { ("round robin", "round-robin-") };
    let clients: BTreeMap<&str, Client> =
        ["llama", "qwen"].map(|pool| (pool, Client::new(stage.envoy.listener(&format!("{prefix}{pool}"))))).into();
    let (start, done) = (Instant::now(), AtomicUsize::new(0));
    let progress = |_: &Outcome| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(40) {
            say(&format!("  {name}: {done} requests, {:.1} s", start.elapsed().as_secs_f64()));
        }
    };
    say(&format!("sending {} conversations through Envoy with {name}", plan.len()));
    let conversations = stream::iter(plan).map(|conversation| {
        let client = clients.get(conversation.pool).cloned();
        async move {
            let client = client.context("no listener")?;
            let outcomes = traffic::converse(conversation, &client, progress).await?;
            let decisions = match explain {
                // At once, because the picker remembers only the last few hundred.
                Some(explain) => decisions(explain, &outcomes).await?,
                None => BTreeMap::new(),
            };
            anyhow::Ok((outcomes, decisions))
        }
    });
    let driven: Vec<Driven> = conversations.buffer_unordered(at_once).try_collect().await?;
    let (outcomes, decisions): (Vec<_>, Vec<_>) = driven.into_iter().unzip();
    Ok((outcomes.into_iter().flatten().collect(), decisions.into_iter().flatten().collect()))
}

async fn connect(stage: &Stage) -> Result<Channel> {
    let address = stage.picker.debug_address();
    Ok(Endpoint::new(format!("http://{address}"))?.connect_timeout(Duration::from_secs(5)).connect().await?)
}

/// The decision of each request, asked of the picker by id.
async fn decisions(explain: &ExplainClient<Channel>, outcomes: &[Outcome]) -> Result<BTreeMap<String, DecisionRecord>> {
    let mut decisions = BTreeMap::new();
    for Outcome { id, .. } in outcomes {
        // A decision is remembered when its exchange has ended, which may be just after the client saw the end.
        let what = format!("the decision for {id}");
        let record = poll::until(&what, Duration::from_secs(5), async || {
            let asked = GetDecisionRequest { request_id: id.clone() };
            explain.clone().get_decision(asked).await.ok().map(tonic::Response::into_inner)
        });
        decisions.insert(id.clone(), record.await?);
    }
    Ok(decisions)
}

/// Says of each request that was not answered by the endpoint picked for it what became of it.
fn wrong(outcomes: &[Outcome], decisions: &BTreeMap<String, DecisionRecord>) -> Vec<String> {
    let wrong = outcomes.iter().filter_map(|outcome| {
        let picked = decisions.get(&outcome.id).map_or("nobody", |decision| decision.endpoint.as_str());
        let served = outcome.reply.engine().map_or_else(|| "nobody".to_owned(), |engine| engine.to_string());
        (outcome.reply.status != 200 || picked != served).then(|| {
            format!("  WRONG: {} was answered {} by {served}, picked was {picked}", outcome.id, outcome.reply.status)
        })
    });
    wrong.collect()
}

/// One long prompt for the model that is served by pairs, and its decision.
async fn paired(stage: &Stage, explain: &ExplainClient<Channel>, seed: u64) -> Result<DecisionRecord> {
    let client = Client::new(stage.envoy.listener("deepseek"));
    let outcome = traffic::long_chat(&client, "deepseek", stage::PAIRED, seed).await?;
    let decision = decisions(explain, std::slice::from_ref(&outcome)).await?.remove(&outcome.id);
    let decision = decision.context("no decision")?;
    let apart = decision.disaggregation.as_ref().is_some_and(|it| it.verdict == "disaggregate");
    let served = outcome.reply.engine().map(|engine| engine.to_string());
    if outcome.reply.status != 200 || !apart || served.as_ref() != Some(&decision.endpoint) {
        bail!("the pair did not answer: {} by {served:?}, {decision:#?}", outcome.reply.status);
    }
    Ok(decision)
}

/// A streamed answer with a choice to explain: the longest cached prefix among several candidates.
fn worth_showing<'a>(
    outcomes: &[Outcome],
    decisions: &'a BTreeMap<String, DecisionRecord>,
) -> Option<&'a DecisionRecord> {
    let streamed = outcomes.iter().filter(|outcome| outcome.kind == Kind::ChatStream && outcome.pool == "llama");
    let records = streamed.filter_map(|outcome| decisions.get(&outcome.id));
    let matched = |record: &DecisionRecord| record.candidates.iter().map(|it| it.matched_blocks).max().unwrap_or(0);
    let removed = |record: &DecisionRecord| record.candidates.iter().any(|it| !it.removed_by.is_empty());
    let busy = |record: &DecisionRecord| record.candidates.iter().map(|it| it.in_flight).sum::<u32>();
    let exact = |record: &DecisionRecord| record.kv_measure.starts_with("exact");
    records.max_by_key(|record| (exact(record), removed(record), matched(record), busy(record)))
}

/// The trace of a decision's request, once all three have sent their spans: children end, and come, first.
async fn trace(stage: &Stage, record: &DecisionRecord) -> Result<TraceTree> {
    let trace = &record.trace_id;
    let what = format!("the trace {trace} as one tree");
    let whole = poll::until(&what, Duration::from_secs(15), async || {
        let tree = stage.sink.tree(trace);
        let told = |service: &str| tree.rows().iter().any(|(_, span)| span.service.contains(service));
        (tree.roots() == 1 && ["envoy", "kthena", "engine"].into_iter().all(told)).then_some(tree)
    });
    whole.await.with_context(|| {
        let tree = stage.sink.tree(trace);
        format!("the trace of {} is not one tree:\n{}", record.request_id, tree.waterfall(60))
    })
}

/// `--keep`: says where everything is and waits for Ctrl-C.
async fn wait(stage: &Stage) -> Result<()> {
    let (envoy, debug) = (stage.envoy.listener("llama"), stage.picker.debug_address());
    section("Everything is still running; Ctrl-C ends it");
    print(&format!(
        "  curl -sN http://{envoy}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{\"model\":\"llama-3.1-8b\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'
  the second pool  http://{}/v1/models
  debug page       http://{debug}/
  decisions        http://{debug}/debug/decisions?limit=5
  metrics          http://{}/metrics
  Envoy's admin    http://{}/
",
        stage.envoy.listener("qwen"),
        stage.picker.metrics_address(),
        stage.envoy.admin_address(),
    ));
    std::future::pending().await
}

fn section(title: &str) {
    print(&format!("\n{title}\n"));
}

fn say(line: &str) {
    print(&format!("{line}\n"));
}

/// To standard output; a reader that went away is no reason to fail.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
