//! Headers that a client forged lead nowhere.

use anyhow::{Context as _, Result, ensure};
use tests::progress::say;

use crate::host::{Failure, Host};
use crate::stage::{SOON, Stage, ask};

const DESTINATION: &str = "x-gateway-destination-endpoint";
const PREFILLER: &str = "x-prefiller-host-port";
/// By chance alone as many would go to one of two engines once in four thousand times.
const REQUESTS: usize = 12;

/// # Errors
/// When one is obeyed.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    stage.wait_until_picked().await?;
    let outsider = stage.outsider.address().to_string();
    let first = stage.engines[0].address().to_string();
    for forged in [&outsider, &first] {
        for _ in 0..REQUESTS {
            let reply = ask(&stage.client, &[(DESTINATION, forged), (PREFILLER, forged)]).await?;
            let decision = stage.picked(&reply).await?;
            let served = stage.engines.iter().find(|engine| reply.engine() == Some(engine.address()));
            let id = reply.request_id().context("an answer without a request id")?;
            let received = served.context("an engine of the pool")?.wait_for_request(&id, SOON).await?;
            let destinations: Vec<_> = received.headers.get_all(DESTINATION).iter().collect();
            ensure!(
                destinations.iter().all(|value| **value == decision["endpoint"].as_str().unwrap_or_default()),
                "the engine got {destinations:?}, the decision is {}",
                decision["endpoint"]
            );
            ensure!(received.header(PREFILLER).is_none(), "{PREFILLER} went through");
        }
    }
    say(&format!("  {} forged headers with the picker: none obeyed", 2 * REQUESTS));

    for setting in H::SETTINGS {
        stage.set(*setting).await?;
        stage.kill_picker();
        stage.unready_picker().await?;
        let mut by_first = 0;
        for forged in [&outsider, &first] {
            for _ in 0..REQUESTS {
                let reply = ask(&stage.client, &[(DESTINATION, forged)]).await?;
                let open = setting.failure == Failure::Open;
                ensure!(open || reply.status != 200, "{setting}, no picker: it fails open");
                by_first += usize::from(forged == &first && reply.engine() == Some(stage.engines[0].address()));
            }
        }
        ensure!(by_first < REQUESTS, "{setting}, no picker: the forged endpoint was obeyed");
        say(&format!("  {} with no picker ({setting}): none obeyed", 2 * REQUESTS));
        stage.restart_picker().await?;
    }
    ensure!(stage.outsider.received_count() == 0, "an engine of no pool was asked");
    stage.set(H::SETTINGS[0]).await
}
