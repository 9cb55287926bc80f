//! From a model name to the endpoints of a ModelServer: Kthena's ModelRoute, without its bugs.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{Rng, RngCore};

use crate::disaggregation::{KvConnector, PdGroup, Role};
use crate::endpoint::{Endpoint, EngineKind};
use crate::pairing::{Decodes, Pairing};
use crate::request::Request;

/// The routes and servers that concern one pool.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    /// Routes in order of precedence: oldest first, then by name.
    pub routes: Vec<Arc<ModelRoute>>,
    /// ModelServers by `namespace/name`.
    pub servers: BTreeMap<Arc<str>, Arc<ModelServer>>,
    /// The endpoints of each server, computed once: a request must not compare labels.
    members: BTreeMap<Arc<str>, Members>,
    /// The prefill/decode pairs of each server that has a `pdGroup`.
    pairings: BTreeMap<Arc<str>, Pairing>,
    /// The endpoints that are no server's prefill pods; only where a server has a `pdGroup`.
    no_prefills: Option<Members>,
}

/// Which endpoints of a pool a ModelServer selects, in the pool's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members(Vec<bool>);

impl FromIterator<bool> for Members {
    fn from_iter<T: IntoIterator<Item = bool>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl Members {
    /// The endpoints that the server selects. Where a pool has several ports and one of them is the
    /// server's `workloadPort`, only that one.
    fn of(server: &ModelServer, endpoints: &[Arc<Endpoint>]) -> Self {
        let selected: Vec<bool> = endpoints.iter().map(|endpoint| server.selects(endpoint)).collect();
        let ports = || {
            let selected = endpoints.iter().zip(&selected).filter(|(_, selected)| **selected);
            selected.map(|(endpoint, _)| endpoint.address.port())
        };
        let port = server.port.filter(|port| ports().any(|other| other == *port));
        let on_port = |endpoint: &Endpoint| port.is_none_or(|port| endpoint.address.port() == port);
        Self(endpoints.iter().zip(&selected).map(|(endpoint, selected)| *selected && on_port(endpoint)).collect())
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }

    fn any(&self) -> bool {
        self.0.contains(&true)
    }
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
    /// `spec.workloadPort.port`; nothing where every port of the pool is meant.
    pub port: Option<u16>,
    /// `spec.workloadSelector.pdGroup`: prefill and decode run in pods of their own.
    pub pd_group: Option<PdGroup>,
    /// How KV blocks travel between them.
    pub connector: KvConnector,
}

impl ModelServer {
    /// Whether the server's selector selects the endpoint's pod.
    #[must_use]
    pub fn selects(&self, endpoint: &Endpoint) -> bool {
        self.selects_pod(&endpoint.name, &endpoint.labels)
    }

    /// Whether the server's selector selects the pod `namespace/name` with these labels.
    #[must_use]
    pub fn selects_pod(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        namespace(&self.name) == namespace(name)
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// What the endpoint's pod does for the server; `None` when the server does not select it, or has
    /// no `pdGroup`, or the pod is neither.
    #[must_use]
    pub fn role(&self, endpoint: &Endpoint) -> Option<Role> {
        self.role_of_pod(&endpoint.name, &endpoint.labels)
    }

    /// As [`ModelServer::role`], of the pod `namespace/name` with these labels.
    #[must_use]
    pub fn role_of_pod(&self, name: &str, labels: &BTreeMap<String, String>) -> Option<Role> {
        let role = self.pd_group.as_ref()?.role(labels)?;
        self.selects_pod(name, labels).then_some(role)
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
    /// What of `servers` and `routes` concerns the `endpoints` of a pool in `namespace`: the servers
    /// that select one of them, ready or not, and the routes with such a server among their targets.
    /// `prefills` are each server's prefill endpoints, in the order in which the pool keeps them.
    #[must_use]
    pub fn of_pool(
        pool_namespace: &str,
        endpoints: &[Arc<Endpoint>],
        prefills: &BTreeMap<Arc<str>, Arc<[Arc<Endpoint>]>>,
        servers: &[Arc<ModelServer>],
        routes: &[Arc<ModelRoute>],
    ) -> Self {
        let here = |name: &str| namespace(name) == Some(pool_namespace);
        let mut routing = Self::default();
        for server in servers.iter().filter(|server| here(&server.name)) {
            let members = Members::of(server, endpoints);
            if members.any() {
                let prefills = prefills.get(&server.name).map_or(&[][..], |prefills| prefills);
                if let Some(pairing) = Pairing::of(server, endpoints, &members, prefills) {
                    routing.pairings.insert(Arc::clone(&server.name), pairing);
                }
                routing.members.insert(Arc::clone(&server.name), members);
                routing.servers.insert(Arc::clone(&server.name), Arc::clone(server));
            }
        }
        if !routing.pairings.is_empty() {
            let serves = |endpoint: &Arc<Endpoint>| routing.role(endpoint) != Some(Role::Prefill);
            routing.no_prefills = Some(endpoints.iter().map(serves).collect());
        }
        let concerns = |route: &&Arc<ModelRoute>| {
            let mut targets = route.rules.iter().flat_map(|rule| &rule.targets);
            here(&route.name) && targets.any(|target| routing.servers.contains_key(&target.model_server))
        };
        routing.routes = routes.iter().filter(concerns).map(Arc::clone).collect();
        routing.routes.sort_by(|one, other| one.precedence().cmp(&other.precedence()));
        routing
    }

    /// Which endpoints the server selects; `None` for a server that is not of this pool.
    pub(crate) fn members(&self, server: &str) -> Option<&Members> {
        self.members.get(server)
    }

    /// What the endpoint's pod does for the first server that gives it a role.
    #[must_use]
    pub fn role(&self, endpoint: &Endpoint) -> Option<Role> {
        self.pairings.keys().filter_map(|name| self.servers.get(name)).find_map(|server| server.role(endpoint))
    }

    /// Who may decode; `None` where no `pdGroup` has a say. The server is the resolution's; without one
    /// it is the pool's only server.
    pub(crate) fn decodes(&self, resolution: Option<&Resolution>) -> Option<Decodes<'_>> {
        let no_prefills = self.no_prefills.as_ref()?;
        let server = match resolution {
            Some(resolution) => self.servers.get(&resolution.server.name)?,
            None if self.servers.len() == 1 => self.servers.values().next()?,
            None => return Some(Decodes { members: no_prefills, server: None }),
        };
        let pairing = self.pairings.get(&server.name)?;
        Some(Decodes { members: &pairing.decodes, server: Some((server, pairing)) })
    }

    /// Resolves the request, or says that no route matches. `Ok(None)` when no route exists, or when
    /// the request's model is not known.
    ///
    /// The name is looked up among the base models first, and among adapters only when no route has
    /// it as its base model. Of several routes the first in [`Routing::routes`] wins that has a
    /// matching rule (its first) with a target of weight above 0 whose ModelServer serves this pool.
    /// What was resolved before stays so ([`Request::resolution`]).
    ///
    /// # Errors
    /// `()` when routes exist for the pool and none of them matches.
    #[expect(clippy::result_unit_err, reason = "the caller knows the only cause")]
    pub fn resolve(&self, request: &Request<'_>, rng: &mut dyn RngCore) -> Result<Option<Resolution>, ()> {
        if let Some(before) = request.resolution.filter(|before| self.servers.contains_key(&before.server.name)) {
            return Ok(Some(before.clone()));
        }
        let (Some(model), false) = (request.model(), self.routes.is_empty()) else { return Ok(None) };
        let has_base = |route: &Arc<ModelRoute>| route.model.as_deref() == Some(model);
        let has_adapter = |route: &Arc<ModelRoute>| route.adapters.iter().any(|adapter| **adapter == *model);
        let adapter = !self.routes.iter().any(has_base);
        let candidates = self.routes.iter().filter(|route| if adapter { has_adapter(route) } else { has_base(route) });
        for route in candidates {
            let rule = route.rules.iter().find(|rule| rule.matches(request, model));
            if let Some(server) = rule.and_then(|rule| self.draw(rule, rng)) {
                return Ok(Some(Resolution { route: Arc::clone(route), server: Arc::clone(server), adapter }));
            }
        }
        Err(())
    }

    /// Draws a target by weight, among those that serve this pool: what goes to other pools is
    /// the gateway's to weigh.
    fn draw(&self, rule: &Rule, rng: &mut dyn RngCore) -> Option<&Arc<ModelServer>> {
        let targets = || {
            let known = rule.targets.iter().filter(|target| target.weight > 0);
            known.filter_map(|target| Some((self.servers.get(&target.model_server)?, u64::from(target.weight))))
        };
        let total: u64 = targets().map(|(_, weight)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut left = rng.random_range(0..total);
        for (server, weight) in targets() {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return Some(server),
            }
        }
        None
    }
}

impl Resolution {
    /// The name to write over the client's `model`: the server's, unless the client named an adapter
    /// or that very name.
    #[must_use]
    pub fn rewrite_model(&self, model: &str) -> Option<Arc<str>> {
        self.server.model.clone().filter(|server_model| !self.adapter && **server_model != *model)
    }
}

impl ModelRoute {
    /// Sorts routes: oldest first; one of unknown age after all others; then by name.
    #[must_use]
    pub fn precedence(&self) -> (bool, Option<i64>, &str) {
        (self.created.is_none(), self.created, &self.name)
    }
}

impl Rule {
    fn matches(&self, request: &Request<'_>, model: &str) -> bool {
        self.body_model.as_ref().is_none_or(|body_model| body_model == model)
            && self.uri.as_ref().is_none_or(|uri| uri.matches(request.path))
            && self.headers.iter().all(|(name, value)| {
                let name = name.to_ascii_lowercase();
                value.matches(request.headers.get(&name).unwrap_or_default())
            })
    }
}

impl StringMatch {
    /// Whether `value` matches. A missing header is the empty string.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => value == exact,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

fn namespace(name: &str) -> Option<&str> {
    name.split_once('/').map(|(namespace, _)| namespace)
}

#[cfg(test)]
mod tests;
