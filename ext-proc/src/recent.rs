//! The memory of recent exchanges: bounded in number and in bytes, newest last.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::TraceId;
use parking_lot::Mutex;
use scheduling::{Decision, PoolName, Refusal, Report};

use crate::observer::BodyMode;

/// How many exchanges are remembered unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 512;
/// How many bytes the memory may take, estimated, unless told otherwise.
pub const DEFAULT_BYTES: usize = 8 << 20;

/// One answered exchange.
#[derive(Debug)]
pub struct Remembered {
    /// The request's id.
    pub request_id: Arc<str>,
    /// When the exchange began.
    pub time: SystemTime,
    /// The pool it was about; `None` when none was found.
    pub pool: Option<PoolName>,
    /// The client's model name, where known.
    pub model: Option<Arc<str>>,
    /// The trace it belongs to, when it is sampled.
    pub trace_id: Option<TraceId>,
    /// What was decided.
    pub outcome: Outcome,
    /// From the first message to the answer.
    pub took: Duration,
    /// How the body reached us.
    pub body_mode: BodyMode,
    /// The body was not looked at: not shown by the data plane, or no JSON.
    pub body_hidden: bool,
    /// Who served it; set when the data plane tells.
    pub served: OnceLock<SocketAddr>,
}

/// A decision or a refusal.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An endpoint was chosen.
    Decided(Arc<Decision>),
    /// None was.
    Refused {
        /// Why.
        refusal: Arc<Refusal>,
        /// The HTTP status that was sent; 0 where none was.
        status: u16,
    },
}

impl Outcome {
    /// What was considered, where it came to that.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Decided(decision) => Some(&decision.report),
            Self::Refused { refusal, .. } => refusal.report.as_deref(),
        }
    }
}

/// A ring of the last exchanges.
#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    max_bytes: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<(Arc<Remembered>, usize)>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY, DEFAULT_BYTES)
    }
}

impl Recent {
    /// A memory of at most `capacity` exchanges and about `max_bytes` bytes.
    #[must_use]
    pub fn new(capacity: usize, max_bytes: usize) -> Self {
        Self { capacity, max_bytes, ring: Mutex::default() }
    }

    /// Remembers one exchange, and forgets the oldest ones beyond the bounds. One that alone is
    /// over the bound in bytes is not remembered.
    pub fn push(&self, entry: Arc<Remembered>) {
        let bytes = estimate(&entry);
        if self.capacity == 0 || bytes > self.max_bytes {
            return;
        }
        let mut forgotten = Vec::new();
        let mut ring = self.ring.lock();
        while ring.entries.len() >= self.capacity || ring.bytes + bytes > self.max_bytes {
            let Some((entry, bytes)) = ring.entries.pop_front() else { break };
            ring.bytes -= bytes;
            forgotten.push(entry);
        }
        ring.bytes += bytes;
        ring.entries.push_back((entry, bytes));
        drop(ring);
        // A thousand candidates are freed here, where nobody waits for the lock.
        drop(forgotten);
    }

    /// The newest `limit` that `wanted` accepts, newest first.
    #[must_use]
    pub fn newest(&self, limit: usize, wanted: impl Fn(&Remembered) -> bool) -> Vec<Arc<Remembered>> {
        let ring = self.ring.lock();
        ring.entries.iter().rev().map(|(entry, _)| entry).filter(|entry| wanted(entry)).take(limit).cloned().collect()
    }
}

/// The bytes of what was found of each endpoint. The list of endpoints counts as its own, although
/// decisions between two scrapes share it.
fn considered(report: &Report) -> usize {
    let scores: usize = report.scorers.iter().map(|scorer| size_of_val(scorer.scores.as_slice())).sum();
    size_of_val(&*report.endpoints) + size_of_val(report.candidates.as_slice()) + scores
}

/// About how many bytes the entry keeps alive, not counting what the fleet shares with it.
fn estimate(entry: &Remembered) -> usize {
    let report = entry.outcome.report();
    let candidates = report.map_or(0, considered);
    let blocks = match &entry.outcome {
        Outcome::Decided(decision) => size_of_val(&*decision.blocks),
        Outcome::Refused { .. } => 0,
    };
    1024 + entry.request_id.len() + entry.model.as_ref().map_or(0, |model| 2 * model.len()) + candidates + blocks
}

#[cfg(test)]
mod tests {
    use scheduling::RefusalKind;

    use super::*;

    fn entry(id: &str) -> Arc<Remembered> {
        Arc::new(Remembered {
            request_id: id.into(),
            time: SystemTime::UNIX_EPOCH,
            pool: None,
            model: None,
            trace_id: None,
            outcome: Outcome::Refused { refusal: Arc::new(RefusalKind::ModelMissing.into()), status: 400 },
            took: Duration::ZERO,
            body_mode: BodyMode::None,
            body_hidden: false,
            served: OnceLock::new(),
        })
    }

    fn ids(recent: &Recent, limit: usize) -> Vec<String> {
        recent.newest(limit, |_| true).iter().map(|entry| entry.request_id.to_string()).collect()
    }

    #[test]
    fn the_oldest_beyond_the_number_is_forgotten() {
        let recent = Recent::new(3, usize::MAX);
        for id in ["a", "b", "c", "d"] {
            recent.push(entry(id));
        }
        assert_eq!(ids(&recent, 10), ["d", "c", "b"]);
        assert_eq!(ids(&recent, 2), ["d", "c"]);
    }

    #[test]
    fn the_memory_is_bounded_in_bytes() {
        let big = "x".repeat(10_000);
        let recent = Recent::new(100, 3 * 11_100);
        for _ in 0..50 {
            recent.push(entry(&big));
        }
        assert_eq!(ids(&recent, 100).len(), 3);
        recent.push(entry(&"y".repeat(100_000)));
        assert_eq!(ids(&recent, 100).len(), 3, "what is over the bound alone displaces nothing");
    }
}
