//! Twenty pools of fifty pods behind one picker, a tenth of which is replaced under load: half as a rollout does it,
//! half by a loss without warning. Every request stays in its pool, and none goes to a pod that is long gone.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use tests::client::Client;
use tests::engine::{Engine, EngineConfig};
use tests::picker::{Picker, PickerOptions};
use tests::poll;
use tests::progress::say;
use tests::scratch::Scratch;
use tests::usage::resident_memory;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::host::Host;
use crate::objects::{NAMESPACE, Objects};
use crate::sandbox;
use crate::stage::{ENGINE_PORT, SOON, Stage};

const POOLS: usize = 20;
/// Of each pool.
const PODS: usize = 50;
const REPLACED: usize = POOLS * PODS / 10;
/// Between two replacements.
const PACE: Duration = Duration::from_millis(300);
/// Between two requests: 200 a second.
const BETWEEN: Duration = Duration::from_millis(5);
/// Requests without an answer, at most: ten times what there should be.
const UNANSWERED: usize = 1_000;
/// What a pod that was told to go still gets for its running requests.
const GRACE: Duration = Duration::from_secs(5);
/// No request goes to a pod that has been gone for longer.
const STALE: Duration = Duration::from_secs(1);
/// Until a thousand pods are known to everybody.
const KNOWN: Duration = Duration::from_secs(180);
/// What a request says its model is, for the route.
const MODEL_HEADER: &str = "x-gateway-model-name";

/// A pod and the engine in it.
struct Member {
    pod: String,
    pool: usize,
    engine: Engine,
}

/// How a pod went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was told to go, and served what it had.
    Deleted,
    /// It died, with what it was doing.
    Lost,
}

/// What a client saw of one request.
struct Request {
    pool: usize,
    sent: SystemTime,
    done: SystemTime,
    /// The status, or why there was none.
    answer: Result<u16, String>,
}

/// What the picker's access log says of a request.
struct Logged {
    time: SystemTime,
    pool: String,
    pod: String,
}

/// # Errors
/// When a request left its pool, went to a pod that was gone for more than [`STALE`], or failed for another reason
/// than its pod's death.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    if !H::FLEET {
        say("  not told on this host");
        return Ok(());
    }
    let start = Instant::now();
    // On loopback a whole subnet is this machine's.
    sandbox::ip(&["address", "replace", "10.201.0.1/16", "dev", "lo"]).await?;
    let scratch = Scratch::new("fleet")?;
    let log = scratch.file("access.log");
    let picker = picker(stage, &log).await?;
    for pool in 0..POOLS {
        stage.objects.apply(&declared(pool)).await?;
    }
    let objects = &stage.objects;
    let members: Vec<Member> = stream::iter(0..POOLS * PODS)
        .map(|number| member(objects, number % POOLS, number / POOLS))
        .buffer_unordered(16)
        .try_collect()
        .await?;
    let client = Client::new(stage.host.address());
    all_known(stage, &picker, &client).await.with_context(|| stage.said())?;
    let before = resident_memory(picker.process().pid())?;
    say(&format!("  {} pods in {POOLS} pools: served after {:.0} s", POOLS * PODS, start.elapsed().as_secs_f64()));

    // The requests that asked until all was known are of no interest.
    let from = SystemTime::now();
    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(load(client, Arc::clone(&done)));
    let replaced = replace(objects, members).await;
    done.store(true, Ordering::Relaxed);
    let requests = load.await??;
    let (_members, ended) = replaced?;

    let logged = poll::until("a line of the access log for each request", SOON, async || {
        let lines = read(&log, from).ok()?;
        requests.iter().enumerate().all(|(number, _)| lines.contains_key(&number)).then_some(lines)
    });
    judge(&requests, &logged.await?, &ended)?;
    let after = resident_memory(picker.process().pid())?;
    say(&format!("  the picker's memory: {} to {} MiB", before >> 10, after >> 10));
    Ok(())
}

/// One picker for all pools, and its pod.
async fn picker<H: Host>(stage: &Stage<H>, log: &Path) -> Result<Picker> {
    let ip = Ipv4Addr::new(10, 201, 255, 1);
    let picker = PickerOptions::of_cluster(stage.plane.kubeconfig())
        .flag("--bind-address", ip)
        .flag("--grpc-port", 9002)
        .env("ACCESS_LOG_FORMAT", "json")
        .env("ACCESS_LOG_OUTPUT", log.display())
        .start()
        .await?;
    stage.objects.create_pod("fleet-epp-0", &json!({"app": "fleet-epp"}), ip).await?;
    Ok(picker)
}

fn name(pool: usize) -> String {
    format!("fleet-{pool}")
}

/// A pool, its route, and its picker's Service, by whose name the picker knows the pool.
fn declared(pool: usize) -> String {
    let name = name(pool);
    let picker = format!("{name}-epp");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": picker, "namespace": NAMESPACE},
        "spec": {
            "selector": {"app": "fleet-epp"},
            "ports": [{"name": "grpc-ext-proc", "port": 9002, "appProtocol": "kubernetes.io/h2c"}],
        },
    });
    let pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": ENGINE_PORT}],
            "endpointPickerRef": {"name": picker, "port": {"number": 9002}, "failureMode": "FailClose"},
        },
    });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"name": "inference"}], "rules": [{
            "matches": [{
                "path": {"type": "PathPrefix", "value": "/v1"},
                "headers": [{"name": MODEL_HEADER, "value": name}],
            }],
            "backendRefs": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}],
        }]},
    });
    [service, pool, route].map(|object| object.to_string()).join("\n---\n")
}

/// A ready pod. Its answers take long enough for some to be running when it dies.
async fn member(objects: &Objects, pool: usize, number: usize) -> Result<Member> {
    let ip = Ipv4Addr::new(10, 201, u8::try_from(pool)?, u8::try_from(number)? + 2);
    let config = EngineConfig { address: (ip, ENGINE_PORT).into(), ..EngineConfig::timed(&name(pool), 4.0) };
    let engine = Engine::start(config).await?;
    let pod = format!("{}-{number}", name(pool));
    objects.create_pod(&pod, &json!({"app": name(pool)}), ip).await?;
    Ok(Member { pod, pool, engine })
}

/// Until the picker has all pods, and each pool answers.
async fn all_known<H: Host>(stage: &Stage<H>, picker: &Picker, client: &Client) -> Result<()> {
    let all = POOLS * PODS + stage.engines.len();
    poll::until("every pod in the picker's fleet", KNOWN, async || {
        (picker.fleet().await.ok()?.len() == all).then_some(())
    })
    .await?;
    for pool in 0..POOLS {
        let mut last = String::new();
        let what = format!("an answer from the pool {}", name(pool));
        let answered = poll::until(&what, KNOWN, async || match ask(client, pool, "").await {
            Ok((200, Some(engine))) if pool_of(engine) == Some(pool) => Some(()),
            other => {
                last = format!("{other:?}");
                None
            }
        });
        answered.await.with_context(|| format!("the last answer: {last}"))?;
    }
    Ok(())
}

/// The pool of an engine's address.
fn pool_of(engine: SocketAddr) -> Option<usize> {
    match engine.ip() {
        std::net::IpAddr::V4(ip) => Some(usize::from(ip.octets()[2])),
        std::net::IpAddr::V6(_) => None,
    }
}

/// Asks a pool. `query` marks the request in the picker's access log.
async fn ask(client: &Client, pool: usize, query: &str) -> Result<(u16, Option<SocketAddr>)> {
    let prompt = format!("{:032x}", rand::random::<u128>());
    let body = json!({"model": name(pool), "messages": [{"role": "user", "content": prompt}]});
    let call = client.post(&format!("/v1/chat/completions{query}"), body.to_string());
    let reply = call.header(MODEL_HEADER, &name(pool)).send().await?;
    Ok((reply.status, reply.engine()))
}

/// Asks at an even pace, whatever the answers, until `done`.
async fn load(client: Client, done: Arc<AtomicBool>) -> Result<Vec<Request>> {
    let mut pace = tokio::time::interval(BETWEEN);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = JoinSet::new();
    let mut requests = Vec::new();
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        pace.tick().await;
        let (client, number) = (client.clone(), sent);
        sent += 1;
        running.spawn(async move {
            let pool = rand::random_range(0..POOLS);
            let sent = SystemTime::now();
            let answer = match ask(&client, pool, &format!("?number={number}")).await {
                Ok((status, Some(engine))) if pool_of(engine) != Some(pool) => {
                    bail!("{pool} asked, {engine} answered: {status}")
                }
                Ok((status, _)) => Ok(status),
                Err(error) => Err(format!("{error:#}")),
            };
            Ok((number, Request { pool, sent, done: SystemTime::now(), answer }))
        });
        ensure!(running.len() < UNANSWERED, "{UNANSWERED} requests have no answer");
        while let Some(ended) = running.try_join_next() {
            requests.push(ended??);
        }
    }
    while let Some(ended) = running.join_next().await {
        requests.push(ended??);
    }
    requests.sort_by_key(|(number, _)| *number);
    Ok(requests.into_iter().map(|(_, request)| request).collect())
}

/// Replaces a tenth of all pods, a new one first each time. Returns who is there, and who went how and when.
async fn replace(
    objects: &Objects,
    mut members: Vec<Member>,
) -> Result<(Vec<Member>, HashMap<String, (End, SystemTime)>)> {
    let mut pace = tokio::time::interval(PACE);
    let mut ended = HashMap::new();
    let mut leaving: Vec<(Member, Instant)> = Vec::new();
    for number in 0..REPLACED {
        pace.tick().await;
        let pool = number % POOLS;
        members.push(member(objects, pool, PODS + number / POOLS).await?);
        let old: Vec<usize> = (0..members.len() - 1).filter(|index| members[*index].pool == pool).collect();
        let mut old = members.swap_remove(old[rand::random_range(0..old.len())]);
        // By turns within each pool too.
        if (number + number / POOLS).is_multiple_of(2) {
            ended.insert(old.pod.clone(), (End::Deleted, SystemTime::now()));
            objects.delete_pod(&old.pod).await?;
            leaving.push((old, Instant::now()));
        } else {
            ended.insert(old.pod.clone(), (End::Lost, SystemTime::now()));
            old.engine.kill().await;
            objects.remove_pod(&old.pod).await?;
        }
        removed(objects, &mut leaving).await?;
    }
    // The last too have requests to finish; meanwhile what was lost is to be noticed.
    while !leaving.is_empty() {
        pace.tick().await;
        removed(objects, &mut leaving).await?;
    }
    Ok((members, ended))
}

/// Takes those away whose time is over; the oldest are first.
async fn removed(objects: &Objects, leaving: &mut Vec<(Member, Instant)>) -> Result<()> {
    while leaving.first().is_some_and(|(_, since)| since.elapsed() > GRACE) {
        let (old, _) = leaving.remove(0);
        objects.remove_pod(&old.pod).await?;
    }
    Ok(())
}

/// The access log's lines by the number of their request, those since `from`.
fn read(log: &Path, from: SystemTime) -> Result<HashMap<usize, Logged>> {
    let mut lines = HashMap::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let time: SystemTime = text("timestamp").parse::<Timestamp>()?.into();
        let Some((_, number)) = line["path"].as_str().and_then(|path| path.split_once("?number=")) else { continue };
        if time < from {
            continue;
        }
        let pod = text("selected_pod").rsplit('/').next().unwrap_or_default().to_owned();
        lines.insert(number.parse()?, Logged { time, pool: text("inference_pool"), pod });
    }
    Ok(lines)
}

fn judge(
    requests: &[Request],
    logged: &HashMap<usize, Logged>,
    ended: &HashMap<String, (End, SystemTime)>,
) -> Result<()> {
    let since = |later: SystemTime, earlier: SystemTime| later.duration_since(earlier).unwrap_or_default();
    let (mut failed, mut wrong, mut latest) =
        (0, Vec::new(), HashMap::from([("deleted", Duration::ZERO), ("lost", Duration::ZERO)]));
    for (number, request) in requests.iter().enumerate() {
        let line = &logged[&number];
        let pool = name(request.pool);
        let what =
            || format!("request {number} for {pool}, sent to {} in {}: {:?}", line.pod, line.pool, request.answer);
        if line.pool != format!("{NAMESPACE}/{pool}") || !line.pod.starts_with(&format!("{pool}-")) {
            wrong.push(format!("another pool: {}", what()));
        }
        let end = ended.get(&line.pod);
        if let Some((end, at)) = end {
            let late = since(line.time, *at);
            let latest =
                latest.get_mut(if *end == End::Lost { "lost" } else { "deleted" }).context("both are there")?;
            *latest = late.max(*latest);
            if late > STALE {
                wrong.push(format!("gone for {late:?}: {}", what()));
            }
        }
        if request.answer.as_ref().is_ok_and(|status| *status == 200) {
            continue;
        }
        failed += 1;
        if !end.is_some_and(|(end, at)| *end == End::Lost && request.done >= *at && since(request.sent, *at) <= STALE) {
            wrong.push(format!("failed, and nobody was killed: {}", what()));
        }
    }
    let (first, last) = (requests.first().context("no requests")?, requests.last().context("no requests")?);
    let seconds = since(last.sent, first.sent).as_secs_f64();
    let late = |kind: &str| latest[kind].as_millis();
    say(&format!(
        "  {} requests in {seconds:.0} s while {REPLACED} pods were replaced: {failed} failed with the pod that died; the last \
         request to a pod came {} ms after its deletion, {} ms after its death",
        requests.len(),
        late("deleted"),
        late("lost"),
    ));
    wrong.truncate(20);
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
