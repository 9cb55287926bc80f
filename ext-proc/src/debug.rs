//! The debug port, for loopback only: the configuration as Kthena shows it, recent decisions, the
//! fleet, a page for people, and the same decisions over gRPC. HTTP/1 and h2c on one port.

mod config_dump;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use proto::picker_v1::explain_server::ExplainServer;
use scheduling::{Endpoint, Moment, Pool, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::declarations::Declarations;
use crate::explain::{DEFAULT_LIMIT, Explainer};
use crate::fleet::Fleet;
use crate::kv_events::KvMetrics;
use crate::kv_events::metrics::RankState;
use crate::recent::Recent;
use crate::rfc3339;
use crate::tokens::Tokenizers;

/// A kind of object in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ModelRoute`.
    ModelRoutes,
    /// `ModelServer`.
    ModelServers,
    /// `Pod`.
    Pods,
    /// `InferencePool`.
    InferencePools,
}

impl Kind {
    /// All kinds, by their plural, which is their path.
    pub const ALL: [(&'static str, Self); 4] = [
        ("modelroutes", Self::ModelRoutes),
        ("modelservers", Self::ModelServers),
        ("pods", Self::Pods),
        ("inferencepools", Self::InferencePools),
    ];

    fn named(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == plural).map(|(_, kind)| kind)
    }
}

#[derive(Clone)]
struct Debug {
    fleet: Arc<Fleet>,
    explainer: Explainer,
    config: Arc<Declarations>,
    kv_events: Arc<KvMetrics>,
    tokenizers: Option<Arc<Tokenizers>>,
}

/// The routes of the debug port, gRPC included.
pub fn router(
    fleet: Arc<Fleet>,
    recent: Arc<Recent>,
    config: Arc<Declarations>,
    kv_events: Arc<KvMetrics>,
    tokenizers: Option<Arc<Tokenizers>>,
) -> Router {
    let explainer = Explainer::new(Arc::clone(&fleet), recent, tokenizers.clone());
    let grpc = tonic::service::Routes::new(ExplainServer::new(explainer.clone())).into_axum_router();
    Router::new()
        .route("/", get(async || Html(include_str!("debug.html"))))
        .route("/debug/decisions", get(decisions))
        .route("/debug/fleet", get(fleet_state))
        .route("/debug/config_dump", get(status))
        .route("/debug/config_dump/{kind}", get(list))
        .route("/debug/config_dump/namespaces/{namespace}/{kind}/{name}", get(one))
        .with_state(Debug { fleet, explainer, config, kv_events, tokenizers })
        .merge(grpc)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wanted {
    limit: Option<usize>,
    pool: Option<String>,
    request_id: Option<String>,
}

async fn decisions(State(debug): State<Debug>, Query(wanted): Query<Wanted>) -> Response {
    let limit = wanted.limit.unwrap_or(DEFAULT_LIMIT);
    Json(debug.explainer.list(limit, wanted.pool.as_deref(), wanted.request_id.as_deref())).into_response()
}

/// One endpoint of one pool now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointState {
    pool: String,
    /// `prefill` or `decode` where a ModelServer has a `pdGroup`.
    role: Option<&'static str>,
    name: String,
    address: String,
    ready: bool,
    engine: &'static str,
    in_flight: u32,
    uncached_tokens: u64,
    /// Absent before the first successful scrape.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    gauges: Option<GaugeState>,
    /// By data-parallel rank; absent where KV events are not listened to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kv_events: Vec<KvEventState>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KvEventState {
    rank: u32,
    connected: bool,
    next_sequence: u64,
    /// Absent before the first batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GaugeState {
    gauges_age_ms: u64,
    waiting: u32,
    running: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_usage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_first_token_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_per_output_token_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<String>>,
}

async fn fleet_state(State(debug): State<Debug>) -> Response {
    let snapshot = debug.fleet.snapshot();
    let now = debug.fleet.now();
    let ranks = debug.kv_events.ranks();
    let endpoints: Vec<EndpointState> = snapshot
        .pools
        .values()
        .flat_map(|pool| pool.all_endpoints().map(|endpoint| state(pool, endpoint, now, &ranks)))
        .collect();
    let pools: Vec<Value> = snapshot
        .pools
        .values()
        .map(|pool| {
            let ready = pool.endpoints.iter().filter(|endpoint| endpoint.ready).count();
            json!({"name": pool.name.to_string(), "endpoints": pool.endpoints.len(), "ready": ready})
        })
        .collect();
    let known = snapshot.known;
    Json(json!({"endpoints": endpoints, "pools": pools, "generation": snapshot.generation, "known": known}))
        .into_response()
}

fn state(
    pool: &Pool,
    endpoint: &Endpoint,
    now: Moment,
    ranks: &BTreeMap<(SocketAddr, u32), Arc<RankState>>,
) -> EndpointState {
    let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let kv_events = ranks.range((endpoint.address, 0)..=(endpoint.address, u32::MAX)).map(|((_, rank), state)| {
        let lag_ms = state.lag_seconds().map(|lag| lag * 1e3);
        KvEventState { rank: *rank, connected: state.is_connected(), next_sequence: state.next(), lag_ms }
    });
    EndpointState {
        pool: pool.name.to_string(),
        role: pool.routing.role(endpoint).map(Role::name),
        name: endpoint.name.to_string(),
        address: endpoint.address.to_string(),
        ready: endpoint.ready,
        engine: config_dump::engine(endpoint.engine),
        kv_events: kv_events.collect(),
        in_flight: endpoint.load.requests(),
        uncached_tokens: endpoint.load.uncached_tokens(),
        gauges: endpoint.gauges.as_ref().map(|gauges| GaugeState {
            gauges_age_ms: u64::try_from(now.since(gauges.read_at).as_millis()).unwrap_or(u64::MAX),
            waiting: gauges.waiting,
            running: gauges.running,
            kv_usage: gauges.kv_usage,
            time_to_first_token_ms: gauges.time_to_first_token.map(millis),
            time_per_output_token_ms: gauges.time_per_output_token.map(millis),
            models: gauges.models.as_ref().map(|models| models.iter().map(ToString::to_string).collect()),
        }),
    }
}

async fn status(State(debug): State<Debug>) -> Response {
    let status = debug.config.status.load();
    let loaded_at = status.loaded_at.map(rfc3339::format);
    let tokenizers = debug.tokenizers.map(|tokenizers| tokenizers.status());
    let tokenizers = tokenizers.map(|status| json!({"models": status.models, "lastError": status.last_error}));
    let shown = json!({
        "lastError": status.last_error,
        "generation": status.generation,
        "loadedAt": loaded_at,
        "tokenizers": tokenizers,
    });
    Json(shown).into_response()
}

async fn list(State(debug): State<Debug>, Path(plural): Path<String>) -> Response {
    match Kind::named(&plural) {
        Some(kind) => {
            let objects = config_dump::list(&debug.fleet.snapshot(), &debug.config, kind);
            Json(json!({ plural: objects })).into_response()
        }
        None => not_found("no such kind: modelroutes, modelservers, pods or inferencepools"),
    }
}

async fn one(State(debug): State<Debug>, Path((namespace, plural, name)): Path<(String, String, String)>) -> Response {
    let Some(kind) = Kind::named(&plural) else {
        return not_found("no such kind: modelroutes, modelservers, pods or inferencepools");
    };
    match config_dump::one(&debug.fleet.snapshot(), &debug.config, kind, &namespace, &name) {
        Some(object) => Json(object).into_response(),
        None => not_found(match kind {
            Kind::ModelRoutes => "ModelRoute not found",
            Kind::ModelServers => "ModelServer not found",
            Kind::Pods => "Pod not found",
            Kind::InferencePools => "InferencePool not found",
        }),
    }
}

fn not_found(error: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::fixtures;

    #[test]
    fn prefill_endpoints_are_shown_with_their_role() {
        let fleet = fixtures::pairs(&[2]);
        let snapshot = fleet.snapshot();
        let pool = &snapshot.pools[&fixtures::pool()];
        let shown = pool.all_endpoints().map(|endpoint| json!(state(pool, endpoint, fleet.now(), &BTreeMap::new())));
        let shown: Vec<_> = shown.map(|it| (it["address"].clone(), it["role"].clone())).collect();
        assert_eq!(json!(shown), json!([["10.0.0.1:1", "decode"], ["10.0.0.1:2", "prefill"]]));
        let fleet = fixtures::fleet(&["10.0.0.1:1"]);
        let snapshot = fleet.snapshot();
        let pool = &snapshot.pools[&fixtures::pool()];
        assert_eq!(json!(state(pool, &pool.endpoints[0], fleet.now(), &BTreeMap::new()))["role"], Value::Null);
    }
}
