//! From an `AdmissionReview` to its answer.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use controller_api::v1alpha1::model_serving::ModelServing;
use http::{HeaderMap, StatusCode, header};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use planning::validation::{FieldError, validate, warnings};
use tracing::info;

/// Where the API server sends ModelServings: Kthena's path.
const PATH: &str = "/validate-workload-ai-v1alpha1-modelserving";

/// Two objects of the API server's own limit of 3 MiB, and what is around them.
const BODY_LIMIT: usize = 8 << 20;

/// The longest warning that the API server passes on whole.
const WARNING: usize = 250;

/// The webhook's pages.
pub(super) fn router(timeout: Duration) -> Router {
    Router::new().route(PATH, post(review)).route("/healthz", get(async || "ok")).with_state(timeout)
}

async fn review(State(timeout): State<Duration>, request: Request) -> Response {
    match tokio::time::timeout(timeout, read(request)).await {
        Ok(Ok(request)) => axum::Json(answer(&request).into_review()).into_response(),
        Ok(Err(refusal)) => refusal.into_response(),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request did not come in time").into_response(),
    }
}

async fn read(request: Request) -> Result<AdmissionRequest<DynamicObject>, (StatusCode, String)> {
    if !is_json(request.headers()) {
        let given = request.headers().get(header::CONTENT_TYPE);
        return Err((StatusCode::BAD_REQUEST, format!("Content-Type must be application/json, not {given:?}")));
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT)
        .await
        .map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, format!("the body cannot be read: {error}")))?;
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("the body is no AdmissionReview: {error}")))?;
    review.try_into().map_err(|_| (StatusCode::BAD_REQUEST, "the AdmissionReview has no request".to_owned()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Allows what can be served, and what is on its way out. Errors that the object had before the update are no reason to
/// refuse it: whoever changes a label should not have to mend them, and a finalizer must come off.
fn answer(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let Some(object) = request.object.as_ref().filter(|_| request.operation != Operation::Delete) else {
        return response;
    };
    if object.metadata.deletion_timestamp.is_some() {
        return response;
    }
    let serving = match parse(object) {
        Ok(serving) => serving,
        Err(error) => return deny(request, response, &[error]),
    };
    let before = request.old_object.as_ref().and_then(|old| parse(old).ok()).map(|old| validate(&old));
    let before = before.unwrap_or_default();
    let (known, new): (Vec<_>, Vec<_>) = validate(&serving).into_iter().partition(|error| before.contains(error));
    if new.is_empty() {
        let advice = known.iter().map(ToString::to_string).chain(warnings(&serving)).map(shortened);
        let advice: Vec<_> = advice.collect();
        let mut response = response;
        response.warnings = (!advice.is_empty()).then_some(advice);
        return response;
    }
    deny(request, response, &new)
}

fn deny(
    request: &AdmissionRequest<DynamicObject>,
    response: AdmissionResponse,
    errors: &[FieldError],
) -> AdmissionResponse {
    let lines: String = errors.iter().map(|error| format!("\n  - {error}")).collect();
    let namespace = request.namespace.as_deref().unwrap_or_default();
    info!(namespace, name = request.name, errors = errors.len(), "Refused a ModelServing.");
    response.deny(format!("validation failed:{lines}"))
}

fn parse(object: &DynamicObject) -> Result<ModelServing, FieldError> {
    let whole = |error: &serde_json::Error| FieldError { field: "object".to_owned(), message: error.to_string() };
    let value = serde_json::to_value(object).map_err(|error| whole(&error))?;
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError { field: error.path().to_string(), message: error.inner().to_string() })
}

fn shortened(mut warning: String) -> String {
    if warning.len() > WARNING {
        warning.truncate(warning.floor_char_boundary(WARNING));
        warning.push('…');
    }
    warning
}

#[cfg(test)]
mod tests;
