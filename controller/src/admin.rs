//! The metrics port: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::readiness::Readiness;

/// A pass that runs longer than this hangs: its own deadlines end it long before.
const HANGS: Duration = Duration::from_mins(3);

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/readyz`: all of them.
    pub readiness: [Arc<Readiness>; 2],
    /// `/healthz`.
    pub queue: Arc<Queue>,
}

/// The routes of the metrics port.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.page()).into_response()
}

async fn healthy(State(admin): State<Admin>) -> Response {
    let longest = admin.queue.longest();
    if longest < HANGS {
        return Json(json!({"message": "ok"})).into_response();
    }
    let body = Json(json!({"message": "a pass hangs", "seconds": longest.as_secs()}));
    (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let reasons: Vec<String> = admin.readiness.iter().filter_map(|readiness| readiness.reason()).collect();
    if reasons.is_empty() {
        return Json(json!({"message": "controller is ready"})).into_response();
    }
    let body = Json(json!({"message": "controller is not ready", "reason": reasons.join("; ")}));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}
