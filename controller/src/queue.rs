//! Which ModelServings to look at, and when. One pass at a time for each; a burst of events is one pass.

mod schedule;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::observe::store::Key;
pub use schedule::Outcome;
use schedule::Schedule;

/// ModelServings that wait for a pass. Holds each at most once, so it is as bounded as they are.
#[derive(Debug, Default)]
pub struct Queue {
    schedule: Mutex<Schedule<Key>>,
    changed: Notify,
}

/// What is done with what is in a [`Queue`].
pub trait Passes: Send + Sync + 'static {
    /// One pass.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Outcome> + Send;
}

impl Queue {
    /// Something happened that a pass may have to answer.
    pub fn wake(&self, keys: impl IntoIterator<Item = Key>) {
        let mut earlier = false;
        {
            let (mut schedule, now) = (self.schedule.lock(), Instant::now());
            for key in keys {
                earlier |= schedule.wake(key, now);
            }
        }
        if earlier {
            self.changed.notify_one();
        }
    }

    /// The next one whose time has come. It is not handed out again before [`Queue::done`].
    pub async fn next(&self) -> Key {
        loop {
            let wait = {
                let mut schedule = self.schedule.lock();
                match schedule.take(Instant::now()) {
                    Ok(key) => {
                        // Another worker may find the next one.
                        self.changed.notify_one();
                        return key;
                    }
                    Err(wait) => wait,
                }
            };
            match wait {
                Some(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// A pass ended. `jitter` is 0..1: failures of many at once are not repeated all at once.
    pub fn done(&self, key: &Key, outcome: Outcome, jitter: f64) {
        self.schedule.lock().done(key, outcome, Instant::now(), jitter);
        self.changed.notify_one();
    }

    /// How many wait, and how many of these because a pass failed.
    pub fn depth(&self) -> (usize, usize) {
        self.schedule.lock().depth(Instant::now())
    }

    /// For how long the longest pass has been running.
    pub fn longest(&self) -> Duration {
        self.schedule.lock().longest(Instant::now())
    }

    /// Whether no pass runs.
    pub fn is_quiet(&self) -> bool {
        self.schedule.lock().is_quiet()
    }
}
