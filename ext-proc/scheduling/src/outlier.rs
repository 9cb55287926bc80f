//! Endpoints that fail what they are sent: after five failures in a row an endpoint is only a last
//! resort, for a while that doubles from 5 s to 5 min as long as it keeps failing.
//!
//! Five in a row and at most 300 s are Envoy's outlier detection (`consecutive_5xx`,
//! `max_ejection_time`). It begins sooner and doubles, because a pool has few engines, and each that is
//! out is work for the others. One that has then worked for as long as it was out begins anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::moment::Moment;

/// Failures in a row that make an outlier.
const FAILURES: u32 = 5;
/// How long it is one for the first time.
const FIRST: Duration = Duration::from_secs(5);
/// How long it is one at most.
const LONGEST: Duration = Duration::from_secs(300);

/// What is remembered of an endpoint's failures.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    /// In milliseconds of [`Moment`]; 0 when it never was one. Read for every candidate of every
    /// decision, so not behind the lock.
    until: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    last: Option<Ejection>,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Moment,
    lasted: Duration,
}

impl Outlier {
    /// Takes in how a request ended; how long the endpoint is an outlier from now on, if it became one.
    pub(crate) fn outcome(&self, ok: bool, now: Moment) -> Option<Duration> {
        let mut record = self.record.lock();
        if ok {
            record.failures = 0;
            return None;
        }
        // What was under way when it became one says nothing new.
        if record.last.is_some_and(|last| now < last.until) {
            return None;
        }
        record.failures += 1;
        if record.failures < FAILURES {
            return None;
        }
        let lasted = match record.last {
            Some(last) if now.since(last.until) < last.lasted => (last.lasted * 2).min(LONGEST),
            _ => FIRST,
        };
        let until = now + lasted;
        *record = Record { failures: 0, last: Some(Ejection { until, lasted }) };
        self.until.store(millis(until), Ordering::Relaxed);
        Some(lasted)
    }

    /// Whether it is one.
    pub(crate) fn is(&self, now: Moment) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && millis(now) < until
    }

    /// Forgets all: another process answers now.
    pub(crate) fn forget(&self) {
        *self.record.lock() = Record::default();
        self.until.store(0, Ordering::Relaxed);
    }
}

fn millis(moment: Moment) -> u64 {
    u64::try_from(moment.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::seconds;

    fn fail(outlier: &Outlier, times: usize, now: Moment) -> Option<Duration> {
        (0..times).filter_map(|_| outlier.outcome(false, now)).last()
    }

    #[test]
    fn five_failures_in_a_row_make_an_outlier_and_a_success_between_them_does_not() {
        let outlier = Outlier::default();
        assert_eq!(fail(&outlier, 4, seconds(1)), None);
        assert_eq!(outlier.outcome(true, seconds(1)), None);
        assert_eq!(fail(&outlier, 4, seconds(1)), None);
        assert!(!outlier.is(seconds(1)));
        assert_eq!(fail(&outlier, 1, seconds(1)), Some(FIRST));
        assert!(outlier.is(seconds(1)) && outlier.is(seconds(5)) && !outlier.is(seconds(6)));
    }

    #[test]
    fn it_is_one_longer_each_time_up_to_a_bound_and_what_was_under_way_does_not_count() {
        let outlier = Outlier::default();
        let mut now = Moment::START;
        let mut lasted = Vec::new();
        for _ in 0..9 {
            let time = fail(&outlier, 5, now).unwrap();
            assert_eq!(fail(&outlier, 50, now), None);
            lasted.push(time.as_secs());
            now = now + time;
            assert!(!outlier.is(now));
        }
        assert_eq!(lasted, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn one_that_worked_as_long_as_it_was_out_begins_anew_as_does_another_process() {
        let outlier = Outlier::default();
        assert_eq!(fail(&outlier, 5, seconds(0)), Some(FIRST));
        assert_eq!(fail(&outlier, 5, seconds(9)), Some(FIRST * 2));
        assert_eq!(fail(&outlier, 5, seconds(29)), Some(FIRST), "out until 19, ten seconds ago");
        outlier.forget();
        assert!(!outlier.is(seconds(29)));
        assert_eq!(fail(&outlier, 4, seconds(29)), None);
    }
}
