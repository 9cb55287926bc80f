//! The metrics port: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::metrics::Metrics;
use crate::metrics::exposition::{OPENMETRICS, PROMETHEUS, wants_openmetrics};

/// Whether the picker can serve: the fleet is known and it does not drain.
pub trait Readiness: Send + Sync + 'static {
    /// `Err` says in a few words why not.
    ///
    /// # Errors
    /// The reason.
    fn ready(&self) -> Result<(), &'static str>;
}

impl<F: Fn() -> Result<(), &'static str> + Send + Sync + 'static> Readiness for F {
    fn ready(&self) -> Result<(), &'static str> {
        self()
    }
}

#[derive(Clone)]
struct Admin {
    metrics: Arc<Metrics>,
    readiness: Arc<dyn Readiness>,
}

/// The routes of the metrics port.
pub fn router(metrics: Arc<Metrics>, readiness: Arc<dyn Readiness>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || Json(json!({"message": "ok"}))))
        .route("/readyz", get(ready))
        .with_state(Admin { metrics, readiness })
}

async fn scrape(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let openmetrics = wants_openmetrics(accept);
    let kind = if openmetrics { OPENMETRICS } else { PROMETHEUS };
    ([(header::CONTENT_TYPE, kind)], admin.metrics.encode(openmetrics)).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.readiness.ready() {
        Ok(()) => Json(json!({"message": "router is ready"})).into_response(),
        Err(reason) => {
            let body = Json(json!({"message": "router is not ready", "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}
