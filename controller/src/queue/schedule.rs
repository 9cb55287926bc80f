//! When each key is due. No clock: every time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// From an event to the pass that answers it, so that what happens together is seen together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// From the end of a pass that found nothing to do to the next one of the same key.
const PAUSE: Duration = Duration::from_millis(100);
/// The first wait after a failure.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait after a failure that may mend itself.
const BACKOFF_LIMIT: Duration = Duration::from_mins(1);
/// The first wait after a failure that a person must mend.
const SLOW_BACKOFF: Duration = Duration::from_secs(5);
/// The longest wait after a failure that a person must mend.
const SLOW_LIMIT: Duration = Duration::from_mins(1);
/// Passes in a row that wrote something and go on at once; more of them wait longer each time, for then what they
/// write does not show.
const AGAIN: u32 = 5;
/// The longest such wait.
const AGAIN_LIMIT: Duration = Duration::from_secs(10);
/// An event cuts the wait after a failure down to this: it may be what the key waits for.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is nothing to do until something happens.
    Settled,
    /// Something was written: look again at once.
    Again,
    /// Look again after this time.
    After(Duration),
    /// It failed, and may succeed soon.
    Failed,
    /// It failed, and will until somebody changes something.
    Refused,
    /// The key is gone.
    Gone,
}

#[derive(Debug)]
pub(super) struct Schedule<K> {
    due: BTreeSet<(Instant, u64)>,
    keys: HashMap<u64, K>,
    entries: HashMap<K, Entry>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    state: State,
    failures: u32,
    /// Passes in a row that wrote something.
    writing: u32,
    /// No pass before: the last one ended only just now.
    not_before: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Known, not due.
    Idle,
    Due(Instant),
    /// Since when, and whether something happened since.
    Running(Instant, bool),
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self { due: BTreeSet::new(), keys: HashMap::new(), entries: HashMap::new(), last: 0 }
    }
}

impl<K: Clone + Eq + Hash> Schedule<K> {
    /// Something happened. Returns whether the key is due earlier than before.
    pub(super) fn wake(&mut self, key: K, now: Instant) -> bool {
        let entry = match self.entries.get_mut(&key) {
            Some(entry) => entry,
            None => {
                self.last += 1;
                self.keys.insert(self.last, key.clone());
                let entry = Entry { number: self.last, state: State::Idle, failures: 0, writing: 0, not_before: None };
                self.entries.entry(key).or_insert(entry)
            }
        };
        let mut at = now + DEBOUNCE;
        if let Some(not_before) = entry.not_before {
            at = at.max(not_before);
        }
        match entry.state {
            State::Running(since, _) => {
                entry.state = State::Running(since, true);
                false
            }
            State::Due(due) if due <= at => false,
            State::Due(due) => {
                self.due.remove(&(due, entry.number));
                self.due.insert((at, entry.number));
                entry.state = State::Due(at);
                true
            }
            State::Idle => {
                self.due.insert((at, entry.number));
                entry.state = State::Due(at);
                true
            }
        }
    }

    /// The first key that is due; or when one will be.
    pub(super) fn take(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        let Some((at, number)) = self.due.first().copied() else { return Err(None) };
        if at > now {
            return Err(Some(at));
        }
        self.due.remove(&(at, number));
        let key = self.keys.get(&number).cloned().ok_or(None)?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = State::Running(now, false);
        }
        Ok(key)
    }

    /// A pass ended.
    pub(super) fn done(&mut self, key: &K, outcome: Outcome, now: Instant, jitter: f64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let State::Running(_, woken) = entry.state else { return };
        entry.failures = match outcome {
            Outcome::Failed | Outcome::Refused => entry.failures.saturating_add(1),
            Outcome::Settled | Outcome::Again | Outcome::After(_) | Outcome::Gone => 0,
        };
        entry.writing = if outcome == Outcome::Again { entry.writing.saturating_add(1) } else { 0 };
        let (failures, again) =
            (entry.failures, backoff(DEBOUNCE, AGAIN_LIMIT, entry.writing.saturating_sub(AGAIN), 1.0));
        let wait = match outcome {
            Outcome::Again => Some(again),
            Outcome::After(wait) => Some(wait.max(PAUSE)),
            Outcome::Failed => Some(backoff(BACKOFF, BACKOFF_LIMIT, failures, jitter)),
            Outcome::Refused => Some(backoff(SLOW_BACKOFF, SLOW_LIMIT, failures, jitter)),
            Outcome::Settled | Outcome::Gone => None,
        };
        let pause = match outcome {
            Outcome::Again => again,
            Outcome::Failed | Outcome::Refused => wait.unwrap_or_default().min(IMPATIENCE),
            Outcome::Settled | Outcome::After(_) | Outcome::Gone => PAUSE,
        };
        entry.not_before = Some(now + pause);
        let wait = if woken { Some(wait.unwrap_or(pause).min(pause)) } else { wait };
        match wait {
            Some(wait) => {
                let at = now + wait;
                entry.state = State::Due(at);
                self.due.insert((at, entry.number));
            }
            None if outcome == Outcome::Gone => {
                self.keys.remove(&entry.number);
                self.entries.remove(key);
            }
            None => entry.state = State::Idle,
        }
    }

    pub(super) fn depth(&self, now: Instant) -> (usize, usize) {
        let due = self.due.range(..=(now, u64::MAX)).count();
        let failing = self.entries.values().filter(|entry| entry.failures > 0).count();
        (due, failing)
    }

    pub(super) fn longest(&self, now: Instant) -> Duration {
        let running = self.entries.values().filter_map(|entry| match entry.state {
            State::Running(since, _) => Some(now.saturating_duration_since(since)),
            State::Idle | State::Due(_) => None,
        });
        running.max().unwrap_or_default()
    }

    pub(super) fn is_quiet(&self) -> bool {
        !self.entries.values().any(|entry| matches!(entry.state, State::Running(..)))
    }
}

/// Doubles with each failure; the last tenth is chance.
fn backoff(first: Duration, limit: Duration, failures: u32, jitter: f64) -> Duration {
    let whole = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(limit);
    whole.mul_f64(0.9 + 0.1 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The time at which the next key is due, counted from `start`.
    fn due(schedule: &mut Schedule<&'static str>, start: Instant) -> Option<Duration> {
        schedule.take(start - SECOND).unwrap_err().map(|at| at - start)
    }

    #[test]
    fn a_burst_is_one_pass() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        assert!(schedule.wake("a", start));
        assert!(!schedule.wake("a", start + DEBOUNCE / 2));
        assert_eq!(schedule.take(start), Err(Some(start + DEBOUNCE)));
        assert_eq!(schedule.take(start + DEBOUNCE), Ok("a"));
        assert_eq!(schedule.take(start + DEBOUNCE), Err(None));
    }

    #[test]
    fn what_happens_during_a_pass_is_answered_by_the_next_and_never_at_the_same_time() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.wake("a", start);
        schedule.take(start + DEBOUNCE).unwrap();
        assert!(!schedule.wake("a", start + SECOND));
        assert_eq!(schedule.take(start + SECOND), Err(None));
        schedule.done(&"a", Outcome::Settled, start + SECOND, 0.0);
        assert_eq!(due(&mut schedule, start), Some(SECOND + PAUSE));
    }

    #[test]
    fn a_settled_key_rests_until_something_happens() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.wake("a", start);
        schedule.take(start + DEBOUNCE).unwrap();
        schedule.done(&"a", Outcome::Settled, start + DEBOUNCE, 0.0);
        assert_eq!(due(&mut schedule, start), None);
        schedule.wake("a", start + SECOND);
        assert_eq!(due(&mut schedule, start), Some(SECOND + DEBOUNCE));
    }

    #[test]
    fn a_key_is_looked_at_when_its_time_comes_or_before_if_something_happens() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.wake("a", start);
        schedule.take(start + DEBOUNCE).unwrap();
        schedule.done(&"a", Outcome::After(60 * SECOND), start, 0.0);
        assert_eq!(due(&mut schedule, start), Some(60 * SECOND));
        assert!(schedule.wake("a", start + SECOND));
        assert_eq!(due(&mut schedule, start), Some(SECOND + DEBOUNCE));
    }

    #[test]
    fn failures_back_off_and_a_success_forgets_them() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.wake("a", start);
        let mut waits = Vec::new();
        let mut now = start + DEBOUNCE;
        for _ in 0..12 {
            schedule.take(now).unwrap();
            schedule.done(&"a", Outcome::Failed, now, 1.0);
            let next = schedule.take(start).unwrap_err().unwrap();
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert_eq!(schedule.depth(now), (1, 1));
        schedule.take(now).unwrap();
        schedule.done(&"a", Outcome::Again, now, 1.0);
        assert_eq!(schedule.depth(now + DEBOUNCE), (1, 0));
    }

    #[test]
    fn writes_that_do_not_show_are_repeated_ever_more_slowly() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.wake("a", start);
        let mut now = start + DEBOUNCE;
        let mut waits = Vec::new();
        for _ in 0..18 {
            schedule.take(now).unwrap();
            schedule.done(&"a", Outcome::Again, now, 0.0);
            let next = schedule.take(start).unwrap_err().unwrap();
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits[..7], [10, 10, 10, 10, 10, 10, 20]);
        assert_eq!(waits[14..], [5120, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn an_event_shortens_the_wait_after_a_failure_but_does_not_void_it() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.wake("a", start);
        schedule.take(start + DEBOUNCE).unwrap();
        schedule.done(&"a", Outcome::Refused, start, 1.0);
        assert_eq!(due(&mut schedule, start), Some(5 * SECOND));
        schedule.wake("a", start);
        assert_eq!(due(&mut schedule, start), Some(SECOND));
    }

    #[test]
    fn a_key_that_is_gone_is_forgotten_unless_it_came_back_meanwhile() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        for woken in [false, true] {
            schedule.wake("a", start);
            schedule.take(start + SECOND).unwrap();
            if woken {
                schedule.wake("a", start + SECOND);
            }
            schedule.done(&"a", Outcome::Gone, start + SECOND, 0.0);
            assert_eq!(schedule.entries.len(), usize::from(woken));
        }
    }

    #[test]
    fn a_pass_that_hangs_shows() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        assert!(schedule.is_quiet());
        schedule.wake("a", start);
        schedule.take(start + DEBOUNCE).unwrap();
        assert!(!schedule.is_quiet());
        assert_eq!(schedule.longest(start + DEBOUNCE + SECOND), SECOND);
    }
}
