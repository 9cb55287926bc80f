//! The picked endpoint answers, in every body mode of the host.

use anyhow::{Result, ensure};
use tests::progress::say;

use crate::host::Host;
use crate::stage::Stage;

/// By chance alone two engines would agree with so many decisions once in four thousand times.
const REQUESTS: usize = 12;

/// # Errors
/// When another endpoint answered.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    for setting in H::SETTINGS {
        stage.set(*setting).await?;
        stage.wait_until_picked().await?;
        let mut served = Vec::new();
        let mut mode = String::new();
        for _ in 0..REQUESTS {
            let decision = stage.picked(&stage.ask().await?).await?;
            served.push(decision["endpoint"].to_string());
            mode = decision["bodyMode"].to_string();
        }
        served.sort();
        served.dedup();
        ensure!(served.len() == stage.engines.len(), "only {served:?} served");
        say(&format!("  {setting}: {REQUESTS} of {REQUESTS} by the picked endpoint (the picker saw {mode})"));
    }
    stage.set(H::SETTINGS[0]).await
}
