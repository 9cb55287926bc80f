//! `kthena rollout status`: how far it is, until it is complete.

use std::time::Duration;

use anyhow::{Result, anyhow};
use controller_api::v1alpha1::model_serving::ModelServing;
use futures_util::TryStreamExt as _;
use kube::api::{WatchEvent, WatchParams};
use planning::history::{Progress, progress};
use tokio::time::Instant;

use crate::Outcome;
use crate::cluster::Cluster;
use crate::print;

/// A watch is opened anew after this time at the latest.
const WATCH: Duration = Duration::from_secs(60);

/// Between two looks at a cluster that cannot be watched.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(cluster: &Cluster, name: &str, timeout: Duration, watch: bool) -> Result<Outcome> {
    let deadline = Instant::now() + timeout;
    let mut said = String::new();
    let mut serving = cluster.serving(name).await?;
    let uid = serving.metadata.uid.clone();
    loop {
        let progress = progress(&serving);
        if progress.message() != said {
            progress.message().clone_into(&mut said);
            print::line(&said)?;
        }
        match progress {
            Progress::Complete(_) => return Ok(Outcome::Done),
            Progress::Held(_) => return Ok(Outcome::Held),
            Progress::Going(_) if !watch => return Ok(Outcome::NotYet),
            Progress::Going(_) => {}
        }
        match tokio::time::timeout_at(deadline, next(cluster, name, &serving)).await {
            Ok(changed) => serving = changed?,
            Err(_) => {
                print::line(&format!("{name} is not rolled out after {} s; the rollout goes on", timeout.as_secs()))?;
                return Ok(Outcome::NotYet);
            }
        }
        if serving.metadata.uid != uid {
            return Err(anyhow!("{name} was deleted and created again meanwhile"));
        }
    }
}

/// The ModelServing once it differs from `serving`, or after a while.
async fn next(cluster: &Cluster, name: &str, serving: &ModelServing) -> Result<ModelServing> {
    let version = serving.metadata.resource_version.clone().unwrap_or_default();
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let api = cluster.servings();
    let event = async {
        let stream = api.watch(&only, &version).await?;
        std::pin::pin!(stream).try_next().await
    };
    match tokio::time::timeout(WATCH, event).await {
        Ok(Ok(Some(WatchEvent::Added(serving) | WatchEvent::Modified(serving)))) => return Ok(serving),
        Ok(Ok(Some(WatchEvent::Deleted(_)))) => return Err(anyhow!("{name} was deleted meanwhile")),
        // The version is too old, or the connection broke.
        Ok(_) => tokio::time::sleep(PAUSE).await,
        Err(_) => {}
    }
    cluster.serving(name).await
}
