//! `cargo demo -- --cluster`: from manifests to traffic and through a rollout, with a real API server, the operator, the
//! picker and Envoy Gateway, on a machine with neither cluster nor containers.

mod kubelet;
mod load;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{print, say, section};
use crate::client::Client;
use crate::gateways::{SOON, sandbox};
use crate::poll;
use load::{Load, Tally};
pub use stage::prepare;

use stage::Stage;

/// What a user would apply.
const MANIFESTS: &str = include_str!("cluster/assistant.yaml");
const MODEL: &str = "deepseek-r1-8b";
/// Requests whose decisions are all looked at.
const FIRST: usize = 60;
/// Requests before and after each step of a rollout, at least.
const MEANWHILE: usize = 40;

/// Runs it, in a network namespace that it makes.
///
/// # Errors
/// When something does not start, or a request is not answered by whom was picked.
pub(super) async fn run(keep: bool) -> Result<()> {
    if !sandbox::is_inside() {
        sandbox::check()?;
        say("building and fetching what this machine has not: the first time a quarter of an hour, then seconds");
        prepare().await?;
        match sandbox::enter()? {}
    }
    sandbox::furnish().await?;
    run_inside(keep).await
}

/// Runs it in a network namespace that is there.
///
/// # Errors
/// When something does not start, or a request is not answered by whom was picked.
pub async fn run_inside(keep: bool) -> Result<()> {
    let started = Instant::now();
    section(
        "A cluster on this machine: real programs in a network namespace of their own; only the kubelet is a stand-in",
    );
    let stage = Stage::start().await?;
    tokio::select! {
        told = tell(&stage) => told?,
        () = stage.kubelet.serve() => bail!("the watch of pods has ended"),
    }
    say(&format!("  {} s in all", started.elapsed().as_secs()));
    if keep {
        say_how(&stage);
        stage.kubelet.serve().await;
    }
    Ok(())
}

/// From manifests to traffic, to another release and back.
async fn tell(stage: &Stage) -> Result<()> {
    section("kubectl apply: a ModelServing with prefill and decode, its ModelServer, an HTTPRoute");
    print(
        &MANIFESTS.lines().filter(|line| !line.starts_with('#')).map(|line| format!("  {line}\n")).collect::<String>(),
    );
    stage.objects.apply(MANIFESTS).await?;
    show(&stage.kthena(&["rollout", "status", "assistant", "--timeout", "80s"]).await?);
    wait_for_pool(stage).await?;

    section("Traffic through the gateway");
    let decision = traffic(stage).await?;
    section("One decision, as `kthena explain` tells it");
    let id = decision["requestId"].as_str().context("a decision without its request's id")?;
    let picker = stage.picker.debug_address().to_string();
    print(&stage.kthena(&["explain", "--picker", &picker, id]).await?);
    section("Its trace: gateway, picker, prefill, decode");
    print(&trace(stage, &decision).await?);

    let load = Load::start(stage.gateway.address(), MODEL);
    load.wait_for(MEANWHILE).await?;
    section("kubectl apply: another release of the engines, under load");
    stage.objects.apply(&MANIFESTS.replace("--release=1", "--release=2")).await?;
    roll(stage, &load).await?;
    section("kthena rollout undo assistant, under load");
    show(&stage.kthena(&["rollout", "undo", "assistant"]).await?);
    roll(stage, &load).await?;
    let tally = load.stop().await;

    section("Result");
    result(stage, &tally)
}

fn show(said: &str) {
    said.lines().for_each(|line| say(&format!("  {line}")));
}

/// Until the gateway leads to the pods.
async fn wait_for_pool(stage: &Stage) -> Result<()> {
    let client = Client::new(stage.gateway.address());
    let mut last = String::new();
    let found = poll::until("an answer through the gateway", SOON, async || {
        match load::ask(&client, MODEL).await.and_then(|reply| load::served(&reply)) {
            Ok(_) => Some(()),
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        }
    });
    found.await.with_context(|| format!("the last answer: {last}\n{}", stage.gateway.said()))?;
    let pool = stage.objects.get("inference.networking.k8s.io/v1", "InferencePool", "assistant").await?;
    let pool = pool.context("the operator made no InferencePool")?;
    say(&format!(
        "  the operator made InferencePool assistant for {}, with the picker {}",
        pool["spec"]["selector"]["matchLabels"], pool["spec"]["endpointPickerRef"]["name"]
    ));
    Ok(())
}

/// Asks, and holds every answer against its decision. Returns one with a prefill of its own.
async fn traffic(stage: &Stage) -> Result<Value> {
    let client = Client::new(stage.gateway.address());
    let (mut by_pod, mut shown) = (BTreeMap::<String, usize>::new(), None);
    for _ in 0..FIRST {
        let reply = load::ask(&client, MODEL).await?;
        let served = load::served(&reply)?;
        let decision = stage.picker.decision(&reply.request_id().context("an answer without a request id")?).await?;
        ensure!(decision["endpoint"] == served.to_string(), "{served} served, the decision is {decision:#}");
        let prefill = decision["disaggregation"]["prefills"][0].as_str().and_then(|address| address.parse().ok());
        for engine in [Some(served), prefill].into_iter().flatten() {
            *by_pod.entry(pod(stage, engine)).or_default() += 1;
        }
        if prefill.is_some() {
            shown = Some(decision);
        }
    }
    for (pod, count) in by_pod {
        say(&format!("  {pod:<24} {count:>4} requests"));
    }
    say(&format!("  {FIRST} requests, each answered by the endpoint that was picked for it"));
    shown.context("no request was prefilled apart")
}

fn pod(stage: &Stage, engine: SocketAddr) -> String {
    stage.kubelet.pod_at(engine).map_or_else(|| engine.to_string(), |(name, _)| name)
}

/// The trace of a decision's request, once all have told their spans.
async fn trace(stage: &Stage, decision: &Value) -> Result<String> {
    let id = decision["traceId"].as_str().context("a decision that was not traced")?;
    let whole = poll::until("the trace as one tree", SOON, async || {
        let tree = stage.sink.tree(id);
        let engines = tree.rows().iter().filter(|(_, span)| span.name == "llm_request").count();
        (tree.roots() == 1 && engines == 2).then(|| tree.waterfall(60))
    });
    whole.await.with_context(|| format!("the trace is in parts:\n{}", stage.sink.tree(id).waterfall(60)))
}

/// Until a rollout is complete, and some requests longer.
async fn roll(stage: &Stage, load: &Load) -> Result<()> {
    show(&stage.kthena(&["rollout", "status", "assistant", "--timeout", "80s"]).await?);
    load.wait_for(MEANWHILE).await
}

fn result(stage: &Stage, tally: &Tally) -> Result<()> {
    let mut by_revision = Vec::<(String, usize, BTreeSet<String>)>::new();
    for engine in &tally.answered {
        let (name, revision) = stage.kubelet.pod_at(*engine).context("an answer by no pod")?;
        match by_revision.iter_mut().find(|(known, ..)| *known == revision) {
            Some((_, count, pods)) => {
                *count += 1;
                pods.insert(name);
            }
            None => by_revision.push((revision, 1, [name].into())),
        }
    }
    for (revision, count, pods) in &by_revision {
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        say(&format!("  revision {revision:<12} {count:>5} answers by {}", pods.join(", ")));
    }
    say(&format!(
        "  {} requests while all engines were replaced, and replaced back: {} failed",
        tally.answered.len() + tally.failed.len(),
        tally.failed.len()
    ));
    ensure!(by_revision.len() == 2, "not both revisions have answered");
    if let Some(first) = tally.failed.first() {
        bail!("{} requests failed, the first: {first}", tally.failed.len());
    }
    Ok(())
}

/// `--keep`: how to get at it.
fn say_how(stage: &Stage) {
    let inside = format!("nsenter --preserve-credentials --user --net --target {}", std::process::id());
    section("Everything is still running; Ctrl-C ends it");
    print(&format!(
        "  {inside} kubectl --kubeconfig {} get modelservings,pods,inferencepools,httproutes
  {inside} curl -sN http://{}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{\"model\":\"{MODEL}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'
  {inside} curl -s http://{}/debug/decisions?limit=5
",
        stage.plane.kubeconfig().display(),
        stage.gateway.address(),
        stage.picker.debug_address(),
    ));
}
