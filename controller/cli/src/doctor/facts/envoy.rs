//! An Envoy's configuration, as far as it says how requests come to a picker and from there to an engine: routes with
//! the `ext_proc` filters that they meet, each with what the route changes of it, and clusters.

mod clusters;
mod filters;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

pub(crate) use self::clusters::Cluster;
use self::filters::Chain;
pub(crate) use self::filters::{Body, ExtProc};

/// One Envoy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Envoy {
    pub(crate) routes: Vec<Route>,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// Route configurations that listeners get from elsewhere and that were not given.
    pub(crate) elsewhere: BTreeSet<String>,
}

/// One way of a request: a listener, a route, a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Route {
    pub(crate) listener: String,
    pub(crate) name: String,
    pub(crate) cluster: String,
    /// In seconds; 0 is for ever.
    pub(crate) timeout: f64,
    /// Those that it asks, in their order.
    pub(crate) filters: Vec<ExtProc>,
    /// Headers that are removed before any filter, in lower case.
    pub(crate) stripped: BTreeSet<String>,
}

impl Envoy {
    /// Reads a bootstrap, or what an admin port answers at `/config_dump`.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn read(configuration: Value) -> Result<Self, String> {
        let configuration = snake_case(configuration);
        let parts = Parts::of(&configuration).ok_or_else(|| {
            "this is neither an Envoy bootstrap (static_resources) nor a config_dump (configs)".to_owned()
        })?;
        let mut envoy = Self::default();
        for cluster in &parts.clusters {
            envoy.clusters.insert(text(cluster, "/name").to_owned(), Cluster::read(cluster));
        }
        for listener in &parts.listeners {
            let chains = items(listener, "/filter_chains").chain(listener.get("default_filter_chain"));
            for filter in chains.flat_map(|chain| items(chain, "/filters")) {
                let Some(manager) = filter.get("typed_config").map(unwrapped) else { continue };
                if manager.kind.ends_with(".HttpConnectionManager") {
                    envoy.listen(text(listener, "/name"), manager.value, &parts);
                }
            }
        }
        Ok(envoy)
    }

    fn listen(&mut self, listener: &str, manager: &Value, parts: &Parts<'_>) {
        let chain = Chain::read(items(manager, "/http_filters"), &parts.filters);
        let stripped = stripped(manager);
        let named = text(manager, "/rds/route_config_name");
        let found = parts.routes.iter().find(|routes| text(routes, "/name") == named).copied();
        let Some(routes) = manager.get("route_config").or(found) else {
            if !named.is_empty() {
                self.elsewhere.insert(named.to_owned());
            }
            return;
        };
        for host in items(routes, "/virtual_hosts") {
            for (index, route) in items(host, "/routes").enumerate() {
                let Some(action) = route.get("route") else { continue };
                let named = text(route, "/name");
                let name =
                    if named.is_empty() { format!("{}[{index}]", text(host, "/name")) } else { named.to_owned() };
                // Envoy's own default is 15 seconds.
                let timeout = action.get("timeout").map_or(15.0, seconds);
                let single = Some(action).filter(|action| action.get("cluster").is_some());
                let weighted = items(action, "/weighted_clusters/clusters");
                for target in single.into_iter().chain(weighted) {
                    let cluster = target.get("cluster").or_else(|| target.get("name")).and_then(Value::as_str);
                    self.routes.push(Route {
                        listener: listener.to_owned(),
                        name: name.clone(),
                        cluster: cluster.unwrap_or_default().to_owned(),
                        timeout,
                        filters: chain.at([routes, host, route, target]),
                        stripped: stripped.clone(),
                    });
                }
            }
        }
    }

    /// The routes whose cluster obeys a picker.
    pub(crate) fn steered(&self) -> impl Iterator<Item = (&Route, &Cluster)> {
        let routes = self.routes.iter().filter_map(|route| Some((route, self.clusters.get(&route.cluster)?)));
        routes.filter(|(_, cluster)| cluster.steering.any())
    }

    /// The steered routes with the filter that asks the picker.
    pub(crate) fn picked(&self) -> impl Iterator<Item = (&Route, &Cluster, &ExtProc)> {
        self.steered().filter_map(|(route, cluster)| Some((route, cluster, route.picker()?)))
    }
}

impl Route {
    /// The filter that asks the picker: of those whose answer may steer the last, else the last of all.
    pub(crate) fn picker(&self) -> Option<&ExtProc> {
        self.filters.iter().rev().find(|filter| filter.may_steer()).or_else(|| self.filters.last())
    }
}

/// Where a configuration has its resources.
#[derive(Default)]
struct Parts<'a> {
    listeners: Vec<&'a Value>,
    routes: Vec<&'a Value>,
    clusters: Vec<&'a Value>,
    /// Filters that come over the extension configuration discovery service.
    filters: Vec<&'a Value>,
}

impl<'a> Parts<'a> {
    fn of(configuration: &'a Value) -> Option<Self> {
        let mut parts = Self::default();
        if let Some(configs) = configuration.get("configs").and_then(Value::as_array) {
            for config in configs {
                let each = |list: &str, inner: &str| -> Vec<&'a Value> {
                    items(config, list).filter_map(|item| item.pointer(inner)).collect()
                };
                parts.listeners.extend(each("/static_listeners", "/listener"));
                parts.listeners.extend(each("/dynamic_listeners", "/active_state/listener"));
                parts.routes.extend(each("/static_route_configs", "/route_config"));
                parts.routes.extend(each("/dynamic_route_configs", "/route_config"));
                parts.clusters.extend(each("/static_clusters", "/cluster"));
                parts.clusters.extend(each("/dynamic_active_clusters", "/cluster"));
                parts.filters.extend(each("/ecds_filters", "/ecds_filter"));
            }
            return Some(parts);
        }
        let own = configuration.get("static_resources").unwrap_or(configuration);
        own.get("listeners").or_else(|| own.get("clusters"))?;
        parts.listeners.extend(items(own, "/listeners"));
        parts.routes.extend(items(own, "/route_configs"));
        parts.clusters.extend(items(own, "/clusters"));
        Some(parts)
    }
}

/// The headers that the connection manager removes before any filter runs.
fn stripped(manager: &Value) -> BTreeSet<String> {
    let extensions = items(manager, "/early_header_mutation_extensions");
    let mutations = extensions.flat_map(|extension| items(extension, "/typed_config/mutations"));
    mutations.filter_map(|mutation| mutation.get("remove")?.as_str()).map(str::to_lowercase).collect()
}

/// A message in an `Any`.
#[derive(Clone, Copy)]
struct Message<'a> {
    /// Its whole name.
    kind: &'a str,
    value: &'a Value,
}

/// The message, also where it is packed as a `TypedStruct`.
fn unwrapped(config: &Value) -> Message<'_> {
    let kind = text(config, "/@type");
    match config.get("value").filter(|_| kind.ends_with(".TypedStruct")) {
        Some(value) => Message { kind: text(config, "/type_url"), value },
        None => Message { kind, value: config },
    }
}

/// The elements of the list at `pointer`; none if there is no list.
fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The text at `pointer`; empty if there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A `google.protobuf.Duration` as JSON writes it, `1.5s`; 0 if it is none.
fn seconds(value: &Value) -> f64 {
    let text = value.as_str().and_then(|text| text.strip_suffix('s'));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Field names as Envoy's definitions write them: JSON may write `typedConfig` for `typed_config`.
fn snake_case(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (field(name), snake_case(value))).collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(snake_case).collect()),
        other => other,
    }
}

/// Keys of maps, as filters' and headers' names, are none of these, and stay.
fn field(name: String) -> String {
    let is_field = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric());
    if !is_field || name.chars().all(|letter| !letter.is_ascii_uppercase()) {
        return name;
    }
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests;
