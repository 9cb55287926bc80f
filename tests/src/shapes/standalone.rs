//! `deploy/envoy/standalone.yaml`, with nothing changed but addresses and ports.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{GatewayConfig, Pool, load_assignment};
use crate::checkout;
use crate::config_dir::NAMESPACE;

/// The file itself.
#[must_use]
pub fn path() -> PathBuf {
    checkout::path("deploy/envoy/standalone.yaml")
}

/// The file's configuration for one pool, whose endpoints its picker tells.
///
/// # Errors
/// When the file cannot be read, or has not the places where addresses go.
pub fn config(pool: &Pool) -> Result<GatewayConfig> {
    let path = path();
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config: Value = serde_saphyr::from_str(&text)?;
    let address = config.pointer_mut("/static_resources/listeners/0/address/socket_address").context("no listener")?;
    *address = json!({"address": "127.0.0.1", "port_value": 0});
    let picker = config
        .pointer_mut(
            "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address",
        )
        .context("no picker")?;
    *picker = json!({"address": pool.picker.ip(), "port_value": pool.picker.port()});
    let engines = config.pointer_mut("/static_resources/clusters/1/eds_cluster_config").context("no engines")?;
    engines["service_name"] = format!("{NAMESPACE}/{}", pool.name).into();
    Ok(GatewayConfig { config })
}

/// The same for an Envoy that knows all endpoints of the pool from the start, whatever its picker tells.
///
/// # Errors
/// As [`config`].
pub fn knowing_all(pool: &Pool) -> Result<GatewayConfig> {
    let mut gateway = config(pool)?;
    let engines = gateway.clusters().get_mut(1).and_then(Value::as_object_mut).context("no engines")?;
    engines.remove("eds_cluster_config");
    engines.insert("type".to_owned(), "STATIC".into());
    engines.insert("load_assignment".to_owned(), load_assignment("engines", &pool.endpoints));
    Ok(gateway)
}
