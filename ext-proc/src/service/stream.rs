//! One exchange on its stream. A [`Stream`] over the inbound messages: no task, no channel.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingResponse;
use envoy_types::pb::google::protobuf::value::Kind;
use futures_util::Stream;
use http::uri::Authority;
use rand::Rng;
use scheduling::{Content, Headers, PoolName, Refusal, RefusalKind, Request};
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::Shared;
use super::answer::answer;
use super::inbound::{self, Arrival, Inbound};
use super::kept::{Answered, RequestHead};
use super::prefill::{self, Asked, Plan};
use super::prepared::{Preparation, Prepared, Preparing, preparing};
use super::wire::ProcessingRequest;
use crate::exchange::{Exchange, Input, Message, Rules, Seen, Step};
use crate::from_proto::{self, Heard, WireHeaders};
use crate::observer::ExchangeObserver;
use crate::openai;
use crate::prefill::{Job, Outcome, Running, Split};
use crate::tokens::InTokens;
use crate::{pools, read_once, splice, to_proto};

/// A stream that ends so soon after our last message was ended by that message: where Envoy ends
/// early, it does so as soon as it was answered. One that lives longer lives with the HTTP request.
const EARLY: Duration = Duration::from_millis(100);

/// What a stream says about itself before its first message.
pub(super) struct Hints {
    pub(super) bound: Option<PoolName>,
    pub(super) metadata: Option<String>,
    pub(super) authority: Option<Authority>,
    pub(super) lives_as_request: bool,
}

/// The answers of one exchange.
pub struct ProcessStream {
    shared: Arc<Shared>,
    inbound: Inbound,
    hints: Hints,
    observer: ExchangeObserver,
    exchange: Exchange,
    steps: VecDeque<Step>,
    request: Option<RequestHead>,
    /// A decision that waits for the prompt's tokens.
    tokenizing: Option<(Seen, Preparing)>,
    /// A decision whose answer waits for its prefill.
    waiting: Option<Waiting>,
    /// A prefill that runs beside the request that was answered.
    alongside: Option<Running>,
    served: Option<Answered>,
    finished: bool,
}

/// A decision whose prefill is being made. Dropping it cancels the prefill.
struct Waiting {
    answered: Answered,
    split: Split,
    prefill: Running,
}

impl std::fmt::Debug for ProcessStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProcessStream").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

impl ProcessStream {
    pub(super) fn new(
        shared: Arc<Shared>,
        inbound: Streaming<ProcessingRequest>,
        rules: Rules,
        hints: Hints,
        observer: ExchangeObserver,
    ) -> Self {
        Self {
            shared,
            inbound: Inbound::new(inbound, rules.deadline),
            hints,
            observer,
            exchange: Exchange::new(rules),
            steps: VecDeque::new(),
            request: None,
            tokenizing: None,
            waiting: None,
            alongside: None,
            served: None,
            finished: false,
        }
    }

    fn on(&mut self, mut message: ProcessingRequest) {
        if message.observability_mode {
            // Envoy ignores what we say, and forbids us to say it.
            self.steps.push_back(Step::End);
            return;
        }
        match from_proto::heard(&mut message) {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Input { input, headers }) => {
                match (&input, headers) {
                    (Input::RequestHeaders { .. }, Some(headers)) if self.request.is_none() => {
                        self.request_headers(headers, &message);
                        self.exchange.on(input, &mut self.steps);
                        if let Some(RequestHead { pool: Ok(pool), id, headers, .. }) = &self.request {
                            self.observer.request(pool, id, headers, self.exchange.body_mode());
                        }
                        return;
                    }
                    (Input::ResponseHeaders { .. }, Some(headers)) if self.request.is_some() => {
                        self.response_headers(&headers, message.metadata_context.as_ref());
                    }
                    _ => {}
                }
                self.exchange.on(input, &mut self.steps);
                if !self.exchange.is_deciding() {
                    (self.tokenizing, self.waiting) = (None, None);
                }
            }
            Err(error) => self.steps.push_back(Step::Fail(error)),
        }
    }

    fn request_headers(&mut self, headers: WireHeaders, message: &ProcessingRequest) {
        let attribute = |name: &str| {
            message.attributes.values().find_map(|filter| match &filter.fields.get(name)?.kind {
                Some(Kind::StringValue(text)) => Some(text.as_str()),
                _ => None,
            })
        };
        let hints = pools::Hints {
            bound: self.hints.bound.as_ref(),
            metadata: self.hints.metadata.as_deref(),
            attributes: [attribute("xds.cluster_name"), attribute("xds.route_name")],
            authority: self.hints.authority.as_ref(),
        };
        let pool = pools::find(&self.shared.fleet.snapshot(), hints);
        let given = headers.get("x-request-id").filter(|id| !id.is_empty()).map(str::to_owned);
        let named = given.is_some();
        let id = given.unwrap_or_else(|| format!("{:032x}", rand::rng().random::<u128>()));
        let subset = from_proto::subset(message.metadata_context.as_ref());
        let token = headers.get(read_once::TOKEN);
        let read_before = token.and_then(|token| self.shared.read_before.take(token));
        self.request = Some(RequestHead { headers, id, named, pool, subset, read_before });
    }

    fn response_headers(&mut self, headers: &WireHeaders, metadata: Option<&Metadata>) {
        let (status, served) = (headers.status(), from_proto::served(metadata));
        self.observer.response(status, served);
        let Some(answered) = &mut self.served else { return };
        answered.responded = true;
        answered.whole_response = headers.get("content-length").is_some();
        if let Some(address) = served {
            answered.picked.lock().served_by(&self.shared.fleet.snapshot(), address);
        }
        let ok = status.is_none_or(|status| (200..300).contains(&status));
        let address = served.or_else(|| answered.decision.endpoint().map(|endpoint| endpoint.address));
        if let (Some(address), false) = (address, answered.learned) {
            // Decode fails too when it cannot fetch blocks: then it is not known who is to blame.
            if let Some(status) = status.filter(|status| *status < 500 || !answered.prefilled) {
                self.shared.fleet.outcome(&answered.decision.report.pool, address, status < 500);
            }
            if ok {
                self.shared.fleet.learn(&answered.decision, address);
            }
        }
        // What failed taught nothing, and must not be learned at the end of the stream either.
        answered.learned = true;
        if let (Some(key), true) = (answered.key, status.is_some_and(|status| status >= 500)) {
            self.shared.duplicates.forget(key);
        }
    }

    /// Picks, once the prompt's tokens are there if the profile wants them.
    fn prepare(&mut self, seen: Seen) {
        let Some(head) = &mut self.request else { return self.pick(seen, None) };
        let body = self.exchange.body();
        let read = head.read_before.take().filter(|read| seen == Seen::Whole && head.is_json() && read.fits(&body));
        if read.is_some() {
            self.observer.body_read_before();
        }
        match preparing(&self.shared, head, seen, body, read) {
            Preparation::Under(preparing) => self.tokenizing = Some((seen, preparing)),
            Preparation::Done(prepared) => self.pick(seen, prepared.as_deref()),
        }
    }

    fn pick(&mut self, seen: Seen, prepared: Option<&Prepared>) {
        match self.decide(seen, prepared) {
            Ok((answered, Plan::Alone(body))) => self.answer(answered, body, None),
            Ok((answered, Plan::Sidecar { body, prefiller })) => self.answer(answered, body, Some(prefiller)),
            Ok((answered, Plan::First { job, split })) => {
                self.exchange.more_time(prefill::patience(job.timeout), &mut self.steps);
                self.waiting = Some(Waiting { answered, split, prefill: self.running(*job) });
            }
            Ok((answered, Plan::Together { job, body })) => {
                self.alongside = Some(self.running(*job));
                self.answer(answered, body, None);
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// The prefill, so that what is logged about it belongs to the exchange's trace.
    fn running(&self, job: Job) -> Running {
        Box::pin(job.run().instrument(self.observer.span()))
    }

    fn answer(&mut self, mut answered: Answered, body: Option<Vec<u8>>, prefiller: Option<String>) {
        let Some(head) = &self.request else { return };
        if let (Some(_), Some(body), Ok(pool)) = (answered.key, &body, &head.pool) {
            // A later filter sees the new body.
            let key = self.shared.duplicates.key(pool, &head.id, head.path(), body);
            self.shared.duplicates.also(key, answered.at, &answered.picked);
            answered.changed_key = Some(key);
        }
        let (settings, decision) = (&self.shared.settings, &answered.decision);
        let answer = answer(settings, decision, &head.headers, &self.observer, body, prefiller);
        answered.at = Instant::now();
        answered.last_sent = answered.at;
        self.served = Some(answered);
        self.exchange.answer(answer, &mut self.steps);
        self.observer.answered();
    }

    /// The prefill that the answer waited for is over.
    fn prefilled(&mut self, mut answered: Answered, split: &Split, outcome: Outcome) {
        let transfer = match outcome {
            Outcome::Done { endpoint: _, transfer } => {
                answered.prefilled = true;
                transfer
            }
            Outcome::Failed { endpoint, error } => {
                self.observer.prefill_fell_back(error.code());
                let endpoint = endpoint.map(|endpoint| endpoint.address.to_string()).unwrap_or_default();
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(parent: &self.observer.span(), endpoint, %error, cause, "Prefill failed.");
                let decision = &answered.decision;
                let server = decision.report.model_server.as_deref().unwrap_or_default();
                // What an engine refuses is refused by decode too, in words that are meant for the client.
                let of_the_request = error.status().is_some() && error.is_elsewhere_no_better();
                if !of_the_request && self.shared.fleet.profile().refuses_without_prefill() {
                    self.refuse(&RefusalKind::NoPrefill(server.to_owned()).into());
                    return;
                }
                answered.picked.lock().decode_alone();
                Vec::new()
            }
        };
        self.answer(answered, split.decode(&transfer), None);
    }

    /// The decision, and what is done about prefill.
    fn decide(&mut self, seen: Seen, prepared: Option<&Prepared>) -> Result<(Answered, Plan), Refusal> {
        let Some(head) = &self.request else {
            return Err(RefusalKind::UnknownPool("the stream has no request headers".to_owned()).into());
        };
        let pool = head.pool.as_ref().map_err(|kind| Refusal::from(kind.clone()))?;
        let body = &self.exchange.body();
        if matches!(seen, Seen::Whole | Seen::Beginning) {
            self.observer.body_read(body.len());
        }
        let hidden = seen == Seen::Hidden || !head.is_json();
        let read = || prepared.map_or_else(|| openai::parse(body), |prepared| Ok(prepared.read.attach(body)));
        let (content, model) = match seen {
            Seen::Absent => (Content::Absent, None),
            _ if hidden => {
                self.observer.body_hidden();
                (Content::Hidden, None)
            }
            Seen::Hidden | Seen::Whole | Seen::Beginning => match read() {
                Ok(parsed) => {
                    self.observer.body_parsed(&parsed.body);
                    (Content::Parsed(parsed.body), Some(parsed.model))
                }
                // Cut off by Envoy's buffer limit: not the client's fault.
                Err(RefusalKind::BadJson(_)) if seen == Seen::Beginning => {
                    self.observer.body_hidden();
                    (Content::Hidden, None)
                }
                Err(kind) => return Err(kind.into()),
            },
        };
        let path = head.path();
        let tokens = prepared.and_then(|prepared| prepared.tokens.as_ref()).map(InTokens::view);
        let resolution = prepared.and_then(|prepared| prepared.resolution.as_ref());
        let request = Request { tokens, resolution, ..head.request(content) };

        let shared = &self.shared;
        let key = head.named.then(|| shared.duplicates.key(pool, &head.id, path, body));
        let now = Instant::now();
        let (picked, duplicate) = match key {
            Some(key) => shared.duplicates.once(key, now, || shared.fleet.pick(pool, &request))?,
            None => (Arc::new(parking_lot::Mutex::new(shared.fleet.pick(pool, &request)?)), false),
        };
        let decision = Arc::clone(&picked.lock().decision);
        self.observer.decided(Ok(&decision), duplicate);
        if decision.disaggregation.is_some() {
            let left = self.inbound.deadline.saturating_duration_since(now);
            let passed_on = duplicate && key.is_some_and(|key| shared.duplicates.passed_on(key));
            let asked =
                Asked { id: &head.id, path, headers: &head.headers, seen, body, left, picked: &picked, passed_on };
            let plan = prefill::plan(shared, &decision, &asked, &mut self.observer);
            return Ok((Answered::new(picked, decision, key, now), plan));
        }
        let new_body = match (&decision.rewrite_model, model, request.model()) {
            (Some(new), Some(range), Some(old)) if **new != *old => splice::replace(body, range, new),
            _ => None,
        };
        Ok((Answered::new(picked, decision, key, now), Plan::Alone(new_body)))
    }

    fn refuse(&mut self, refusal: &Refusal) {
        (self.tokenizing, self.waiting) = (None, None);
        self.observer.decided(Err(refusal), false);
        let refused = to_proto::refused(&refusal.kind);
        let status = refused.status;
        self.exchange.refuse(Message::Refusal(refused), &mut self.steps);
        self.observer.refused(status);
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some((seen, tokens)) = &mut self.tokenizing
            && let Poll::Ready(prepared) = tokens.as_mut().poll(context)
        {
            let seen = *seen;
            self.tokenizing = None;
            self.pick(seen, Some(&prepared));
            return Poll::Ready(());
        }
        if let Some(waiting) = &mut self.waiting
            && let Poll::Ready(outcome) = waiting.prefill.as_mut().poll(context)
            && let Some(Waiting { answered, split, prefill: _ }) = self.waiting.take()
        {
            self.prefilled(answered, &split, outcome);
            return Poll::Ready(());
        }
        if let Some(prefill) = &mut self.alongside
            && let Poll::Ready(outcome) = prefill.as_mut().poll(context)
        {
            self.alongside = None;
            if let (Outcome::Done { .. }, Some(answered)) = (outcome, &mut self.served) {
                answered.prefilled = true;
            }
        }
        match ready!(self.inbound.poll(&self.exchange, context)) {
            Arrival::Message(message) => self.on(message),
            Arrival::Input(input) => self.exchange.on(input, &mut self.steps),
            Arrival::Broken(status) => {
                let cap = self.shared.settings.max_body_size;
                self.steps.push_back(inbound::broken(&status, &self.exchange, cap));
            }
        }
        Poll::Ready(())
    }

    /// Gives the load back, or to the holder; once, whatever ended the stream.
    fn finish(&mut self) {
        self.finished = true;
        self.steps.clear();
        (self.tokenizing, self.waiting) = (None, None);
        let alongside = self.alongside.take();
        let Some(answered) = self.served.take() else { return };
        let Answered {
            picked,
            decision,
            key,
            changed_key,
            at,
            last_sent,
            learned,
            prefilled,
            responded,
            whole_response,
        } = answered;
        if !learned && let Some(endpoint) = decision.endpoint() {
            self.shared.fleet.learn(&decision, endpoint.address);
        }
        let may_be_early = self.exchange.may_end_early() && !self.hints.lives_as_request && !whole_response;
        if may_be_early && last_sent.elapsed() < EARLY {
            if let Some(prefill) = alongside {
                // Decode waits for it.
                self.shared.alongside.finish(prefill);
            }
            self.shared.holder.hold(picked, at, self.shared.fleet.now());
            self.observer.held();
            return;
        }
        if prefilled && !responded {
            self.observer.prefill_orphaned();
        }
        self.shared.holder.observe(&decision.report.pool, at.elapsed());
        drop(picked);
        if responded || self.hints.lives_as_request {
            for key in [key, changed_key].into_iter().flatten() {
                self.shared.duplicates.ended(key);
            }
        }
    }
}

impl Stream for ProcessStream {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.finished {
                return Poll::Ready(None);
            }
            match this.steps.pop_front() {
                None => ready!(this.poll_message(context)),
                Some(Step::Pick(seen)) => this.prepare(seen),
                Some(Step::Refuse(kind)) => this.refuse(&kind.into()),
                Some(Step::Send(message)) => {
                    let (response, rest) = to_proto::response(message);
                    if let Some(rest) = rest {
                        this.steps.push_front(Step::Send(rest));
                    }
                    if let Some(answered) = &mut this.served {
                        answered.last_sent = Instant::now();
                    }
                    return Poll::Ready(Some(Ok(response)));
                }
                Some(Step::End) => this.finish(),
                Some(Step::Fail(error)) => {
                    let status = Status::from(error);
                    this.observer.failed(&status);
                    this.finish();
                    return Poll::Ready(Some(Err(status)));
                }
            }
        }
    }
}

impl Drop for ProcessStream {
    fn drop(&mut self) {
        if !self.finished {
            self.finish();
        }
    }
}
