//! What a picker's debug port says: `/debug/fleet`, `/debug/config_dump` and its list of ModelServers.

use serde::Deserialize;
use serde_json::Value;

/// One picker's account of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picker {
    /// Where it was asked.
    pub(crate) address: String,
    /// Whether it has seen the world it is to choose from.
    pub(crate) known: bool,
    /// Why it keeps its last good configuration.
    pub(crate) last_error: Option<String>,
    pub(crate) pools: Vec<PoolState>,
    pub(crate) endpoints: Vec<EndpointState>,
    /// Absent without `--tokenizer-dir`.
    pub(crate) tokenizers: Option<Tokenizers>,
    pub(crate) servers: Vec<Server>,
}

/// A pool, without its prefill pods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PoolState {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) endpoints: usize,
    pub(crate) ready: usize,
}

/// An endpoint of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointState {
    pub(crate) pool: String,
    /// `namespace/pod`.
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) ready: bool,
    /// Absent before the first successful scrape.
    pub(crate) gauges_age_ms: Option<u64>,
    /// The models that the engine says it has.
    pub(crate) models: Option<Vec<String>>,
    /// By rank; empty where KV events are not listened to.
    pub(crate) kv_events: Vec<KvEvents>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KvEvents {
    pub(crate) rank: u32,
    pub(crate) connected: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Tokenizers {
    /// The models that it has a tokenizer for.
    pub(crate) models: Vec<String>,
    pub(crate) last_error: Option<String>,
}

/// A ModelServer and the pods that it selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Server {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) model: Option<String>,
    /// `namespace/pod`.
    pub(crate) pods: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FleetPage {
    endpoints: Vec<EndpointState>,
    pools: Vec<PoolState>,
    known: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusPage {
    last_error: Option<String>,
    tokenizers: Option<Tokenizers>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServerPage {
    name: String,
    namespace: String,
    spec: ServerSpec,
    associated_pods: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerSpec {
    model: Option<String>,
}

impl Picker {
    /// Reads the three pages.
    ///
    /// # Errors
    /// When one of them is not a picker's.
    pub(crate) fn read(address: &str, fleet: Value, status: Value, servers: &Value) -> Result<Self, String> {
        let strange = |error: serde_json::Error| format!("this is no picker's debug port: {error}");
        if fleet.get("endpoints").is_none() {
            return Err("this is no picker's debug port: its fleet has no endpoints".to_owned());
        }
        let FleetPage { endpoints, pools, known } = serde_json::from_value(fleet).map_err(strange)?;
        let StatusPage { last_error, tokenizers } = serde_json::from_value(status).map_err(strange)?;
        // `null` when there is none.
        let listed = servers
            .get("modelservers")
            .filter(|list| list.is_array())
            .cloned()
            .unwrap_or_else(|| Vec::<Value>::new().into());
        let servers: Vec<ServerPage> = serde_json::from_value(listed).map_err(strange)?;
        let server = |page: ServerPage| Server {
            name: format!("{}/{}", page.namespace, page.name),
            model: page.spec.model.filter(|model| !model.is_empty()),
            pods: page.associated_pods,
        };
        Ok(Self {
            address: address.to_owned(),
            known,
            last_error,
            pools,
            endpoints,
            tokenizers,
            servers: servers.into_iter().map(server).collect(),
        })
    }
}
