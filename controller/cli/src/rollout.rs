//! `kthena rollout`: a ModelServing's way from one revision to another.

mod history;
mod pause;
mod status;
mod undo;

use anyhow::Result;

use crate::Outcome;
use crate::args::{ClusterArgs, RolloutAction};
use crate::cluster::Cluster;

pub(crate) async fn run(args: &ClusterArgs, action: RolloutAction) -> Result<Outcome> {
    let cluster = Cluster::connect(args).await?;
    match action {
        RolloutAction::Status { target, timeout, watch } => status::run(&cluster, &target.name, timeout, watch).await,
        RolloutAction::History { target, revision, output } => {
            history::run(&cluster, &target.name, revision.as_deref(), output).await
        }
        RolloutAction::Undo { target, to_revision, dry_run } => {
            undo::run(&cluster, &target.name, to_revision.as_deref(), dry_run).await
        }
        RolloutAction::Pause { target } => pause::pause(&cluster, &target.name).await,
        RolloutAction::Resume { target } => pause::resume(&cluster, &target.name).await,
    }
}
