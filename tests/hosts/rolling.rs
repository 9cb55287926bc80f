//! A rolling restart of the pickers under load loses no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::poll;
use tests::process::Signal;
use tests::progress::say;
use tokio::task::JoinSet;

use crate::host::Host;
use crate::stage::{SOON, Stage, ask};

/// Clients that ask one request after the other.
const CLIENTS: usize = 4;
/// What is served before, between and after the steps.
const MEANWHILE: usize = 50;

/// # Errors
/// When a request fails, or a picker does not end as it should.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    stage.add_replica().await?;
    stage.wait_until_picked().await?;
    let (served, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut load: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..CLIENTS {
        let (served, done, client) = (Arc::clone(&served), Arc::clone(&done), stage.client.clone());
        load.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let reply = ask(&client, &[]).await?;
                ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
                served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    let rolled = roll(stage, &served).await;
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended?.context("a request during the rolling restart")?;
    }
    rolled?;
    say(&format!("  {} requests, two pickers replaced: none failed", served.load(Ordering::Relaxed)));
    stage.wait_until_picked().await
}

/// As a Deployment and its kubelet do: a new pod, and once that is ready an old one is told to go.
async fn roll<H: Host>(stage: &mut Stage<H>, served: &AtomicUsize) -> Result<()> {
    for _ in 0..2 {
        wait(served).await?;
        stage.add_replica().await?;
        wait(served).await?;
        let old = stage.replicas.remove(0);
        let picker = old.picker.context("a picker runs")?;
        stage.objects.delete_pod(&old.pod).await?;
        picker.process().signal(Signal::Term)?;
        let code = picker.process().exit_code(Duration::from_secs(60)).await?;
        ensure!(code == 0, "{} ended with status {code}:\n{}", old.pod, picker.log());
        stage.objects.remove_pod(&old.pod).await?;
    }
    wait(served).await
}

async fn wait(served: &AtomicUsize) -> Result<()> {
    let until = served.load(Ordering::Relaxed) + MEANWHILE;
    poll::until("requests to be served meanwhile", SOON, async || {
        (served.load(Ordering::Relaxed) >= until).then_some(())
    })
    .await
}
