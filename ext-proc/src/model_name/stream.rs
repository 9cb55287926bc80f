//! One request before its route, on its stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingResponse;
use futures_util::Stream;
use scheduling::RefusalKind;
use tonic::{Status, Streaming};

use super::{BASE_MODEL, MODEL, Shared};
use crate::exchange::{Exchange, Input, Message, Seen, Step};
use crate::from_proto::{self, Heard, WireHeaders};
use crate::service::inbound::{self, Arrival, Inbound};
use crate::service::wire::ProcessingRequest;
use crate::{openai, to_proto};

/// The answers of one exchange.
pub struct NameStream {
    shared: Arc<Shared>,
    inbound: Inbound,
    exchange: Exchange,
    steps: VecDeque<Step>,
    /// Whether the body is worth reading.
    json: bool,
    /// The headers of ours that the client sent.
    given: Vec<&'static str>,
    finished: bool,
}

impl std::fmt::Debug for NameStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NameStream").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

impl NameStream {
    pub(super) fn new(shared: Arc<Shared>, inbound: Streaming<ProcessingRequest>) -> Self {
        let rules = shared.rules;
        Self {
            shared,
            inbound: Inbound::new(inbound, rules.deadline),
            exchange: Exchange::new(rules),
            steps: VecDeque::new(),
            json: false,
            given: Vec::new(),
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
                if let (Input::RequestHeaders { .. }, Some(headers)) = (&input, headers) {
                    self.request_headers(&headers);
                }
                self.exchange.on(input, &mut self.steps);
            }
            Err(error) => self.steps.push_back(Step::Fail(error)),
        }
    }

    fn request_headers(&mut self, headers: &WireHeaders) {
        self.json = openai::is_json(headers.all("content-type"));
        let ours = |name: &&'static str| headers.names().any(|given| given.eq_ignore_ascii_case(name));
        self.given = [MODEL, BASE_MODEL].into_iter().filter(ours).collect();
    }

    fn name(&mut self, seen: Seen) {
        let body = self.exchange.body();
        let read = match seen {
            Seen::Whole | Seen::Beginning if self.json => openai::parse(&body).ok(),
            Seen::Whole | Seen::Beginning | Seen::Absent | Seen::Hidden => None,
        };
        let given = std::mem::take(&mut self.given);
        let answer = match read {
            Some(read) => self.shared.answer_to(read, &body, given),
            None => self.shared.answer(None, given),
        };
        self.shared.metrics.answered(!answer.set.is_empty());
        self.exchange.answer(answer, &mut self.steps);
    }

    fn refuse(&mut self, kind: &RefusalKind) {
        self.shared.metrics.refused();
        self.exchange.refuse(Message::Refusal(to_proto::refused(kind)), &mut self.steps);
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match ready!(self.inbound.poll(&self.exchange, context)) {
            Arrival::Message(message) => self.on(message),
            Arrival::Input(input) => self.exchange.on(input, &mut self.steps),
            Arrival::Broken(status) => {
                let cap = self.shared.rules.max_body_size;
                self.steps.push_back(inbound::broken(&status, &self.exchange, cap));
            }
        }
        Poll::Ready(())
    }
}

impl Stream for NameStream {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.finished {
                return Poll::Ready(None);
            }
            match this.steps.pop_front() {
                None => ready!(this.poll_message(context)),
                Some(Step::Pick(seen)) => this.name(seen),
                Some(Step::Refuse(kind)) => this.refuse(&kind),
                Some(Step::Send(message)) => {
                    let (response, rest) = to_proto::response(message);
                    if let Some(rest) = rest {
                        this.steps.push_front(Step::Send(rest));
                    }
                    return Poll::Ready(Some(Ok(response)));
                }
                Some(Step::End) => this.finished = true,
                Some(Step::Fail(error)) => {
                    this.finished = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }
}
