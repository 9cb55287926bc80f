//! What is known of one exchange while it runs, and what is told of it when.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::{Context, KeyValue};
use scheduling::{Body, Decision, Endpoint, Headers, PoolName, Refusal, RefusalKind};

use super::{BodyMode, PrefillObserver, Tells, prefill};
use crate::access_log::Line;
use crate::metrics::labels::{self, ModelName, Trace};
use crate::metrics::{Active, Phase};
use crate::recent::{Outcome, Remembered};
use crate::trace::{self, ExchangeSpan};

/// Kthena's word for a request without an error.
const SUCCESS: &str = "successful_request";

/// The state of one exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    tells: Arc<Tells>,
    time: SystemTime,
    started: Instant,
    /// Where the current phase began.
    mark: Instant,
    /// The data plane's trace context, until the span is started.
    parent: Option<Context>,
    span: Option<ExchangeSpan>,
    pool: Option<PoolName>,
    request_id: Arc<str>,
    path: &'static str,
    mode: BodyMode,
    body_hidden: bool,
    /// Method and path, only for the access log.
    line: Option<(String, String)>,
    model: Option<Arc<str>>,
    label: Option<ModelName>,
    outcome: Option<Outcome>,
    duplicate: bool,
    /// Prefill runs apart from decode.
    disaggregated: bool,
    active: Option<Active>,
    remembered: Option<Arc<Remembered>>,
    answered: Option<Instant>,
    responded: Option<Instant>,
    status: Option<u16>,
    served: Option<SocketAddr>,
    failed: Option<(&'static str, String)>,
}

impl Exchange {
    pub(super) fn new(tells: &Arc<Tells>, metadata: &tonic::metadata::MetadataMap) -> Self {
        let now = Instant::now();
        Self {
            tells: Arc::clone(tells),
            time: SystemTime::now(),
            started: now,
            mark: now,
            parent: tells.tracing.as_ref().and_then(|tracing| tracing.from_metadata(metadata)),
            span: None,
            pool: None,
            request_id: Arc::from(""),
            path: "other",
            mode: BodyMode::None,
            body_hidden: false,
            line: None,
            model: None,
            label: None,
            outcome: None,
            duplicate: false,
            disaggregated: false,
            active: None,
            remembered: None,
            answered: None,
            responded: None,
            status: None,
            served: None,
            failed: None,
        }
    }

    pub(super) fn request(&mut self, pool: &PoolName, id: &str, headers: &dyn Headers, mode: BodyMode) {
        let path = headers.get(":path").unwrap_or_default();
        self.path = labels::path(path);
        self.request_id = id.into();
        self.mode = mode;
        self.pool = Some(pool.clone());
        if self.tells.access_log.is_some() {
            self.line = Some((headers.get(":method").unwrap_or_default().to_owned(), path.to_owned()));
        }
        self.begin_span(Some(headers));
        if let Some(span) = self.span.as_ref().filter(|span| span.is_recording()) {
            span.set([
                KeyValue::new("kthena.pool.namespace", Arc::clone(&pool.namespace)),
                KeyValue::new("kthena.pool.name", Arc::clone(&pool.name)),
                KeyValue::new("kthena.body_mode", mode.name()),
                KeyValue::new("http.request.header.x-request-id", trace::strings(std::iter::once(id.to_owned()))),
            ]);
            if let Some(operation) = operation(self.path) {
                span.set([KeyValue::new("gen_ai.operation.name", operation)]);
            }
        }
        self.mark = Instant::now();
    }

    /// Starts the span if there is none yet: with the request's headers where they are known, and
    /// without for an exchange that ends before.
    fn begin_span(&mut self, headers: Option<&dyn Headers>) {
        if self.span.is_none()
            && let Some(tracing) = &self.tells.tracing
        {
            self.span = tracing.start(self.parent.take(), headers);
        }
    }

    fn exemplar(&self) -> Option<Trace> {
        self.span.as_ref()?.trace_id().map(Trace)
    }

    /// Ends a phase; the next begins.
    fn phase(&mut self, phase: Phase) -> Duration {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.mark);
        self.tells.metrics.phase(phase, took, self.exemplar());
        self.mark = now;
        took
    }

    pub(super) fn body_hidden(&mut self) {
        self.tells.metrics.body_hidden();
        self.body_hidden = true;
        if let Some(span) = &self.span {
            span.set([KeyValue::new("kthena.body_hidden", true)]);
        }
    }

    pub(super) fn body_read_before(&self) {
        self.tells.metrics.body_read_before();
    }

    pub(super) fn body_read(&mut self, bytes: usize) {
        self.phase(Phase::ReadBody);
        if let Some(span) = &self.span {
            span.set([KeyValue::new("http.request.body.size", i64::try_from(bytes).unwrap_or(i64::MAX))]);
        }
    }

    pub(super) fn body_parsed(&mut self, body: &Body<'_>) {
        self.set_model(&body.model);
        if let Some(span) = &self.span {
            span.set([KeyValue::new("gen_ai.request.stream", body.stream)]);
            if let Some(max) = body.max_tokens {
                span.set([KeyValue::new("gen_ai.request.max_tokens", i64::try_from(max).unwrap_or(i64::MAX))]);
            }
        }
    }

    fn set_model(&mut self, model: &str) {
        if self.model.is_some() {
            return;
        }
        let model: Arc<str> = model.into();
        if let Some(span) = self.span.as_ref().filter(|span| span.is_recording()) {
            span.set([KeyValue::new("gen_ai.request.model", Arc::clone(&model))]);
        }
        self.model = Some(model);
    }

    pub(super) fn decided(&mut self, outcome: Result<&Arc<Decision>, &Refusal>, duplicate: bool) {
        self.begin_span(None);
        self.duplicate = duplicate;
        let took = self.phase(Phase::Decide);
        let started = SystemTime::now().checked_sub(took).unwrap_or(self.time);
        match outcome {
            Ok(decision) => self.picked(decision, started),
            Err(refusal) => self.refuse(refusal, started),
        }
        if duplicate {
            self.tells.metrics.duplicate();
            if let Some(span) = &self.span {
                span.set([KeyValue::new("kthena.duplicate", true)]);
            }
        }
    }

    fn picked(&mut self, decision: &Arc<Decision>, started: SystemTime) {
        let report = &decision.report;
        if let Some(model) = &report.model {
            self.set_model(model);
        }
        let label = self.tells.metrics.model(&report.pool, self.model.as_deref());
        if let Some(endpoint) = decision.endpoint().filter(|_| !self.duplicate) {
            self.tells.metrics.picked(&report.pool, endpoint.address);
            let matched = decision.rows().next().map_or(0, |row| row.candidate.matched_blocks);
            self.tells.metrics.prefix_matched(&label, matched, report.blocks);
            self.active = Some(self.tells.metrics.active(&label));
        }
        self.label = Some(label);
        if let Some(span) = self.span.as_ref().filter(|span| span.is_recording()) {
            if let Some(route) = &report.route {
                span.set([KeyValue::new("kthena.route.name", Arc::clone(route))]);
            }
            if let Some(server) = &report.model_server {
                span.set([KeyValue::new("kthena.model_server.name", Arc::clone(server))]);
            }
            span.decision(decision, started);
        }
        self.outcome = Some(Outcome::Decided(Arc::clone(decision)));
    }

    fn refuse(&mut self, refusal: &Refusal, started: SystemTime) {
        if let Some(model) = refusal.report.as_ref().and_then(|report| report.model.as_deref()) {
            self.set_model(model);
        }
        if let RefusalKind::UnknownModel(model) = &refusal.kind {
            self.set_model(model);
        }
        self.tells.metrics.refused(&refusal.kind);
        if let Some(span) = &self.span {
            span.refusal(&refusal.kind, refusal.report.as_deref(), started);
        }
        self.outcome = Some(Outcome::Refused { refusal: Arc::new(refusal.clone()), status: 0 });
    }

    pub(super) fn refused(&mut self, sent: u16) {
        self.begin_span(None);
        self.status = Some(sent);
        if let Some(Outcome::Refused { status, .. }) = &mut self.outcome {
            *status = sent;
        }
        if let Some(span) = &self.span {
            span.set([KeyValue::new("http.response.status_code", i64::from(sent))]);
        }
        self.answer();
    }

    pub(super) fn answered(&mut self) {
        self.answer();
    }

    /// The first answer ends the last phase, and from now on the exchange is remembered.
    fn answer(&mut self) {
        if self.answered.is_some() {
            return;
        }
        self.phase(Phase::Answer);
        self.answered = Some(self.mark);
        let Some(outcome) = self.outcome.clone().filter(|_| !self.duplicate) else { return };
        let remembered = Arc::new(Remembered {
            request_id: Arc::clone(&self.request_id),
            time: self.time,
            pool: self.pool.clone(),
            model: self.model.clone(),
            trace_id: self.span.as_ref().and_then(ExchangeSpan::trace_id),
            outcome,
            took: self.mark.saturating_duration_since(self.started),
            body_mode: self.mode,
            body_hidden: self.body_hidden,
            served: OnceLock::new(),
        });
        self.tells.recent.push(Arc::clone(&remembered));
        self.remembered = Some(remembered);
    }

    pub(super) fn response(&mut self, status: Option<u16>, served: Option<SocketAddr>) {
        self.responded = Some(Instant::now());
        self.status = status.or(self.status);
        if let Some(span) = &self.span {
            if let Some(status) = status {
                span.set([KeyValue::new("http.response.status_code", i64::from(status))]);
            }
            if let Some(served) = served {
                span.set([
                    KeyValue::new("kthena.served.endpoint", served.to_string()),
                    KeyValue::new("server.address", served.ip().to_string()),
                    KeyValue::new("server.port", i64::from(served.port())),
                ]);
            }
        }
        if let Some(served) = served {
            self.served = Some(served);
            if let Some(remembered) = &self.remembered {
                // A second response of the same exchange does not rewrite who served.
                let _ = remembered.served.set(served);
            }
        }
    }

    pub(super) fn prefill(&mut self) -> PrefillObserver {
        let Some(model) = self.label.clone() else { return PrefillObserver::default() };
        self.disaggregated = true;
        prefill::Tells {
            metrics: Arc::clone(&self.tells.metrics),
            model,
            path: self.path,
            exemplar: self.exemplar(),
            parent: self.span.as_ref().map(ExchangeSpan::prefill_parent),
        }
        .into()
    }

    pub(super) fn prefill_fell_back(&mut self, reason: &'static str) {
        self.disaggregated = false;
        self.tells.metrics.prefill().fell_back(reason);
        if let Some(span) = &self.span {
            span.set([KeyValue::new("kthena.prefill.fallback", reason)]);
        }
    }

    pub(super) fn prefill_orphaned(&mut self) {
        self.tells.metrics.prefill().orphaned();
        if let Some(span) = &self.span {
            span.set([KeyValue::new("kthena.prefill.orphaned", true)]);
        }
    }

    pub(super) fn held(&mut self) {
        self.tells.metrics.held();
        if let Some(span) = &self.span {
            span.set([KeyValue::new("kthena.load_held", true)]);
        }
    }

    pub(super) fn failed(&mut self, error: &tonic::Status) {
        self.begin_span(None);
        let code = code_name(error.code());
        if let Some(span) = &self.span {
            span.set([KeyValue::new("rpc.status_code", code)]);
            span.fail(code, error.message().to_owned());
        }
        self.failed = Some(("ext_proc", error.message().to_owned()));
    }

    pub(super) fn traceparent(&self) -> Option<String> {
        self.span.as_ref()?.traceparent()
    }

    pub(super) fn span(&self) -> tracing::Span {
        self.span.as_ref().map_or_else(tracing::Span::none, |span| span.span().clone())
    }

    /// Kthena's error type of the exchange, and a message.
    fn error(&self) -> Option<(&'static str, String)> {
        match &self.outcome {
            Some(Outcome::Refused { refusal, .. }) => Some((error_type(&refusal.kind), refusal.kind.to_string())),
            _ => self.failed.clone(),
        }
    }

    /// The endpoint that served, as far as the decision knows it; else the one picked.
    fn endpoint(&self) -> Option<(SocketAddr, Option<&Arc<Endpoint>>)> {
        let Some(Outcome::Decided(decision)) = &self.outcome else { return None };
        let Some(served) = self.served else {
            return decision.endpoint().map(|endpoint| (endpoint.address, Some(endpoint)));
        };
        let mut known = decision.report.endpoints.iter();
        Some((served, known.find(|endpoint| endpoint.address == served)))
    }

    fn line(&mut self, error: Option<(&'static str, String)>, ended: Instant) -> Line {
        let (method, path) = self.line.take().unwrap_or_default();
        let answered = self.answered.unwrap_or(ended);
        let responded = self.responded.unwrap_or(ended);
        let endpoint = self.endpoint();
        let report = self.outcome.as_ref().and_then(Outcome::report);
        Line {
            time: self.time,
            method,
            path,
            status: self.status,
            error,
            model: self.model.clone(),
            model_route: report.and_then(|report| report.route.clone()),
            model_server: report.and_then(|report| report.model_server.clone()),
            selected_pod: endpoint.and_then(|(_, endpoint)| endpoint.map(|endpoint| Arc::clone(&endpoint.name))),
            endpoint: endpoint.map(|(address, _)| address),
            request_id: Arc::clone(&self.request_id),
            pool: self.pool.as_ref().map(ToString::to_string).unwrap_or_default(),
            tokens: None,
            request: answered.saturating_duration_since(self.started),
            upstream: responded.saturating_duration_since(answered),
            response: ended.saturating_duration_since(responded),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let ended = Instant::now();
        let error = self.error();
        // A stream that ended before it said anything was no request.
        if self.pool.is_none() && self.outcome.is_none() && error.is_none() && self.status.is_none() {
            return;
        }
        if self.failed.is_none()
            && let Some(span) = &self.span
        {
            span.set([KeyValue::new("rpc.status_code", "OK")]);
        }
        if !self.duplicate {
            let label = self.label.take().unwrap_or_else(|| match &self.pool {
                Some(pool) => self.tells.metrics.model(pool, self.model.as_deref()),
                None => self.tells.metrics.model(&PoolName::new("", ""), None),
            });
            let kind = error.as_ref().map_or(SUCCESS, |(kind, _)| kind);
            let took = ended.saturating_duration_since(self.started);
            if let Some(answered) = self.answered.filter(|_| self.disaggregated) {
                let took = ended.saturating_duration_since(answered);
                self.tells.metrics.prefill().decoded(&label, self.path, self.status, took, self.exemplar());
            }
            self.tells.metrics.ended(&label, self.path, self.status, kind, took, self.exemplar());
            if let Some(access_log) = self.tells.access_log.clone() {
                access_log.write(self.line(error, ended));
            }
        }
    }
}

/// `gen_ai.operation.name` of a path.
fn operation(path: &str) -> Option<&'static str> {
    match path {
        "/v1/chat/completions" | "/v1/responses" | "/v1/messages" => Some("chat"),
        "/v1/completions" | "/generate" => Some("text_completion"),
        "/v1/embeddings" => Some("embeddings"),
        _ => None,
    }
}

/// Kthena's error type of a refusal.
fn error_type(kind: &RefusalKind) -> &'static str {
    match kind {
        RefusalKind::BadJson(_)
        | RefusalKind::ModelMissing
        | RefusalKind::ModelNotString
        | RefusalKind::ModelTwice
        | RefusalKind::TooLarge { .. } => "request_parsing",
        RefusalKind::UnknownModel(_) => "model_server_matching",
        RefusalKind::NoneReady(_) | RefusalKind::NoPrefill(_) => "pod_discovery",
        RefusalKind::UnknownPool(_) => "inference_pool_discovery",
        _ => "scheduling",
    }
}

/// A gRPC status in the words of the semantic conventions.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
