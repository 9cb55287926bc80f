//! Every mode and oddity of the protocol, by literal messages.

mod delayed;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use scheduling::RefusalKind;

use super::*;

const CAP: usize = 200_000;
/// How long a slow decision asks Envoy to wait.
const WAIT: Duration = Duration::from_secs(3);

/// An exchange, driven as the service drives it: every pick is answered at once, unless it is slow.
struct Driven {
    exchange: Exchange,
    slow: bool,
    new_body: Option<Vec<u8>>,
}

/// What came out, flattened so that a test can state it.
#[derive(Debug, PartialEq, Eq)]
enum Out {
    Override,
    MoreTime(Duration),
    Pick(Seen, usize),
    /// The headers pass.
    Headers,
    /// The headers carry the answer, with this new content-length.
    Answered(Option<usize>),
    /// A body message passes, or carries a new body or none.
    Body(BodyChange),
    /// The same, with the answer.
    BodyAnswer(BodyChange, Option<usize>),
    /// A chunk sent back: its length, and whether it ends the body.
    Chunk(usize, bool),
    Trailers,
    TrailersAnswer,
    ResponseHeaders,
    ResponseBody,
    ResponseChunk(Bytes, bool),
    ResponseTrailers,
    Refusal(u16),
    End,
    Fail(ProtocolError),
}
use Out::*;

fn modes(request: BodySend, response: BodySend) -> Modes {
    Modes { request, response, body_without_waiting: false }
}

fn rules() -> Rules {
    Rules {
        fallback: modes(BodySend::FullDuplex, BodySend::FullDuplex),
        mode_override: false,
        max_body_size: CAP,
        deadline: Duration::from_secs(30),
    }
}

fn driven(rules: Rules) -> Driven {
    Driven { exchange: Exchange::new(rules), slow: false, new_body: None }
}

impl Driven {
    fn on(&mut self, input: Input) -> Vec<Out> {
        let mut steps = VecDeque::new();
        self.exchange.on(input, &mut steps);
        self.carry_out(steps)
    }

    fn decide(&mut self, steps: &mut VecDeque<Step>) {
        let (destination, body) = (Some("10.0.0.1:8000".into()), self.new_body.clone());
        self.exchange.answer(Answer { destination, body, ..Answer::default() }, steps);
    }

    fn carry_out(&mut self, mut steps: VecDeque<Step>) -> Vec<Out> {
        let mut out = Vec::new();
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Pick(seen) => {
                    out.push(Pick(seen, self.exchange.body().len()));
                    if self.slow {
                        self.exchange.more_time(WAIT, &mut steps);
                    } else {
                        self.decide(&mut steps);
                    }
                }
                Step::Refuse(kind) => {
                    let refused = crate::to_proto::refused(&kind);
                    self.exchange.refuse(Message::Refusal(refused), &mut steps);
                }
                Step::Send(message) => sent(message, &mut out),
                Step::End => out.push(End),
                Step::Fail(error) => out.push(Fail(error)),
            }
        }
        out
    }

    fn headers(&mut self, end: bool, modes: Option<Modes>) -> Vec<Out> {
        self.on(Input::RequestHeaders { end, content_length: None, modes })
    }

    fn body(&mut self, bytes: &[u8], end: bool) -> Vec<Out> {
        self.on(Input::RequestBody { bytes: bytes.to_vec().into(), end })
    }

    fn response_body(&mut self, bytes: &[u8], end: bool) -> Vec<Out> {
        self.on(Input::ResponseBody { bytes: bytes.to_vec().into(), end })
    }
}

fn sent(message: Message, out: &mut Vec<Out>) {
    match message {
        Message::ModeOverride { .. } => out.push(Override),
        Message::MoreTime(time) => out.push(MoreTime(time)),
        Message::RequestHeaders(None) => out.push(Headers),
        Message::RequestHeaders(Some(answer)) => out.push(Answered(answer.content_length)),
        Message::RequestBody { answer: None, change } => out.push(Body(change)),
        Message::RequestBody { answer: Some(answer), change } => out.push(BodyAnswer(change, answer.content_length)),
        Message::RequestChunks(chunks) => out.extend(chunks.map(|(bytes, end)| Chunk(bytes.len(), end))),
        Message::RequestTrailers(None) => out.push(Trailers),
        Message::RequestTrailers(Some(_)) => out.push(TrailersAnswer),
        Message::ResponseHeaders => out.push(ResponseHeaders),
        Message::ResponseBody => out.push(ResponseBody),
        Message::ResponseChunks(chunks) => out.extend(chunks.map(|(bytes, end)| ResponseChunk(bytes, end))),
        Message::ResponseTrailers => out.push(ResponseTrailers),
        Message::Refusal(refused) => out.push(Refusal(refused.status)),
    }
}

fn full_duplex() -> Driven {
    let mut it = driven(rules());
    assert_eq!(it.headers(false, Some(modes(BodySend::FullDuplex, BodySend::FullDuplex))), []);
    it
}

fn streamed(new_body: Option<Vec<u8>>) -> Driven {
    let mut it = driven(rules());
    it.new_body = new_body;
    let modes = Modes { body_without_waiting: true, ..modes(BodySend::Streamed, BodySend::None) };
    assert_eq!(it.on(Input::RequestHeaders { end: false, content_length: Some(6), modes: Some(modes) }), []);
    it
}

#[test]
fn a_request_without_a_body_is_answered_at_its_headers_in_every_mode() {
    for request in
        [BodySend::None, BodySend::Streamed, BodySend::Buffered, BodySend::BufferedPartial, BodySend::FullDuplex]
    {
        let mut it = driven(rules());
        assert_eq!(it.headers(true, Some(modes(request, BodySend::None))), [Pick(Seen::Absent, 0), Answered(None)]);
    }
}

#[test]
fn a_hidden_body_is_picked_for_at_the_headers() {
    let mut it = driven(rules());
    let out = it.headers(false, Some(modes(BodySend::None, BodySend::None)));
    assert_eq!(out, [Pick(Seen::Hidden, 0), Answered(None)]);
}

#[test]
fn a_hidden_body_is_asked_for_where_that_is_allowed() {
    let mut it = driven(Rules { mode_override: true, ..rules() });
    assert_eq!(it.headers(false, Some(modes(BodySend::None, BodySend::None))), [Override]);
    assert_eq!(it.body(b"abc", false), []);
    assert_eq!(it.body(b"", true), [Pick(Seen::Whole, 3), Answered(None), Chunk(3, true)]);
    assert!(!it.exchange.may_end_early());
}

#[test]
fn a_buffered_body_carries_the_answer() {
    let mut it = driven(rules());
    assert_eq!(it.headers(false, Some(modes(BodySend::Buffered, BodySend::None))), [Headers]);
    assert_eq!(it.body(b"abc", true), [Pick(Seen::Whole, 3), BodyAnswer(BodyChange::Keep, None)]);
}

#[test]
fn a_changed_buffered_body_gets_its_content_length() {
    let mut it = driven(rules());
    it.new_body = Some(b"longer".to_vec());
    let config = Some(modes(BodySend::Buffered, BodySend::None));
    it.on(Input::RequestHeaders { end: false, content_length: Some(3), modes: config });
    let replaced = BodyChange::Replace(b"longer".to_vec());
    assert_eq!(it.body(b"abc", true), [Pick(Seen::Whole, 3), BodyAnswer(replaced, Some(6))]);
}

#[test]
fn a_buffered_body_with_trailers_is_answered_once_and_the_trailers_pass() {
    let mut it = driven(rules());
    it.headers(false, Some(modes(BodySend::Buffered, BodySend::None)));
    assert_eq!(it.body(b"abc", false), [Pick(Seen::Whole, 3), BodyAnswer(BodyChange::Keep, None)]);
    assert_eq!(it.on(Input::RequestTrailers), [Trailers]);
}

#[test]
fn a_buffered_request_of_trailers_alone_is_answered_with_them() {
    let mut it = driven(rules());
    it.headers(false, Some(modes(BodySend::Buffered, BodySend::None)));
    assert_eq!(it.on(Input::RequestTrailers), [Pick(Seen::Absent, 0), TrailersAnswer]);
}

#[test]
fn a_partly_buffered_body_is_seen_as_a_beginning_unless_it_ended() {
    for (end, seen) in [(false, Seen::Beginning), (true, Seen::Whole)] {
        let mut it = driven(rules());
        it.headers(false, Some(modes(BodySend::BufferedPartial, BodySend::None)));
        assert_eq!(it.body(b"abc", end), [Pick(seen, 3), BodyAnswer(BodyChange::Keep, None)]);
    }
}

#[test]
fn a_streamed_body_delays_the_header_answer_and_answers_each_chunk() {
    let mut it = streamed(None);
    assert_eq!(it.body(b"abc", false), []);
    assert_eq!(it.body(b"def", false), []);
    let chunk = || Body(BodyChange::Keep);
    assert_eq!(it.body(b"", true), [Pick(Seen::Whole, 6), Answered(None), chunk(), chunk(), chunk()]);
}

#[test]
fn a_changed_streamed_body_goes_with_the_first_chunk_and_the_others_vanish() {
    let mut it = streamed(Some(b"rewritten".to_vec()));
    it.body(b"abc", false);
    let first = Body(BodyChange::Replace(b"rewritten".to_vec()));
    assert_eq!(it.body(b"def", true), [Pick(Seen::Whole, 6), Answered(Some(9)), first, Body(BodyChange::Clear)]);
}

#[test]
fn a_streamed_body_that_waits_for_the_header_answer_is_hidden() {
    let mut it = driven(rules());
    let out = it.headers(false, Some(modes(BodySend::Streamed, BodySend::None)));
    assert_eq!(out, [Pick(Seen::Hidden, 0), Answered(None)]);
    assert_eq!(it.body(b"abc", false), [Body(BodyChange::Keep)]);
    assert_eq!(it.body(b"", true), [Body(BodyChange::Keep)]);
}

#[test]
fn a_full_duplex_body_is_answered_at_its_end_and_sent_back() {
    let mut it = full_duplex();
    assert_eq!(it.body(b"abc", false), []);
    assert_eq!(it.body(b"", true), [Pick(Seen::Whole, 3), Answered(None), Chunk(3, true)]);
}

#[test]
fn full_duplex_chunks_stay_within_the_limit_and_only_the_last_ends() {
    for (length, expected) in [
        (1, vec![Chunk(1, true)]),
        (CHUNK_LIMIT, vec![Chunk(CHUNK_LIMIT, true)]),
        (CHUNK_LIMIT + 1, vec![Chunk(CHUNK_LIMIT, false), Chunk(1, true)]),
        (2 * CHUNK_LIMIT, vec![Chunk(CHUNK_LIMIT, false), Chunk(CHUNK_LIMIT, true)]),
    ] {
        let mut it = full_duplex();
        let out = it.body(&vec![b'x'; length], true);
        assert_eq!(out[2..], expected[..], "{length} bytes");
    }
}

#[test]
fn full_duplex_trailers_end_the_request_and_no_chunk_does() {
    let mut it = full_duplex();
    it.body(b"abc", false);
    assert_eq!(it.on(Input::RequestTrailers), [Pick(Seen::Whole, 3), Answered(None), Chunk(3, false), Trailers]);
}

#[test]
fn an_empty_full_duplex_body_is_one_empty_chunk() {
    assert_eq!(full_duplex().body(b"", true), [Pick(Seen::Absent, 0), Answered(None), Chunk(0, true)]);
}

#[test]
fn a_second_end_of_stream_is_ignored() {
    let mut it = full_duplex();
    it.body(b"abc", true);
    assert_eq!(it.body(b"", true), []);
}

#[test]
fn a_changed_full_duplex_body_fixes_the_content_length_if_there_is_one() {
    for (content_length, expected) in [(Some(3), Some(6)), (None, None)] {
        let mut it = driven(rules());
        it.new_body = Some(b"longer".to_vec());
        let config = Some(modes(BodySend::FullDuplex, BodySend::None));
        it.on(Input::RequestHeaders { end: false, content_length, modes: config });
        assert_eq!(it.body(b"abc", true), [Pick(Seen::Whole, 3), Answered(expected), Chunk(6, true)]);
    }
}

#[test]
fn without_protocol_config_the_fallback_holds() {
    let mut it = driven(rules());
    assert_eq!(it.headers(false, None), []);
    assert_eq!(it.body(b"abc", true), [Pick(Seen::Whole, 3), Answered(None), Chunk(3, true)]);

    let mut it = driven(Rules { fallback: modes(BodySend::Buffered, BodySend::Buffered), ..rules() });
    assert_eq!(it.headers(false, None), [Headers]);
}

#[test]
fn a_full_duplex_response_is_echoed_at_once() {
    let mut it = full_duplex();
    it.body(b"abc", true);
    assert_eq!(it.on(Input::ResponseHeaders { end: false, modes: None }), [ResponseHeaders]);
    assert_eq!(it.response_body(b"one", false), [ResponseChunk("one".into(), false)]);
    assert_eq!(it.response_body(b"", false), [ResponseChunk(Bytes::new(), false)]);
    assert_eq!(it.response_body(b"two", true), [ResponseChunk("two".into(), true)]);
}

#[test]
fn other_responses_get_empty_answers() {
    for response in [BodySend::Streamed, BodySend::Buffered, BodySend::None] {
        let mut it = driven(rules());
        it.headers(true, Some(modes(BodySend::Buffered, response)));
        assert_eq!(it.on(Input::ResponseHeaders { end: false, modes: None }), [ResponseHeaders]);
        assert_eq!(it.response_body(b"one", false), [ResponseBody]);
        assert_eq!(it.on(Input::ResponseTrailers), [ResponseTrailers]);
    }
}

#[test]
fn a_response_before_the_end_of_the_request_passes() {
    let mut it = full_duplex();
    it.body(b"abc", false);
    assert_eq!(it.on(Input::ResponseHeaders { end: false, modes: None }), [ResponseHeaders]);
    assert_eq!(it.body(b"", true), [Pick(Seen::Whole, 3), Answered(None), Chunk(3, true)]);
}

#[test]
fn a_half_close_without_protocol_config_ends_the_request_and_then_the_stream() {
    let mut it = driven(rules());
    it.headers(false, None);
    it.body(b"abc", false);
    assert_eq!(it.on(Input::HalfClose), [Pick(Seen::Whole, 3), Answered(None), Chunk(3, true), End]);
    assert!(it.exchange.may_end_early());
}

#[test]
fn a_half_close_after_the_answer_ends_the_stream() {
    let mut it = driven(rules());
    it.headers(false, None);
    it.body(b"abc", true);
    assert_eq!(it.on(Input::HalfClose), [End]);
}

#[test]
fn a_half_close_of_envoy_within_the_body_is_a_client_that_left() {
    let mut it = full_duplex();
    it.body(b"abc", false);
    assert_eq!(it.on(Input::HalfClose), [End]);
    assert_eq!(driven(rules()).on(Input::HalfClose), [End]);
}

#[test]
fn a_content_length_over_the_cap_is_refused_at_once_and_the_rest_is_drained() {
    let mut it = driven(rules());
    let config = Some(modes(BodySend::FullDuplex, BodySend::None));
    let content_length = Some(CAP as u64 + 1);
    assert_eq!(it.on(Input::RequestHeaders { end: false, content_length, modes: config }), [Refusal(413)]);
    assert_eq!(it.body(&vec![0; CAP], false), []);
    assert!(it.exchange.body().is_empty());
    assert_eq!(it.body(b"", true), [End]);
}

#[test]
fn a_body_over_the_cap_is_refused_at_the_chunk_that_exceeds_it() {
    let mut it = full_duplex();
    assert_eq!(it.body(&vec![0; CAP], false), []);
    assert_eq!(it.body(b"x", false), [Refusal(413)]);
    assert!(it.exchange.body().is_empty());
    assert_eq!(it.body(b"more", false), []);
    assert_eq!(it.on(Input::HalfClose), [End]);
}

#[test]
fn a_body_of_exactly_the_cap_is_accepted() {
    let out = full_duplex().body(&vec![0; CAP], true);
    assert_eq!(out[..2], [Pick(Seen::Whole, CAP), Answered(None)]);
}

#[test]
fn the_deadline_refuses_and_ends_a_request_whose_body_never_ends() {
    let mut it = full_duplex();
    it.body(b"abc", false);
    assert_eq!(it.on(Input::Deadline), [Refusal(504), End]);
}

#[test]
fn the_deadline_ends_a_stream_that_says_nothing_and_one_that_is_drained() {
    assert_eq!(driven(rules()).on(Input::Deadline), [End]);
    let mut it = full_duplex();
    assert_eq!(it.body(&vec![0; CAP + 1], false), [Refusal(413)]);
    assert_eq!(it.on(Input::Deadline), [End]);
}

#[test]
fn the_deadline_does_not_touch_an_answered_exchange() {
    let mut it = full_duplex();
    it.body(b"abc", true);
    assert_eq!(it.on(Input::Deadline), []);
}

#[test]
fn a_refused_decision_ends_the_stream() {
    let mut steps = VecDeque::new();
    let mut exchange = Exchange::new(rules());
    exchange.on(Input::RequestHeaders { end: true, content_length: None, modes: None }, &mut steps);
    assert!(matches!(steps.pop_front(), Some(Step::Pick(Seen::Absent))));
    let refused = crate::to_proto::refused(&RefusalKind::NoneReady("a/b".into()));
    exchange.refuse(Message::Refusal(refused), &mut steps);
    assert!(matches!(steps.pop_front(), Some(Step::Send(Message::Refusal(Refused { status: 503, .. })))));
    assert!(matches!(steps.pop_front(), Some(Step::End)));
}

#[test]
fn anything_before_the_request_headers_fails() {
    for (input, what) in [
        (Input::RequestBody { bytes: Bytes::new(), end: true }, "a request body"),
        (Input::RequestTrailers, "request trailers"),
        (Input::ResponseBody { bytes: Bytes::new(), end: true }, "a response body"),
        (Input::ResponseTrailers, "response trailers"),
    ] {
        assert_eq!(driven(rules()).on(input), [Fail(ProtocolError::BeforeHeaders(what))]);
    }
}

#[test]
fn the_response_of_a_filter_that_answered_before_us_passes() {
    let mut it = driven(rules());
    let modes = modes(BodySend::Buffered, BodySend::FullDuplex);
    assert_eq!(it.on(Input::ResponseHeaders { end: false, modes: Some(modes) }), [ResponseHeaders]);
    assert_eq!(it.response_body(b"no", true), [ResponseChunk(Bytes::from_static(b"no"), true)]);
    assert!(!it.exchange.is_pending());
    assert_eq!(it.headers(true, None), [Fail(ProtocolError::Twice("request headers"))]);
}

#[test]
fn what_exists_once_fails_when_it_comes_twice() {
    let mut it = full_duplex();
    assert_eq!(it.headers(false, None), [Fail(ProtocolError::Twice("request headers"))]);

    let mut it = full_duplex();
    it.on(Input::RequestTrailers);
    assert_eq!(it.on(Input::RequestTrailers), [Fail(ProtocolError::Twice("request trailers"))]);

    let mut it = full_duplex();
    it.on(Input::ResponseHeaders { end: false, modes: None });
    let twice = it.on(Input::ResponseHeaders { end: false, modes: None });
    assert_eq!(twice, [Fail(ProtocolError::Twice("response headers"))]);
}

#[test]
fn data_after_the_end_fails() {
    let mut it = full_duplex();
    it.body(b"abc", true);
    assert_eq!(it.body(b"more", false), [Fail(ProtocolError::AfterEnd("a request body"))]);

    let mut it = full_duplex();
    it.body(b"abc", true);
    assert_eq!(it.on(Input::RequestTrailers), [Fail(ProtocolError::AfterEnd("request trailers"))]);

    let mut it = driven(rules());
    it.headers(true, None);
    assert_eq!(it.body(b"abc", true), [Fail(ProtocolError::AfterEnd("a request body"))]);

    let mut it = full_duplex();
    it.body(b"abc", true);
    it.response_body(b"all", true);
    assert_eq!(it.response_body(b"more", true), [Fail(ProtocolError::AfterEnd("a response body"))]);
}

#[test]
fn the_modes_that_end_early_are_those_that_were_measured() {
    let early = |request, response| {
        let mut it = driven(rules());
        it.headers(true, Some(modes(request, response)));
        it.exchange.may_end_early()
    };
    assert!(early(BodySend::None, BodySend::None));
    assert!(early(BodySend::FullDuplex, BodySend::None));
    assert!(!early(BodySend::FullDuplex, BodySend::FullDuplex));
    assert!(!early(BodySend::Buffered, BodySend::None));
    assert!(!early(BodySend::Streamed, BodySend::None));
}

#[test]
fn a_response_seen_to_its_end_is_never_early() {
    let mut it = driven(rules());
    it.headers(true, Some(modes(BodySend::None, BodySend::None)));
    it.on(Input::ResponseHeaders { end: false, modes: None });
    assert!(it.exchange.may_end_early());
    it.on(Input::ResponseTrailers);
    assert!(!it.exchange.may_end_early());
}
