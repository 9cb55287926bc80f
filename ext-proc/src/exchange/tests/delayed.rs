//! Decisions that take a while, because a prefill is part of them.

use super::*;

/// An exchange of this mode whose decision is slow.
fn slow(request: BodySend) -> Driven {
    let mut it = driven(rules());
    it.slow = true;
    it.headers(false, Some(Modes { body_without_waiting: true, ..modes(request, BodySend::None) }));
    it
}

/// The decision is made at last.
fn decided(it: &mut Driven) -> Vec<Out> {
    let mut steps = VecDeque::new();
    it.decide(&mut steps);
    it.carry_out(steps)
}

#[test]
fn envoy_is_asked_for_time_where_it_has_a_timer() {
    let whole = Pick(Seen::Whole, 3);
    assert_eq!(slow(BodySend::Buffered).body(b"abc", true), [whole, MoreTime(WAIT)]);
    let mut it = slow(BodySend::Streamed);
    it.body(b"ab", false);
    assert_eq!(it.body(b"c", true), [Pick(Seen::Whole, 3), MoreTime(WAIT)]);
    assert_eq!(decided(&mut it), [Answered(None), Body(BodyChange::Keep), Body(BodyChange::Keep)]);
}

#[test]
fn nobody_is_asked_for_time_who_has_no_timer_or_does_not_know_the_message() {
    assert_eq!(slow(BodySend::FullDuplex).body(b"abc", true), [Pick(Seen::Whole, 3)]);
    let mut without_config = driven(rules());
    without_config.slow = true;
    without_config.headers(false, None);
    assert_eq!(without_config.body(b"abc", true), [Pick(Seen::Whole, 3)]);
    let mut overridden = driven(Rules { mode_override: true, ..rules() });
    overridden.slow = true;
    overridden.headers(false, Some(modes(BodySend::None, BodySend::None)));
    assert_eq!(overridden.body(b"abc", true), [Pick(Seen::Whole, 3)]);
}

#[test]
fn a_repeated_end_of_stream_is_not_a_second_request() {
    let mut it = slow(BodySend::FullDuplex);
    it.body(b"abc", true);
    assert_eq!(it.body(b"", true), []);
    assert_eq!(it.body(b"d", true), [Fail(ProtocolError::AfterEnd("a request body"))]);
    assert_eq!(decided(&mut it), [Answered(None), Chunk(3, true)]);
    let mut it = slow(BodySend::Streamed);
    it.body(b"abc", true);
    assert_eq!(it.body(b"", true), []);
    assert_eq!(decided(&mut it), [Answered(None), Body(BodyChange::Keep), Body(BodyChange::Keep)]);
}

#[test]
fn trailers_behind_a_buffered_body_wait_for_its_answer() {
    let mut it = slow(BodySend::Buffered);
    assert_eq!(it.body(b"abc", false), [Pick(Seen::Whole, 3), MoreTime(WAIT)]);
    assert_eq!(it.on(Input::RequestTrailers), []);
    assert_eq!(it.on(Input::RequestTrailers), [Fail(ProtocolError::Twice("request trailers"))]);
    assert_eq!(decided(&mut it), [BodyAnswer(BodyChange::Keep, None), Trailers]);
}

#[test]
fn a_client_that_leaves_meanwhile_ends_the_stream_and_one_that_only_has_said_all_does_not() {
    let mut it = slow(BodySend::FullDuplex);
    it.body(b"abc", true);
    assert_eq!(it.on(Input::HalfClose), [End]);
    let mut without_config = driven(rules());
    without_config.slow = true;
    without_config.headers(false, None);
    without_config.body(b"abc", false);
    assert_eq!(without_config.on(Input::HalfClose), [Pick(Seen::Whole, 3)]);
    assert_eq!(decided(&mut without_config), [Answered(None), Chunk(3, true), End]);
}

#[test]
fn a_response_of_envoys_own_leaves_nothing_to_decide() {
    let mut it = slow(BodySend::Buffered);
    it.body(b"abc", true);
    assert!(it.exchange.is_deciding());
    assert_eq!(it.on(Input::ResponseHeaders { end: true, modes: None }), [ResponseHeaders]);
    assert!(!it.exchange.is_deciding() && !it.exchange.is_pending());
}

#[test]
fn the_deadline_refuses_a_decision_that_takes_too_long() {
    let mut it = slow(BodySend::Buffered);
    it.body(b"abc", true);
    assert_eq!(it.on(Input::Deadline), [Refusal(504), End]);
    assert!(!it.exchange.is_deciding());
}
