//! Pods that come, are not ready, and go: requests follow, and none fails.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::progress::say;

use crate::host::Host;
use crate::stage::{MODEL, Stage, seconds};

/// Within this the traffic has followed a change.
const FOLLOWED: Duration = Duration::from_secs(10);
/// So many answers in a row as they should be.
const ENOUGH: usize = 20;

/// # Errors
/// When traffic does not follow, or a request fails.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    stage.wait_until_picked().await?;
    let start = Instant::now();
    stage.add_engine().await?;
    let third = stage.engines[2].address();
    let mut by_third = 0;
    settle(stage, |served| {
        by_third += usize::from(served == third);
        by_third > 2
    })
    .await
    .context("a pod that came")?;
    say(&format!("  a pod that came: {}", seconds(start)));

    let start = Instant::now();
    let first = stage.engines[0].address();
    stage.objects.set_ready(&format!("{MODEL}-0"), false).await?;
    settle(stage, |served| served != first).await.context("a pod that is not ready")?;
    say(&format!("  a pod that is not ready: {}", seconds(start)));

    let start = Instant::now();
    stage.objects.set_ready(&format!("{MODEL}-0"), true).await?;
    stage.objects.delete_pod(&format!("{MODEL}-2")).await?;
    settle(stage, |served| served != third).await.context("a pod that goes")?;
    say(&format!("  a pod that goes: {}", seconds(start)));
    // Its process ends after its last request, as a pod's would.
    stage.objects.remove_pod(&format!("{MODEL}-2")).await?;
    stage.engines.pop();
    for _ in 0..ENOUGH {
        let reply = stage.ask().await?;
        ensure!(reply.status == 200, "after the pod was gone: {} {}", reply.status, reply.text());
    }
    Ok(())
}

/// Asks until so many answers in a row are by the picked endpoint and `as_wanted`; every one must be an answer.
async fn settle<H: Host>(stage: &Stage<H>, mut as_wanted: impl FnMut(std::net::SocketAddr) -> bool) -> Result<()> {
    let start = Instant::now();
    let mut row = 0;
    while row < ENOUGH {
        ensure!(start.elapsed() < FOLLOWED, "not followed within {FOLLOWED:?}");
        let reply = stage.ask().await?;
        ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
        let served = reply.engine().context("no engine answered")?;
        let right = as_wanted(served) && stage.picked(&reply).await.is_ok();
        row = if right { row + 1 } else { 0 };
    }
    Ok(())
}
