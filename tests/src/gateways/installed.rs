//! What the chart installs, without what it would deploy: those programs run as processes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::objects::NAMESPACE;
use crate::cluster::control_plane::ControlPlane;
use crate::cluster::helm::{self, Helm};

/// Services and rights.
const OF_CHART: [&str; 3] =
    ["templates/picker/rights.yaml", "templates/picker/service.yaml", "templates/controller/rights.yaml"];

/// What the chart calls the picker's ports.
pub const PORTS: [(&str, u16); 2] = [("ext-proc", 9002), ("model-name", 9004)];

/// The manifests, with these values set.
///
/// # Errors
/// When helm cannot be built, or refuses a value.
pub async fn manifests(values: &[&str]) -> Result<String> {
    let chart = helm::chart();
    let chart = chart.to_string_lossy();
    let mut args = vec!["template", "kthena", &*chart, "--namespace", NAMESPACE];
    args.extend(values.iter().flat_map(|value| ["--set", *value]));
    args.extend(OF_CHART.iter().flat_map(|part| ["--show-only", *part]));
    Helm::new(None).await?.run(&args).await
}

/// The labels by which the picker's Service finds its pods.
pub fn picker_labels() -> Value {
    json!({"app.kubernetes.io/name": "kthena-ext-proc", "app.kubernetes.io/instance": "kthena"})
}

/// A kubeconfig in `folder` with the rights of a service account.
///
/// # Errors
/// When it cannot be written.
pub fn act_as(plane: &ControlPlane, folder: &Path, account: &str) -> Result<PathBuf> {
    let mut rights: Value = serde_json::from_str(&std::fs::read_to_string(plane.kubeconfig())?)?;
    rights["users"][0]["user"]["as"] = json!(format!("system:serviceaccount:{NAMESPACE}:{account}"));
    let file = folder.join(format!("kubeconfig-of-{account}"));
    std::fs::write(&file, rights.to_string())?;
    Ok(file)
}
