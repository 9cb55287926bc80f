use super::Action::{Apply, Forget, Replay};
use super::Cause::{Gap, Join, Reconnect, Restart};
use super::*;

type Actions = Vec<Action<&'static [u8]>>;

const BATCHES: [&[u8]; 10] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"];

fn apply(number: usize) -> Action<&'static [u8]> {
    Apply(BATCHES[number])
}

/// What a story heard, in a word each.
struct Story(Sequence<&'static [u8]>);

impl Story {
    fn connected(&mut self) -> Actions {
        let mut actions = Vec::new();
        self.0.connected(&mut actions);
        actions
    }

    fn published(&mut self, numbers: impl IntoIterator<Item = usize>) -> Actions {
        let mut actions = Vec::new();
        numbers.into_iter().for_each(|number| self.0.published(number as u64, BATCHES[number], &mut actions));
        actions
    }

    fn replayed(&mut self, numbers: impl IntoIterator<Item = usize>) -> Actions {
        let mut actions = Vec::new();
        numbers.into_iter().for_each(|number| self.0.replayed(number as u64, BATCHES[number], &mut actions));
        actions
    }

    fn ended(&mut self) -> Actions {
        let mut actions = Vec::new();
        self.0.replay_ended(&mut actions);
        actions
    }

    fn failed(&mut self) -> Actions {
        let mut actions = Vec::new();
        self.0.replay_failed(&mut actions);
        actions
    }

    /// Joined an engine that had sent nothing, and heard the first so many batches.
    fn after(batches: usize) -> Self {
        let mut story = Self(Sequence::default());
        assert_eq!(story.connected(), [Replay(0, Join)]);
        assert_eq!(story.ended(), []);
        assert_eq!(story.published(0..batches), (0..batches).map(apply).collect::<Vec<_>>());
        story
    }
}

#[test]
fn a_late_joiner_hears_everything_from_the_start_once() {
    let mut story = Story(Sequence::default());
    assert_eq!(story.connected(), [Replay(0, Join)]);
    assert_eq!(story.published([3]), [], "it waits for what was before it");
    assert_eq!(story.replayed(0..4), [apply(0), apply(1), apply(2), apply(3)]);
    assert_eq!(story.published([4]), []);
    assert_eq!(story.ended(), [apply(4)]);
    assert_eq!(story.published([5]), [apply(5)]);
}

#[test]
fn a_late_joiner_believes_what_the_engine_still_remembers() {
    let mut story = Story(Sequence::default());
    story.connected();
    assert_eq!(story.replayed([6, 7]), [apply(6), apply(7)]);
    assert_eq!(story.ended(), []);
    assert_eq!(story.published([8]), [apply(8)]);
}

#[test]
fn a_late_joiner_without_replay_starts_with_what_comes() {
    let mut story = Story(Sequence::default());
    story.connected();
    assert_eq!(story.published([4, 5]), []);
    assert_eq!(story.failed(), [apply(4), apply(5)]);
    assert_eq!(story.published([6]), [apply(6)]);
}

#[test]
fn a_gap_is_filled_by_a_replay_from_the_first_that_is_missing() {
    let mut story = Story::after(2);
    assert_eq!(story.published([4, 5]), [Replay(2, Gap)]);
    assert_eq!(story.replayed(2..5), [apply(2), apply(3), apply(4)]);
    assert_eq!(story.ended(), [apply(5)]);
    assert_eq!(story.published([6]), [apply(6)]);
}

#[test]
fn a_gap_that_stays_open_costs_what_was_believed() {
    let mut story = Story::after(2);
    assert_eq!(story.published([4]), [Replay(2, Gap)]);
    assert_eq!(story.failed(), [Forget, apply(4)], "there is no replay");

    let mut story = Story::after(2);
    assert_eq!(story.published([6]), [Replay(2, Gap)]);
    assert_eq!(story.replayed([4, 5]), [Forget, apply(4), apply(5)], "the engine remembers only so much");
    assert_eq!(story.ended(), [apply(6)]);

    let mut story = Story::after(2);
    assert_eq!(story.published([6]), [Replay(2, Gap)]);
    assert_eq!(story.replayed([2, 3]), [apply(2), apply(3)]);
    assert_eq!(story.failed(), [Forget, apply(6)], "it broke off");
}

#[test]
fn batches_that_a_replay_brought_first_are_not_believed_twice() {
    let mut story = Story::after(2);
    story.published([4]);
    assert_eq!(story.replayed(2..7).len(), 5);
    assert_eq!(story.ended(), []);
    assert_eq!(story.published([5, 6, 7]), [apply(7)]);
}

#[test]
fn numbers_that_go_back_are_an_engine_that_restarted() {
    let mut story = Story::after(5);
    assert_eq!(story.published([1]), [Forget, Replay(0, Restart)]);
    assert_eq!(story.replayed([0, 1]), [apply(0), apply(1)]);
    assert_eq!(story.ended(), []);
    assert_eq!(story.published([2]), [apply(2)]);

    let mut story = Story::after(5);
    story.published([7]);
    assert_eq!(story.published([0]), [Forget, Replay(0, Restart)], "also during a replay");
    assert_eq!(story.replayed([0]), [apply(0)]);
    assert_eq!(story.ended(), [], "and what waited was the old engine's");
}

#[test]
fn after_a_new_connection_the_same_engine_goes_on() {
    let mut story = Story::after(3);
    assert_eq!(story.connected(), [Replay(2, Reconnect)]);
    assert_eq!(story.published([5]), []);
    assert_eq!(story.replayed(2..6), [apply(3), apply(4), apply(5)]);
    assert_eq!(story.ended(), []);
    assert_eq!(story.published([6]), [apply(6)]);
}

#[test]
fn after_a_new_connection_another_engine_is_known_by_its_batches() {
    let mut story = Story::after(3);
    assert_eq!(story.connected(), [Replay(2, Reconnect)]);
    assert_eq!(story.ended(), [Forget, Replay(0, Restart)], "it has not sent as many");
    assert_eq!(story.replayed([0]), [apply(0)]);
    assert_eq!(story.ended(), []);

    let mut story = Story::after(3);
    story.connected();
    let mut actions = Vec::new();
    story.0.replayed(2, b"another 2", &mut actions);
    assert_eq!(actions, [Forget, Replay(0, Restart)], "it has sent more, but others");

    let mut story = Story::after(3);
    story.connected();
    assert_eq!(story.replayed([7]), [Forget, Replay(0, Restart)], "it no longer remembers");
}

#[test]
fn after_a_new_connection_without_replay_nothing_is_believed() {
    let mut story = Story::after(3);
    story.connected();
    assert_eq!(story.published([3]), []);
    assert_eq!(story.failed(), [Forget, apply(3)]);
}

#[test]
fn a_replay_that_is_slower_than_the_engine_is_given_up() {
    let mut sequence = Sequence::<Vec<u8>>::default();
    let mut actions = Vec::new();
    sequence.published(0, vec![], &mut actions);
    (2..).take(WAITING).for_each(|number| sequence.published(number, vec![], &mut actions));
    assert_eq!(actions, [Apply(vec![]), Replay(1, Gap)]);
    sequence.published(2 + WAITING as u64, vec![], &mut actions);
    assert_eq!(actions.iter().filter(|action| matches!(action, Apply(_))).count(), WAITING + 2);
    assert_eq!(actions.iter().filter(|action| **action == Forget).count(), 1);

    let mut sequence = Sequence::<Vec<u8>>::default();
    sequence.published(0, vec![], &mut actions);
    actions.clear();
    sequence.published(2, vec![0; WAITING_BYTES], &mut actions);
    assert_eq!(actions, [Replay(1, Gap)]);
    sequence.published(3, vec![0], &mut actions);
    assert!(actions.contains(&Forget));
}

#[test]
fn what_nobody_asked_for_is_ignored() {
    let mut story = Story::after(1);
    assert_eq!((story.replayed([5]), story.ended(), story.failed()), (vec![], vec![], vec![]));
}
