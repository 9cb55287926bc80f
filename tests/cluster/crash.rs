//! The operator is killed after each single write in turn; nobody can tell afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::cluster::kubelet::Fate;
use tests::cluster::proxy::{Fault, Proxy};
use tests::poll;

use crate::availability::Availability;
use crate::stage::{SOON, Stage, role, rolling};

/// More writes than any story has.
const MOST_WRITES: usize = 60;
/// From the last act until no write comes any more.
const QUIET: Duration = Duration::from_millis(500);

/// Two groups, each of an entry pod with a worker, of which one may be missing.
fn small() -> Value {
    let mut spec = rolling(2, &[role("prefill", 1, 1)], json!({"maxUnavailable": 1}));
    spec["recoveryPolicy"] = json!("ServingGroupRecreate");
    spec
}

/// Plays `story` again and again, each time on a fresh ModelServing, and kills the operator after write 1, write 2
/// and so on, until the story has no more writes. `before` is where it begins; none if it begins with nothing.
/// Each time it ends as it did undisturbed: the same pods, and each created as often.
async fn at_every_write(
    label: &str,
    before: Option<Value>,
    fewest_whole: usize,
    story: impl AsyncFn(&Stage, &str) -> Result<()>,
) -> Result<()> {
    let stage = Stage::new(label).await?;
    let mut undisturbed = None;
    for crash_at in 0..MOST_WRITES {
        let name = format!("llm-{crash_at}");
        if let Some(spec) = &before {
            stage.create(&name, spec.clone()).await?;
            stage.wait_done(&name).await?;
            quiet(&stage.proxy).await;
        }
        let watched = Availability::watch(&stage.namespace, &name, 2, 2);
        let from = stage.proxy.len();
        stage.proxy.count_from_one();
        // Number 0 is no write: undisturbed.
        stage.proxy.spoil(
            move |call| {
                if crash_at > 0 && call.number == crash_at { Fault::FreezeAfter } else { Fault::None }
            },
        );
        let crashed = std::cell::Cell::new(false);
        let crash = async {
            poll::until("the crash", SOON * 4, async || stage.proxy.is_frozen().then_some(())).await?;
            crashed.set(true);
            start_again(&stage).await?;
            std::future::pending::<Result<()>>().await
        };
        let told = async {
            tokio::select! {
                told = story(&stage, &name) => told?,
                died = crash, if crash_at > 0 => died?,
            }
            // The crash may be that of the last write.
            quiet(&stage.proxy).await;
            while stage.proxy.is_frozen() || stage.log().is_empty() {
                crashed.set(true);
                start_again(&stage).await?;
                quiet(&stage.proxy).await;
            }
            stage.wait_done(&name).await
        };
        told.await
            .with_context(|| format!("{label}, killed after write {crash_at}:\n{:#?}", stage.proxy.writes(from)))?;
        let end = end(&stage, &name, from).await?;
        let expected = undisturbed.get_or_insert_with(|| end.clone());
        ensure!(
            end == *expected,
            "{label}, killed after write {crash_at}: it ends with\n{end:#?}\ninstead of\n{expected:#?}\nafter\n{:#?}",
            stage.proxy.writes(from)
        );
        let fewest = watched.fewest();
        ensure!(
            fewest.is_none_or(|fewest| fewest >= fewest_whole),
            "{label}, killed after write {crash_at}: only {fewest:?} groups were whole"
        );
        if crash_at > 0 && !crashed.get() {
            ensure!(crash_at > 3, "{label}: a story of {crash_at} writes is none");
            return Ok(());
        }
    }
    anyhow::bail!("{label}: more than {MOST_WRITES} writes")
}

/// Kills the operator, lets calls pass again, and starts another.
async fn start_again(stage: &Stage) -> Result<()> {
    stage.kill_operator();
    stage.proxy.heal();
    stage.proxy.thaw();
    stage.start_operator().await
}

/// Waits until no write has come for a moment.
async fn quiet(proxy: &Proxy) {
    loop {
        let before = proxy.len();
        let more = poll::until("a write", QUIET, async || (!proxy.writes(before).is_empty()).then_some(())).await;
        if more.is_err() || proxy.is_frozen() {
            return;
        }
    }
}

/// What one story comes to: the pods of the ModelServing with their images, and how often each was created.
async fn end(stage: &Stage, name: &str, from: usize) -> Result<BTreeMap<String, (String, usize)>> {
    let own = |text: &str| text.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).map(str::to_owned);
    let images = stage.images().await?;
    let mut end: BTreeMap<String, (String, usize)> =
        images.into_iter().filter_map(|(pod, image)| Some((own(&pod)?, (image, 0)))).collect();
    for call in stage.proxy.writes(from) {
        if call.verb == "create" && call.resource == "pods" && call.status == Some(201) {
            end.entry(own(&call.name).context("a pod of another")?).or_default().1 += 1;
        }
    }
    Ok(end)
}

async fn gone_from(stage: &Stage, name: &str, image: &str) -> Result<()> {
    poll::until(&format!("no pod of {image}"), SOON, async || {
        let images = stage.images().await.ok()?;
        images.iter().all(|(pod, of)| !pod.starts_with(&format!("{name}-")) || of != image).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_creation() -> Result<()> {
    at_every_write("crash-create", None, 2, async |stage, name| {
        stage.create(name, small()).await?;
        stage.wait_done(name).await
    })
    .await
}

#[tokio::test]
async fn scaling_up_and_down() -> Result<()> {
    at_every_write("crash-scale", Some(small()), 2, async |stage, name| {
        stage.change(name, json!({"spec": {"replicas": 3}})).await?;
        stage.wait_done(name).await?;
        stage.change(name, json!({"spec": {"replicas": 2}})).await?;
        stage.wait_done(name).await
    })
    .await
}

#[tokio::test]
async fn a_rollout_of_a_bad_image_and_its_fix() -> Result<()> {
    at_every_write("crash-rollout", Some(small()), 1, async |stage, name| {
        stage.set_image(name, 0, "bad:1").await?;
        poll::until("a bad group", SOON, async || {
            let pods = stage.pods().await.ok()?;
            let bad = |pod: &Pod| crate::stage::image(pod) == "bad:1";
            let group = pods.iter().filter(|(pod, _)| pod.starts_with(&format!("{name}-1-")));
            let there: Vec<bool> = group.map(|(_, pod)| bad(pod)).collect();
            (there.len() == 2 && there.contains(&true)).then_some(())
        })
        .await?;
        stage.set_image(name, 0, "engine:2").await?;
        stage.wait_done(name).await?;
        gone_from(stage, name, "bad:1").await
    })
    .await
}

#[tokio::test]
async fn a_recovery() -> Result<()> {
    at_every_write("crash-recovery", Some(small()), 1, async |stage, name| {
        let failing = format!("{name}-1-prefill-0-1");
        let before = stage.uids().await?;
        stage.kubelet.set(&failing, Fate::Failed).await?;
        for pod in [format!("{name}-1-prefill-0-0"), failing] {
            stage.wait_replaced(&pod, &before[&pod]).await?;
        }
        stage.wait_done(name).await
    })
    .await
}

#[tokio::test]
async fn a_rollback() -> Result<()> {
    at_every_write("crash-rollback", Some(small()), 1, async |stage, name| {
        stage.set_image(name, 0, "engine:2").await?;
        stage.wait_done(name).await?;
        let rollback = json!({"metadata": {"annotations": {"modelserving.volcano.sh/rollback-to": "1"}}});
        stage.change(name, rollback).await?;
        gone_from(stage, name, "engine:2").await?;
        stage.wait_done(name).await
    })
    .await
}
