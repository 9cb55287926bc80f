//! What it costs the operator to bring many ModelServings up: time, calls, processor, memory; and what it writes when
//! there is nothing to do. `cargo bench --bench converge` (options: `-- --help`).
//!
//! Real etcd, kube-apiserver and operator on this machine; scheduler and kubelet are played. Ten pods a ModelServing:
//! two groups of two prefill instances with a worker each and one decode pod, which makes seven more objects: four
//! services, two gangs, one revision.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use controller_api::v1alpha1::model_serving::ModelServing;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use tests::cluster::control_plane::ControlPlaneOptions;
use tests::cluster::kubelet::Kubelet;
use tests::cluster::namespace::Namespace;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::cluster::proxy::{Call, Proxy};
use tests::usage::{processor_time, resident_memory};

/// Of a ModelServing.
const PODS: usize = 10;
/// Pods and what goes with them.
const OBJECTS: usize = 17;
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Parser)]
struct Args {
    /// How many ModelServings; each number is a run.
    #[arg(long, value_delimiter = ',', default_value = "200,1000")]
    servings: Vec<usize>,
    /// Seconds without anything to do, after which writes are counted.
    #[arg(long, default_value_t = 120)]
    idle: u64,
    /// The longest that one run may take, in seconds.
    #[arg(long, default_value_t = 1800)]
    deadline: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    for servings in &args.servings {
        converge(*servings, Duration::from_secs(args.idle), Duration::from_secs(args.deadline)).await?;
    }
    Ok(())
}

async fn converge(servings: usize, idle: Duration, deadline: Duration) -> Result<()> {
    let pods = servings * PODS;
    println!("\n{servings} ModelServings x {PODS} pods");
    let plane = ControlPlaneOptions::default().start().await?;
    let namespace = plane.namespace("converge").await?;
    let proxy = Proxy::for_namespace(&plane, namespace.name()).await?;
    let options = OperatorOptions::new(proxy.kubeconfig()).env("POD_NAMESPACE", namespace.name());
    let operator = options.clone().start().await?;
    let _kubelet = Kubelet::start(&namespace);

    let start = Instant::now();
    let api = namespace.api::<ModelServing>();
    stream::iter(0..servings)
        .map(|number| {
            let api = &api;
            async move { api.create(&PostParams::default(), &serving(number)?).await.context("a ModelServing is refused") }
        })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    println!("  asked for    {:7.1} s", start.elapsed().as_secs_f64());
    let all = looked_for("all pods", deadline, async || counted(&namespace, &proxy, pods).await == Some(pods));
    all.await?;
    println!("  all pods     {:7.1} s", start.elapsed().as_secs_f64());
    let right = async || available(&namespace).await.is_ok_and(|right| right == servings);
    looked_for("every status right", deadline, right).await?;
    println!("  status right {:7.1} s", start.elapsed().as_secs_f64());
    report(&proxy.calls(), servings, &operator)?;

    let from = proxy.len();
    println!("  writes in {} s idle: {}", idle.as_secs(), writes_within(&proxy, from, idle).await);
    drop(operator);
    let from = proxy.len();
    let operator = options.start().await?;
    println!("  writes within 20 s of a restart: {}", writes_within(&proxy, from, Duration::from_secs(20)).await);
    println!("  memory after the restart {:.1} MiB", mebibytes(&operator)?);
    Ok(())
}

/// Looks now and then, because looking at thousands is not free, until it is so.
async fn looked_for(what: &str, deadline: Duration, look: impl AsyncFn() -> bool) -> Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    let seen = async {
        loop {
            looks.tick().await;
            if look().await {
                return;
            }
        }
    };
    tokio::time::timeout(deadline, seen).await.with_context(|| format!("{what}: not seen within {deadline:?}"))
}

/// How many pods there are; asks the server only once so many were created.
async fn counted(namespace: &Namespace, proxy: &Proxy, pods: usize) -> Option<usize> {
    let created = |call: &Call| call.verb == "create" && call.resource == "pods" && call.status == Some(201);
    if proxy.calls().iter().filter(|call| created(call)).count() < pods {
        return None;
    }
    let listed = namespace.api::<Pod>().list_metadata(&ListParams::default()).await.ok()?;
    Some(listed.items.len())
}

/// ModelServings of which every group is ready, as their status says.
async fn available(namespace: &Namespace) -> Result<usize> {
    let all = namespace.api::<ModelServing>().list(&ListParams::default()).await?;
    let right = |serving: &&ModelServing| {
        serving.status.as_ref().is_some_and(|status| {
            let counts = [status.replicas, status.updated_replicas, status.available_replicas];
            let available = status.conditions.iter().any(|found| found.type_ == "Available" && found.status == "True");
            counts == [2; 3] && available && serving.metadata.generation == Some(status.observed_generation)
        })
    };
    Ok(all.iter().filter(right).count())
}

fn report(calls: &[Call], servings: usize, operator: &Operator) -> Result<()> {
    let pods = servings * PODS;
    let mut by_verb: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for call in calls {
        let (all, failed) = by_verb.entry((call.verb, call.resource.as_str())).or_default();
        *all += 1;
        *failed += usize::from(call.status.is_none_or(|status| status >= 400));
    }
    println!("  calls                                      all  failed  per pod");
    for ((verb, resource), (all, failed)) in &by_verb {
        println!("    {verb:7}{resource:28}{all:9}{failed:8}{:9.3}", ratio(*all, pods));
    }
    let writes: Vec<&Call> = calls.iter().filter(|call| call.counts()).collect();
    let failed = writes.iter().filter(|call| call.status.is_none_or(|status| status >= 400)).count();
    println!(
        "  writes {} (goal {} to {}), {failed} failed (goal 0)",
        writes.len(),
        servings * (OBJECTS + 1),
        servings * (OBJECTS + 3)
    );
    let processor = processor_time(operator.process().pid())?;
    println!(
        "  processor {:.2} s, {:.2} ms per pod (goal 1)",
        processor.as_secs_f64(),
        processor.as_secs_f64() * 1000.0 * ratio(1, pods)
    );
    println!("  memory {:.1} MiB (goal 60 at 2,000 pods)", mebibytes(operator)?);
    Ok(())
}

/// How many writes come within `time`, all of which is waited for.
async fn writes_within(proxy: &Proxy, from: usize, time: Duration) -> usize {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
    proxy.writes(from).len()
}

fn mebibytes(operator: &Operator) -> Result<f64> {
    Ok(f64::from(u32::try_from(resident_memory(operator.process().pid())?)?) / 1024.0)
}

fn ratio(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let ratio = part as f64 / whole as f64;
    ratio
}

fn serving(number: usize) -> Result<ModelServing> {
    let template = json!({"spec": {"containers": [{
        "name": "engine", "image": "engine:1", "resources": {"requests": {"cpu": "100m"}},
    }]}});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("llm-{number}")},
        "spec": {"replicas": 2, "schedulerName": "volcano", "template": {"roles": [
            {"name": "prefill", "replicas": 2, "workerReplicas": 1, "entryTemplate": template, "workerTemplate": template},
            {"name": "decode", "replicas": 1, "workerReplicas": 0, "entryTemplate": template},
        ]}},
    }))?)
}
