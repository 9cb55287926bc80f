//! How fast we may write: so many calls a second, more in a burst.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A token bucket. Whoever finds it empty waits for a turn of its own, in order.
#[derive(Debug)]
pub struct Limiter {
    /// Time between two calls.
    interval: Duration,
    /// How far the next turn may lie in the past: the burst.
    slack: Duration,
    next: Mutex<Option<Instant>>,
}

impl Limiter {
    /// `rate` calls a second, `burst` at once. Both above 0.
    #[must_use]
    pub fn new(rate: f64, burst: u32) -> Self {
        let interval = Duration::from_secs_f64(1.0 / rate.max(0.001));
        Self { interval, slack: interval.saturating_mul(burst.max(1) - 1), next: Mutex::new(None) }
    }

    /// Waits for its turn. Callers are few (workers times writes in flight), so no turn is far.
    pub async fn turn(&self) {
        let at = self.reserve(Instant::now());
        tokio::time::sleep_until(at).await;
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let earliest = now.checked_sub(self.slack).unwrap_or(now);
        let turn = next.map_or(earliest, |next| next.max(earliest));
        *next = Some(turn + self.interval);
        turn.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_goes_at_the_rate() {
        let (limiter, start) = (Limiter::new(10.0, 3), Instant::now());
        let turns: Vec<u128> = (0..5).map(|_| (limiter.reserve(start) - start).as_millis()).collect();
        assert_eq!(turns, [0, 0, 0, 100, 200]);
        let later = start + Duration::from_secs(10);
        let turns: Vec<u128> = (0..4).map(|_| (limiter.reserve(later) - later).as_millis()).collect();
        assert_eq!(turns, [0, 0, 0, 100]);
    }
}
