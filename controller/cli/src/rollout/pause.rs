//! `kthena rollout pause` and `resume`.

use anyhow::{Result, bail};
use controller_api::labels;
use controller_api::v1alpha1::model_serving::ModelServing;
use serde_json::{Value, json};

use crate::Outcome;
use crate::cluster::Cluster;
use crate::print;

pub(crate) async fn pause(cluster: &Cluster, name: &str) -> Result<Outcome> {
    let serving = cluster.serving(name).await?;
    if by_field(&serving) || by_annotation(&serving) {
        bail!("{name} is paused already");
    }
    cluster.change(&serving, json!({"spec": {"rolloutStrategy": strategy(&serving, json!(true))}})).await?;
    print::line(&format!("{name} is paused: repair and scaling go on; kthena rollout resume {name} lets it go on"))?;
    Ok(Outcome::Done)
}

pub(crate) async fn resume(cluster: &Cluster, name: &str) -> Result<Outcome> {
    let serving = cluster.serving(name).await?;
    let mut change = json!({});
    if by_field(&serving)
        && let Some(fields) = change.as_object_mut()
    {
        fields.insert("spec".to_owned(), json!({"rolloutStrategy": strategy(&serving, Value::Null)}));
    }
    if by_annotation(&serving)
        && let Some(fields) = change.as_object_mut()
    {
        fields.insert("metadata".to_owned(), json!({"annotations": {labels::PAUSED: null}}));
    }
    if change == json!({}) {
        bail!("{name} is not paused");
    }
    cluster.change(&serving, change).await?;
    print::line(&format!("{name} is resumed"))?;
    Ok(Outcome::Done)
}

/// `paused` with the type, without which the object is not valid.
fn strategy(serving: &ModelServing, paused: Value) -> Value {
    let kind = serving.spec.rollout_strategy.as_ref().map(|strategy| strategy.kind).unwrap_or_default();
    let mut strategy = json!({"type": kind});
    if let Some(fields) = strategy.as_object_mut() {
        fields.insert("paused".to_owned(), paused);
    }
    strategy
}

fn by_field(serving: &ModelServing) -> bool {
    serving.spec.rollout_strategy.as_ref().and_then(|strategy| strategy.paused).unwrap_or(false)
}

fn by_annotation(serving: &ModelServing) -> bool {
    let annotations = serving.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(labels::PAUSED)).is_some_and(|value| value == "true")
}
