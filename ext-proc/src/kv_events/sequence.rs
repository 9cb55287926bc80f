//! In which order batches are believed: a pure machine for one rank of one engine.
//!
//! An engine numbers its batches from 0 and publishes each once; it can be asked to repeat the last few
//! thousand. There is no snapshot on subscribing, connections break, queues overflow, engines restart:
//!
//! * whoever joins asks for everything from 0;
//! * a gap is asked for, and what arrives meanwhile waits (up to a bound);
//! * after a new connection the last batch is asked for again: where it differs or is gone, the engine
//!   has restarted, or has forgotten where we were;
//! * where a hole remains, everything believed is forgotten and belief starts anew behind it: a block
//!   stored there may be missed, but none is believed that has left.

use std::collections::VecDeque;

/// Batches that wait for a replay.
const WAITING: usize = 4096;

/// Their bytes together.
const WAITING_BYTES: usize = 8 << 20;

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<B> {
    /// Believe this batch.
    Apply(B),
    /// Forget everything that this rank is believed to hold.
    Forget,
    /// Ask for all batches from this number on, and hear nothing more of what was asked before:
    /// [`Sequence::replayed`] for each, then [`Sequence::replay_ended`] or [`Sequence::replay_failed`].
    Replay(u64, Cause),
}

/// Why batches are asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing is known yet.
    Join,
    /// Numbers are missing.
    Gap,
    /// The connection is a new one.
    Reconnect,
    /// The engine is a new one.
    Restart,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Join, Self::Gap, Self::Reconnect, Self::Restart];

    /// As metrics call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Gap => "gap",
            Self::Reconnect => "reconnect",
            Self::Restart => "restart",
        }
    }
}

/// A batch as it came: the machine looks at it only to tell it from another of the same number.
pub trait Raw: AsRef<[u8]> + PartialEq + Clone {}

impl<T: AsRef<[u8]> + PartialEq + Clone> Raw for T {}

/// Where one rank of one engine stands.
#[derive(Debug)]
pub struct Sequence<B> {
    /// The number of the next batch to believe; `None`: whichever comes.
    next: Option<u64>,
    /// The last batch that was believed.
    last: Option<B>,
    /// The last number that this connection published.
    published: Option<u64>,
    replay: Option<Replay>,
    waiting: VecDeque<(u64, B)>,
    waiting_bytes: usize,
}

/// A replay under way.
#[derive(Debug, Default)]
struct Replay {
    /// The first batch must be the last that was believed.
    must_match: bool,
}

impl<B> Default for Sequence<B> {
    fn default() -> Self {
        Self { next: None, last: None, published: None, replay: None, waiting: VecDeque::new(), waiting_bytes: 0 }
    }
}

impl<B: Raw> Sequence<B> {
    /// The number of the next batch to believe, where one was seen.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// A subscription stands: from now on nothing is missed.
    pub fn connected(&mut self, actions: &mut Vec<Action<B>>) {
        self.published = None;
        self.clear_waiting();
        match (self.next, &self.last) {
            (Some(next @ 1..), Some(_)) => {
                self.replay = Some(Replay { must_match: true });
                actions.push(Action::Replay(next - 1, Cause::Reconnect));
            }
            _ => self.start_over(Cause::Join, actions),
        }
    }

    /// The engine published a batch.
    pub fn published(&mut self, number: u64, batch: B, actions: &mut Vec<Action<B>>) {
        let before = self.published.replace(number);
        if before.is_some_and(|before| number <= before) {
            // On one connection numbers only grow: another process speaks now.
            actions.push(Action::Forget);
            self.clear_waiting();
            self.start_over(Cause::Restart, actions);
        }
        if self.replay.is_some() {
            self.wait(number, batch, actions);
            return;
        }
        match self.next {
            Some(next) if number > next => {
                self.replay = Some(Replay::default());
                actions.push(Action::Replay(next, Cause::Gap));
                self.wait(number, batch, actions);
            }
            // A replay was ahead of the subscription.
            Some(next) if number < next => {}
            _ => self.believe(number, batch, actions),
        }
    }

    /// A batch of the replay.
    pub fn replayed(&mut self, number: u64, batch: B, actions: &mut Vec<Action<B>>) {
        let Some(replay) = &mut self.replay else { return };
        if std::mem::take(&mut replay.must_match) {
            let same = self.next == number.checked_add(1) && self.last.as_ref() == Some(&batch);
            if !same {
                self.another_engine(actions);
            }
            return;
        }
        self.fit(number, batch, actions);
    }

    /// The replay is complete.
    pub fn replay_ended(&mut self, actions: &mut Vec<Action<B>>) {
        match self.replay.take() {
            Some(Replay { must_match: true }) => self.another_engine(actions),
            Some(Replay { must_match: false }) => self.resume(actions),
            None => {}
        }
    }

    /// There is no replay, or it broke off.
    pub fn replay_failed(&mut self, actions: &mut Vec<Action<B>>) {
        match self.replay.take() {
            Some(Replay { must_match: true }) => {
                // Whether this is still the engine that was believed is unknown.
                actions.push(Action::Forget);
                (self.next, self.last) = (None, None);
            }
            Some(Replay { must_match: false }) => {}
            None => return,
        }
        // Whatever was to be repeated and was not is a hole, if anything was believed before it.
        if self.last.is_none() {
            self.next = None;
        }
        self.resume(actions);
    }

    fn start_over(&mut self, cause: Cause, actions: &mut Vec<Action<B>>) {
        (self.next, self.last) = (Some(0), None);
        self.replay = Some(Replay::default());
        actions.push(Action::Replay(0, cause));
    }

    /// What was believed was another process's, or its memory does not reach back to where we were.
    fn another_engine(&mut self, actions: &mut Vec<Action<B>>) {
        actions.push(Action::Forget);
        self.start_over(Cause::Restart, actions);
    }

    fn wait(&mut self, number: u64, batch: B, actions: &mut Vec<Action<B>>) {
        self.waiting_bytes += batch.as_ref().len();
        self.waiting.push_back((number, batch));
        if self.waiting.len() > WAITING || self.waiting_bytes > WAITING_BYTES {
            // The replay is slower than the engine: go on without it.
            self.replay_failed(actions);
        }
    }

    /// Goes on with what came during the replay.
    fn resume(&mut self, actions: &mut Vec<Action<B>>) {
        self.waiting_bytes = 0;
        for (number, batch) in std::mem::take(&mut self.waiting) {
            self.fit(number, batch, actions);
        }
    }

    /// A batch that is believed if it was not before; whatever is missing before it stays missing.
    fn fit(&mut self, number: u64, batch: B, actions: &mut Vec<Action<B>>) {
        match self.next {
            Some(next) if number < next => return,
            Some(next) if number > next && self.last.is_some() => actions.push(Action::Forget),
            _ => {}
        }
        self.believe(number, batch, actions);
    }

    fn believe(&mut self, number: u64, batch: B, actions: &mut Vec<Action<B>>) {
        self.next = number.checked_add(1);
        self.last = Some(batch.clone());
        actions.push(Action::Apply(batch));
    }

    fn clear_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.replay = None;
    }
}

#[cfg(test)]
mod tests;
