//! `kthena rollout undo`: the roles of an earlier revision become the template again.

use anyhow::Result;
use controller_api::labels;
use planning::history::{Undo, undo};
use serde_json::json;

use crate::Outcome;
use crate::cluster::Cluster;
use crate::print;

pub(crate) async fn run(cluster: &Cluster, name: &str, to: Option<&str>, dry_run: bool) -> Result<Outcome> {
    let serving = cluster.serving(name).await?;
    let history = cluster.history(&serving).await?;
    let Undo { number, roles, changes, change_cause } = undo(&serving, &history, to)?;
    if dry_run {
        print::line(&format!("{name} would go back to revision {number}:"))?;
    } else {
        let change = json!({
            "metadata": {"annotations": {labels::CHANGE_CAUSE: change_cause}},
            "spec": {"template": {"roles": roles}},
        });
        cluster.change(&serving, change).await?;
        print::line(&format!("{name} goes back to revision {number}:"))?;
    }
    for change in changes {
        print::line(&format!("  {change}"))?;
    }
    Ok(Outcome::Done)
}
