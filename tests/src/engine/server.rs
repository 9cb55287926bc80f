//! Connections and paths of a simulated engine.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::fault::Fault;
use super::transfer::FETCH;
use super::{HEADER, State, api};

/// Serves until it is aborted; then every connection breaks.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let app = router(state);
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(app.clone());
        connections.spawn(async move {
            // A broken connection is the client's affair, or a fault that was asked for.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn router(state: Arc<State>) -> Router {
    let name = HeaderValue::from_str(&state.address.to_string()).expect("an address is text");
    Router::new()
        .route("/v1/chat/completions", post(api::completion))
        .route("/v1/completions", post(api::completion))
        .route("/tokenize", post(api::tokenize))
        .route("/v1/models", get(models))
        .route("/health", get(async || StatusCode::OK))
        .route("/metrics", get(metrics))
        .route("/sim/fault", put(set_fault).delete(clear_fault))
        .route(FETCH, post(fetch))
        .fallback(echo)
        .with_state(state)
        .layer(axum::middleware::map_response(move |mut response: Response| {
            response.headers_mut().insert(HEADER, name.clone());
            std::future::ready(response)
        }))
}

async fn models(Shared(state): Shared<Arc<State>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    state.record.push(&parts, &bytes::Bytes::new(), None);
    let model = |id: &str, parent: Option<&str>| json!({"id": id, "object": "model", "created": 0, "owned_by": "vllm", "root": id, "parent": parent});
    let base = &state.config.model;
    let adapters = state.config.adapters.iter().map(|adapter| model(adapter, Some(base)));
    let data: Vec<_> = std::iter::once(model(base, None)).chain(adapters).collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    let fault = state.fault.lock().clone();
    match fault {
        Some(Fault::MetricsStatus(status)) => api::status(status).into_response(),
        Some(Fault::Metrics(text)) => text.into_response(),
        _ => {
            let text = state.metrics.lock().text(&state);
            ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
    }
}

async fn set_fault(Shared(state): Shared<Arc<State>>, Json(fault): Json<Fault>) -> StatusCode {
    *state.fault.lock() = Some(fault);
    StatusCode::NO_CONTENT
}

async fn fetch(Shared(state): Shared<Arc<State>>, params: String) -> Response {
    match state.transfer.fetch(&params) {
        Ok(tokens) => tokens.to_string().into_response(),
        Err(error) => (StatusCode::NOT_FOUND, error).into_response(),
    }
}

async fn clear_fault(Shared(state): Shared<Arc<State>>) -> StatusCode {
    *state.fault.lock() = None;
    StatusCode::NO_CONTENT
}

/// Any other path: records what came and says how long it was.
async fn echo(Shared(state): Shared<Arc<State>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let trailers = body.trailers().cloned();
    let body = body.to_bytes();
    state.record.push(&parts, &body, trailers);
    Json(json!({"path": parts.uri.path(), "bytes": body.len()})).into_response()
}
