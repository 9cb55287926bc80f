//! From an engine's totals to what happened since the last scrape.

use std::time::Duration;

use crate::exposition::{Reading, Total};

/// What is remembered of an endpoint between scrapes.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    last: Option<(u32, u32)>,
    first_token: Latency,
    output_token: Latency,
    prefill: Option<(Total, f64)>,
}

/// What a scrape says in the light of the ones before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) waiting: u32,
    pub(super) running: u32,
    pub(super) time_to_first_token: Option<Duration>,
    pub(super) time_per_output_token: Option<Duration>,
    /// Prompt tokens computed since the last scrape, and the time of the requests whose they were.
    pub(super) prefilled: Option<(u64, Duration)>,
    /// Whether anything moved since the last scrape.
    pub(super) changed: bool,
}

impl History {
    pub(super) fn take_in(&mut self, reading: &Reading) -> Seen {
        let (waiting, running) = (whole(reading.waiting), whole(reading.running));
        let first_token = self.first_token.take_in(reading.first_token);
        let output_token = self.output_token.take_in(reading.output_token);
        let requests = self.last.replace((waiting, running)) != Some((waiting, running));
        Seen {
            waiting,
            running,
            time_to_first_token: self.first_token.mean,
            time_per_output_token: self.output_token.mean,
            prefilled: self.prefilled(reading),
            changed: requests || first_token || output_token,
        }
    }
}

impl History {
    fn prefilled(&mut self, reading: &Reading) -> Option<(u64, Duration)> {
        let now = reading.prefill.zip(reading.computed_tokens);
        let ((before, tokens_before), (time, tokens)) = std::mem::replace(&mut self.prefill, now).zip(now)?;
        // An engine that was started again counts from zero: its next scrape tells.
        let took = Duration::try_from_secs_f64(time.seconds - before.seconds).ok().filter(|took| !took.is_zero())?;
        let tokens = u64::from(whole(Some(tokens - tokens_before).filter(|tokens| *tokens > 0.0)));
        (tokens > 0).then_some((tokens, took))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and negatives were dropped")]
fn whole(value: Option<f64>) -> u32 {
    value.unwrap_or_default().round() as u32
}

#[derive(Clone, Copy, Debug, Default)]
struct Latency {
    total: Option<Total>,
    mean: Option<Duration>,
}

impl Latency {
    /// Returns whether anything was measured since the last time. The mean stays when nothing was:
    /// it is old then, but not wrong.
    fn take_in(&mut self, total: Option<Total>) -> bool {
        let (before, Some(now)) = (std::mem::replace(&mut self.total, total), total) else { return false };
        let Some(before) = before else { return false };
        // Totals that became smaller are those of an engine that was started again.
        let restarted = now.count < before.count || now.seconds < before.seconds;
        let before = if restarted { Total::default() } else { before };
        let count = now.count - before.count;
        if count <= 0.0 {
            return false;
        }
        // An hour is no latency: whoever says so has measured something else.
        self.mean = Duration::try_from_secs_f64((now.seconds - before.seconds) / count)
            .ok()
            .filter(|mean| *mean < Duration::from_hours(1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_after(totals: &[(f64, f64)]) -> Option<Duration> {
        let mut latency = Latency::default();
        for (seconds, count) in totals {
            latency.take_in(Some(Total { seconds: *seconds, count: *count }));
        }
        latency.mean
    }

    #[test]
    fn the_mean_is_that_of_the_time_between_two_scrapes() {
        assert_eq!(mean_after(&[(100.0, 10.0)]), None, "the first scrape tells nothing about now");
        assert_eq!(mean_after(&[(100.0, 10.0), (101.0, 14.0)]), Some(Duration::from_millis(250)));
    }

    #[test]
    fn an_idle_time_keeps_the_mean() {
        assert_eq!(mean_after(&[(0.0, 0.0), (1.0, 2.0), (1.0, 2.0)]), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_restarted_engine_counts_from_zero() {
        assert_eq!(mean_after(&[(100.0, 10.0), (1.0, 4.0)]), Some(Duration::from_millis(250)));
        assert_eq!(mean_after(&[(100.0, 10.0), (0.0, 0.0)]), None);
    }

    #[test]
    fn what_was_prefilled_is_that_between_two_scrapes_of_one_engine() {
        let mut history = History::default();
        let mut prefilled = |seconds, tokens| {
            let prefill = Some(Total { seconds, count: 1.0 });
            history.take_in(&Reading { prefill, computed_tokens: Some(tokens), ..Reading::default() }).prefilled
        };
        assert_eq!(prefilled(10.0, 9_000.0), None);
        assert_eq!(prefilled(10.5, 13_000.0), Some((4_000, Duration::from_millis(500))));
        assert_eq!(prefilled(10.5, 13_000.0), None, "nothing was computed");
        assert_eq!(prefilled(0.0, 0.0), None, "another process");
        assert_eq!(prefilled(1.0, 500.0), Some((500, Duration::from_secs(1))));
        assert_eq!(history.take_in(&Reading::default()).prefilled, None);
    }

    #[test]
    fn a_change_is_seen_once() {
        let mut history = History::default();
        let busy = Reading { running: Some(2.0), ..Reading::default() };
        assert!(history.take_in(&busy).changed);
        let seen = history.take_in(&busy);
        assert_eq!((seen.running, seen.waiting, seen.changed), (2, 0, false));
        assert!(history.take_in(&Reading::default()).changed);
    }
}
