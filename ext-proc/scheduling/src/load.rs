//! Exact accounting of what this picker has in flight, by guard.
//!
//! A count lives exactly as long as its [`InFlight`]: a stream that ends for any reason gives its
//! load back, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::moment::Moment;
use crate::outlier::Outlier;
use crate::rates::Rates;

/// What one endpoint has in flight from this picker, and whether it fails what it is sent.
///
/// In a cache line of its own: every decision reads it of a thousand endpoints, while others write.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load {
    requests: AtomicU32,
    uncached_tokens: AtomicU64,
    outlier: Outlier,
    rates: Rates,
}

impl Load {
    /// Requests picked for the endpoint and not yet ended.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Estimated prompt tokens among them that the endpoint did not hold in its cache.
    #[must_use]
    pub fn uncached_tokens(&self) -> u64 {
        self.uncached_tokens.load(Ordering::Relaxed)
    }

    /// Takes in how a request there ended: `false` when no connection came about or the answer was a
    /// 5xx. Returns for how long the endpoint is a last resort from now on, when it has just become one.
    pub fn outcome(&self, ok: bool, now: Moment) -> Option<Duration> {
        self.outlier.outcome(ok, now)
    }

    /// Whether the endpoint has failed so often in a row that it is a last resort now.
    #[must_use]
    pub fn is_outlier(&self, now: Moment) -> bool {
        self.outlier.is(now)
    }

    /// How fast the endpoint works, as learned from what it served.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Another process answers there now: what the last one failed, and how fast it was, is not its own.
    pub(crate) fn forgive(&self) {
        self.outlier.forget();
        self.rates.forget();
    }

    /// Counts one request of `uncached_tokens` until the guard is dropped.
    pub fn begin(self: &Arc<Self>, uncached_tokens: u32) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.uncached_tokens.fetch_add(u64::from(uncached_tokens), Ordering::Relaxed);
        InFlight { load: Arc::clone(self), uncached_tokens }
    }
}

/// One request in flight; dropping it ends the count.
#[derive(Debug)]
#[must_use = "dropping the guard ends the count"]
pub struct InFlight {
    load: Arc<Load>,
    uncached_tokens: u32,
}

impl InFlight {
    /// Moves the request to another endpoint's account, which served it instead.
    pub fn move_to(&mut self, load: &Arc<Load>) {
        if !Arc::ptr_eq(&self.load, load) {
            *self = load.begin(self.uncached_tokens);
        }
    }

    /// Counts so many tokens instead.
    pub fn recount(&mut self, uncached_tokens: u32) {
        let load = Arc::clone(&self.load);
        *self = load.begin(uncached_tokens);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.requests.fetch_sub(1, Ordering::Relaxed);
        self.load.uncached_tokens.fetch_sub(u64::from(self.uncached_tokens), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_decision_reads_of_a_load_is_one_cache_line() {
        assert_eq!(size_of::<Load>(), 64);
    }

    #[test]
    fn a_request_is_counted_once_wherever_it_moves() {
        let (one, other) = (Arc::new(Load::default()), Arc::new(Load::default()));
        let mut request = one.begin(7);
        request.move_to(&other);
        assert_eq!((one.requests(), one.uncached_tokens(), other.uncached_tokens()), (0, 0, 7));
        request.recount(9);
        assert_eq!((other.requests(), other.uncached_tokens()), (1, 9));
        drop(request);
        assert_eq!((other.requests(), other.uncached_tokens()), (0, 0));
    }
}
