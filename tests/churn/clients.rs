//! Clients with shared system prompts, one in ten of whom goes away before the answer is complete
//! (one in seven would, but some are answered first).

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tests::client::{Client, Reply};

/// The response header with the address that the picker named; `-` when it was not asked in time.
pub(crate) const PICKED: &str = "x-picked";
/// The response header with how many endpoints Envoy tried.
pub(crate) const ATTEMPTS: &str = "x-attempts";
/// Clients at once.
pub(crate) const CONNECTIONS: u64 = 48;

/// What became of the requests.
#[derive(Debug)]
pub(crate) struct Tally {
    total: u64,
    sent: AtomicU64,
    /// 200 from the endpoint that was decided.
    as_decided: AtomicU64,
    /// 200 from another, because Envoy could not connect to the one decided.
    retried: AtomicU64,
    /// 200 while there was no picker.
    undecided: AtomicU64,
    /// Another status, or a broken connection.
    failed: AtomicU64,
    /// The client went away.
    given_up: AtomicU64,
    astray: Mutex<Vec<String>>,
    last: Mutex<Option<(String, SocketAddr)>>,
}

impl Tally {
    pub(crate) fn new(total: u64) -> Self {
        Self {
            total,
            sent: AtomicU64::default(),
            as_decided: AtomicU64::default(),
            retried: AtomicU64::default(),
            undecided: AtomicU64::default(),
            failed: AtomicU64::default(),
            given_up: AtomicU64::default(),
            astray: Mutex::default(),
            last: Mutex::default(),
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) -> u64 {
        [&self.as_decided, &self.retried, &self.undecided].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Answers that came from elsewhere for no reason.
    pub(crate) fn astray(&self) -> Vec<String> {
        self.astray.lock().clone()
    }

    pub(crate) fn last_id(&self) -> Option<String> {
        self.last.lock().as_ref().map(|(id, _)| id.clone())
    }

    pub(crate) fn last_engine(&self) -> Option<SocketAddr> {
        self.last.lock().as_ref().map(|(_, engine)| *engine)
    }

    fn take(&self, reply: &Reply) {
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let (200, Some(engine)) = (reply.status, reply.engine()) else { return count(&self.failed) };
        let attempts = reply.header(ATTEMPTS).unwrap_or_default();
        match reply.header(PICKED).and_then(|picked| picked.parse::<SocketAddr>().ok()) {
            None => count(&self.undecided),
            Some(picked) if picked == engine => {
                count(&self.as_decided);
                if let Some(id) = reply.header("x-request-id") {
                    *self.last.lock() = Some((id.to_owned(), engine));
                }
            }
            Some(_) if attempts != "1" => count(&self.retried),
            Some(picked) => self.astray.lock().push(format!("{engine} instead of {picked}")),
        }
    }
}

impl Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            formatter,
            "{} requests: {} answered as decided, {} by another after a refused connection, {} while there was no \
             picker, {} failed, {} given up by the client",
            self.total,
            get(&self.as_decided),
            get(&self.retried),
            get(&self.undecided),
            get(&self.failed),
            get(&self.given_up),
        )
    }
}

/// Asks until all requests of the tally are sent.
pub(crate) async fn keep_asking(gateway: SocketAddr, tally: Arc<Tally>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let client = Client::new(gateway);
    while tally.sent.fetch_add(1, Ordering::Relaxed) < tally.total {
        let system = format!("You are assistant {}. {}", rng.random_range(0..16), "Be short and exact. ".repeat(20));
        let user = format!("Question {}", rng.random_range(0..64));
        let stream = rng.random_bool(0.5);
        let ask = client.chat("m", &[("system", &system), ("user", &user)]).stream(stream).max_tokens(4).send();
        // Anywhere from before Envoy has read the request to the middle of the answer.
        let patience = rng.random_bool(0.14).then(|| Duration::from_micros(rng.random_range(0..20_000)));
        let reply = match patience {
            Some(patience) => match tokio::time::timeout(patience, ask).await {
                Ok(reply) => reply,
                Err(_) => {
                    tally.given_up.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            },
            None => ask.await,
        };
        match reply {
            Ok(reply) => tally.take(&reply),
            Err(_) => {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
