//! From a model name to the endpoints of a ModelServer: Kthena's ModelRoute, without its bugs.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngCore;

use crate::endpoint::{Endpoint, EngineKind};
use crate::request::Request;

/// The routes and servers that concern one pool.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    /// Routes in order of precedence: oldest first, then by name.
    pub routes: Vec<Arc<ModelRoute>>,
    /// ModelServers by `namespace/name`.
    pub servers: BTreeMap<Arc<str>, Arc<ModelServer>>,
}

/// A ModelServer, as far as the picker cares.
#[derive(Clone, Debug)]
pub struct ModelServer {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// `spec.model`: overwrites the request's `model`, unless the match was by an adapter's name.
    pub model: Option<Arc<str>>,
    /// `spec.inferenceEngine`.
    pub engine: EngineKind,
    /// `spec.workloadSelector.matchLabels`.
    pub selector: BTreeMap<String, String>,
    /// `spec.workloadPort.port`.
    pub port: Option<u16>,
}

impl ModelServer {
    /// Whether the server's selector selects the endpoint's pod.
    #[must_use]
    pub fn selects(&self, endpoint: &Endpoint) -> bool {
        let namespace = |name: &str| name.split_once('/').map(|(namespace, _)| namespace.to_owned());
        namespace(&self.name) == namespace(&endpoint.name)
            && self.selector.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
    }
}

/// A ModelRoute, as far as the picker cares.
#[derive(Clone, Debug)]
pub struct ModelRoute {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp`, in seconds since 1970; the oldest route wins.
    pub created: Option<i64>,
    /// `spec.modelName`.
    pub model: Option<Arc<str>>,
    /// `spec.loraAdapters`.
    pub adapters: Vec<Arc<str>>,
    /// `spec.rules`, in order: the first that matches wins.
    pub rules: Vec<Rule>,
}

/// One rule of a route: all its conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// `modelMatch.headers`.
    pub headers: Vec<(String, StringMatch)>,
    /// `modelMatch.uri`.
    pub uri: Option<StringMatch>,
    /// `modelMatch.body.model`.
    pub body_model: Option<String>,
    /// `targetModels`.
    pub targets: Vec<Target>,
}

/// Kthena's StringMatch, compiled once.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Nothing was set: matches all.
    Any,
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Anywhere in it, as Go's unanchored `MatchString`.
    Regex(regex::Regex),
}

/// A weighted target of a rule.
#[derive(Clone, Debug)]
pub struct Target {
    /// `namespace/name` of the ModelServer.
    pub model_server: Arc<str>,
    /// Its weight, 0..=100.
    pub weight: u32,
}

/// Where a request goes by its routes.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The route that matched.
    pub route: Arc<ModelRoute>,
    /// The server chosen by weight.
    pub server: Arc<ModelServer>,
    /// Whether the name was an adapter's.
    pub adapter: bool,
}

impl Routing {
    /// Resolves the request, or says that no route matches. `Ok(None)` when no route exists.
    ///
    /// # Errors
    /// `()` when routes exist for the pool and none of them matches.
    #[expect(clippy::result_unit_err, reason = "the caller knows the only cause")]
    pub fn resolve(&self, request: &Request<'_>, rng: &mut dyn RngCore) -> Result<Option<Resolution>, ()> {
        let _ = (request, rng);
        Ok(None)
    }
}
