//! Asks the engines how they are: often where something happens, seldom where nothing does.
//!
//! One task for all endpoints, and bounded in everything: how many are asked at once, how long one
//! may take, how large its page may be. An engine that does not answer is not idle: its gauges stay
//! and age.

mod client;
mod history;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use scheduling::{Event, Gauges, Load};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::fleet::Fleet;
use client::{Client, ScrapeError};
use history::History;

/// The pause between two scrapes of an endpoint that works or has just changed.
const FAST: Duration = Duration::from_millis(200);

/// The pause once an endpoint has been idle for a while. Work that we send there ends it at once.
const SLOW: Duration = Duration::from_secs(2);

/// The pause after a scrape that failed.
const RETRY: Duration = Duration::from_secs(1);

/// The pause between two readings of the list of models.
const MODELS: Duration = Duration::from_secs(10);

/// How often the fleet is looked at for newcomers and for idle endpoints that got work.
const TICK: Duration = Duration::from_millis(100);

/// How many endpoints are asked at once.
const CONCURRENCY: usize = 64;

/// Scrapes all ready endpoints of the fleet.
pub struct Scraper {
    fleet: Arc<Fleet>,
    failed: Box<dyn Fn(SocketAddr) + Send + Sync>,
    client: Client,
    targets: HashMap<SocketAddr, Target>,
    generation: Option<u64>,
    rng: SmallRng,
}

impl std::fmt::Debug for Scraper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Scraper").field("targets", &self.targets.len()).finish_non_exhaustive()
    }
}

/// One endpoint between its scrapes.
#[derive(Debug)]
struct Target {
    load: Arc<Load>,
    history: History,
    models: Option<Arc<[Arc<str>]>>,
    asked: Option<Instant>,
    due: Instant,
    models_due: Instant,
    pause: Duration,
    running: bool,
    failing: bool,
}

impl Target {
    fn new(load: &Arc<Load>, now: Instant) -> Self {
        Self {
            load: Arc::clone(load),
            history: History::default(),
            models: None,
            asked: None,
            due: now,
            models_due: now,
            pause: FAST,
            running: false,
            failing: false,
        }
    }

    /// When to ask next; an endpoint that has work of ours does not wait out its idle pause.
    fn due(&self) -> Instant {
        match self.asked {
            Some(asked) if !self.failing && self.load.requests() > 0 => self.due.min(asked + FAST),
            _ => self.due,
        }
    }
}

/// The pause after a scrape that saw `busy`, where the last pause was `last`.
fn pause(last: Duration, busy: bool) -> Duration {
    if busy { FAST } else { (last * 2).min(SLOW) }
}

impl Scraper {
    /// Scrapes the endpoints of `fleet`; `failed` is called for each scrape that fails.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, failed: impl Fn(SocketAddr) + Send + Sync + 'static) -> Self {
        Self {
            fleet,
            failed: Box::new(failed),
            client: Client::new(),
            targets: HashMap::new(),
            generation: None,
            rng: SmallRng::from_os_rng(),
        }
    }

    /// Scrapes for ever.
    pub async fn run(mut self) {
        let mut scrapes = FuturesUnordered::new();
        loop {
            self.follow_fleet();
            let now = Instant::now();
            let mut wake = now + TICK;
            for (address, target) in &mut self.targets {
                let due = target.due();
                if target.running {
                    continue;
                }
                if due > now {
                    wake = wake.min(due);
                } else if scrapes.len() < CONCURRENCY {
                    target.running = true;
                    target.asked = Some(now);
                    scrapes.push(self.client.scrape(*address, Arc::clone(&target.load), target.models_due <= now));
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                Some(done) = scrapes.next() => self.take_in(done),
            }
        }
    }

    /// Takes up endpoints that became ready and forgets those that are no longer.
    fn follow_fleet(&mut self) {
        let snapshot = self.fleet.snapshot();
        if self.generation.replace(snapshot.generation) == Some(snapshot.generation) {
            return;
        }
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.targets);
        let ready = snapshot.pools.values().flat_map(|pool| pool.all_endpoints()).filter(|endpoint| endpoint.ready);
        for endpoint in ready {
            let same = before.remove(&endpoint.address).filter(|target| Arc::ptr_eq(&target.load, &endpoint.load));
            self.targets
                .entry(endpoint.address)
                .or_insert_with(|| same.unwrap_or_else(|| Target::new(&endpoint.load, now)));
        }
    }

    fn take_in(&mut self, done: client::Scrape) {
        let client::Scrape { address, load, outcome, models } = done;
        // The endpoint may have left, or its address may be another's by now.
        let Some(target) = self.targets.get_mut(&address).filter(|target| Arc::ptr_eq(&target.load, &load)) else {
            return;
        };
        target.running = false;
        let now = Instant::now();
        match outcome {
            Ok(answer) => {
                if std::mem::take(&mut target.failing) {
                    info!(%address, "An endpoint answers scrapes again.");
                }
                if let Some(models) = models {
                    target.models_due = now + MODELS;
                    // A list that could not be read leaves the last one: adapters do not vanish so.
                    target.models = models.or_else(|| target.models.take());
                }
                let seen = target.history.take_in(&answer.reading);
                let busy = seen.changed || seen.waiting + seen.running > 0 || load.requests() > 0;
                target.pause = pause(target.pause, busy);
                self.fleet.apply(Event::Scraped {
                    address,
                    gauges: Gauges {
                        read_at: self.fleet.now(),
                        waiting: seen.waiting,
                        running: seen.running,
                        kv_usage: answer.reading.kv_usage,
                        time_to_first_token: seen.time_to_first_token,
                        time_per_output_token: seen.time_per_output_token,
                        prefilled: seen.prefilled,
                        models: target.models.clone(),
                        in_flight_then: answer.in_flight_then,
                    },
                });
            }
            Err(error) => {
                target.pause = RETRY;
                target.models_due = now;
                if !std::mem::replace(&mut target.failing, true) {
                    warn!(%address, error = %error_chain(&error), "Cannot scrape an endpoint.");
                }
                (self.failed)(address);
                self.fleet.apply(Event::ScrapeFailed { address });
            }
        }
        // A tenth more or less, so that endpoints that joined together do not stay in step.
        target.due = now + target.pause.mul_f64(self.rng.random_range(0.9..1.1));
    }
}

fn error_chain(error: &ScrapeError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_falls_idle_is_asked_less_and_less() {
        let pauses: Vec<_> = std::iter::successors(Some(FAST), |last| Some(pause(*last, false))).take(6).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&SLOW));
        assert_eq!(pause(SLOW, true), FAST);
    }

    #[tokio::test]
    async fn work_of_ours_ends_the_idle_pause_but_not_the_one_after_a_failure() {
        let load = Arc::new(Load::default());
        let now = Instant::now();
        let mut target = Target::new(&load, now);
        (target.asked, target.due) = (Some(now), now + SLOW);
        assert_eq!(target.due(), now + SLOW);
        let guard = load.begin(1);
        assert_eq!(target.due(), now + FAST);
        target.failing = true;
        assert_eq!(target.due(), now + SLOW);
        drop(guard);
    }
}
