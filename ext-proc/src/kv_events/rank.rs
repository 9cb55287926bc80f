//! One data-parallel rank of one endpoint: connects, or waits until it does, listens, asks for what is
//! missing, and begins again, for as long as the endpoint is there.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rand::Rng;
use scheduling::Endpoint;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::decode::Decoder;
use super::metrics::{KvMetrics, Outcome, RankState};
use super::replay::{Replayed, replay};
use super::sequence::{Action, Cause, Sequence};
use super::zmtp::{Connection, Message, Role, ZmtpError};
use crate::fleet::Fleet;

/// The pause before the first new connection; it doubles up to [`SLOWEST`].
const FASTEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(5);

/// How long blocks are believed whose engine cannot be heard: it may have dropped them since.
const BELIEVED: Duration = Duration::from_secs(30);

/// Replays within [`PERIOD`]: an engine repeats thousands of batches between two that it publishes.
const REPLAYS: usize = 4;
const PERIOD: Duration = Duration::from_secs(10);

/// One rank to follow.
pub(super) struct Rank {
    pub(super) fleet: Arc<Fleet>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) rank: u32,
    /// Where batches are repeated; `None`: nowhere.
    pub(super) replays: Option<SocketAddr>,
    pub(super) topic: Arc<str>,
    /// How many replays run at once.
    pub(super) turns: Arc<Semaphore>,
    pub(super) metrics: Arc<KvMetrics>,
    pub(super) state: Arc<RankState>,
}

/// A connection to the rank, and the first message where it was read already.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) connection: Connection,
    pub(super) first: Option<Message>,
}

/// Where connections to a rank come from.
#[derive(Debug)]
pub(super) enum Events {
    /// The engine publishes there.
    At(SocketAddr),
    /// The engine connects. The newest connection is the one that counts.
    Handed(mpsc::Receiver<Heard>),
}

impl Events {
    /// The next connection; `Absent` where the engine has made none for [`BELIEVED`].
    async fn next(&mut self, topic: &str) -> Result<Heard, ZmtpError> {
        match self {
            Self::At(address) => {
                let connection = Connection::open(*address, Role::Subscriber { topic: topic.as_bytes() }).await?;
                Ok(Heard { connection, first: None })
            }
            Self::Handed(heard) => timeout(BELIEVED, heard.recv()).await.ok().flatten().ok_or(ZmtpError::Absent),
        }
    }

    /// The connection that an engine has made beside the one that is heard; waits for ever where it makes none.
    async fn newer(&mut self) -> Heard {
        if let Self::Handed(heard) = self
            && let Some(heard) = heard.recv().await
        {
            return heard;
        }
        std::future::pending().await
    }
}

type Replays = Pin<Box<dyn Stream<Item = Replayed> + Send>>;

/// What is known of the rank, over all its connections.
#[derive(Default)]
struct Known {
    sequence: Sequence<Bytes>,
    decoder: Decoder,
    actions: Vec<Action<Bytes>>,
    /// When the last replays began.
    replays: VecDeque<Instant>,
}

/// The replay under way, and why it is.
#[derive(Default)]
struct Running(Option<(Replays, Cause)>);

impl Running {
    /// The next item; waits for ever where there is no replay.
    async fn next(&mut self) -> Option<Replayed> {
        match &mut self.0 {
            Some((replays, _)) => replays.next().await,
            None => std::future::pending().await,
        }
    }
}

impl Rank {
    /// Follows the rank until it is dropped.
    pub(super) async fn follow(self, mut events: Events) {
        let mut known = Known::default();
        let mut pause = FASTEST;
        let mut failing = false;
        let mut last = Instant::now();
        let mut newer = None;
        loop {
            let next = match newer.take() {
                Some(newer) => Ok(newer),
                None => events.next(&self.topic).await,
            };
            let error = match next {
                Ok(heard) => {
                    if std::mem::take(&mut failing) {
                        info!(address = %self.endpoint.address, rank = self.rank, "KV events of an endpoint are heard again.");
                    }
                    let since = Instant::now();
                    self.state.connected(true);
                    let ended = self.listen(heard, &mut known, &mut events).await;
                    self.state.connected(false);
                    last = Instant::now();
                    // One that breaks at once will do so again.
                    if last.duration_since(since) > SLOWEST {
                        pause = FASTEST;
                    }
                    match ended {
                        Ok(heard) => {
                            newer = Some(heard);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut failing, true) {
                warn!(address = %self.endpoint.address, rank = self.rank, source = ?events, %error, "Cannot hear an endpoint's KV events.");
            }
            if last.elapsed() >= BELIEVED && known.sequence.next().is_some() {
                known = Known::default();
                self.forget();
            }
            if matches!(events, Events::At(_)) {
                // Half to all of the pause, so that a fleet's pickers do not come back in step.
                let jitter = rand::rng().random_range(0.5..1.0);
                tokio::time::sleep(pause.mul_f64(jitter)).await;
                pause = (pause * 2).min(SLOWEST);
            }
        }
    }

    /// Listens until the connection breaks, or the engine has made a newer one.
    async fn listen(&self, heard: Heard, known: &mut Known, events: &mut Events) -> Result<Heard, ZmtpError> {
        let Heard { mut connection, first } = heard;
        // Of a connection that the engine made, the first message said whose it is.
        let topic = first.as_ref().and_then(|first| first.first()).cloned();
        let mut running = Running::default();
        known.sequence.connected(&mut known.actions);
        self.act(known, &mut running);
        if let Some(first) = first {
            self.published(&first, topic.as_ref(), known);
        }
        loop {
            self.act(known, &mut running);
            tokio::select! {
                message = connection.receive() => self.published(&message?, topic.as_ref(), known),
                item = running.next() => self.replayed(item, known, &mut running),
                newer = events.newer() => return Ok(newer),
            }
        }
    }

    fn published(&self, message: &Message, expected: Option<&Bytes>, known: &mut Known) {
        match message.as_slice() {
            [topic, number, batch] if number.len() == 8 && expected.is_none_or(|expected| expected == topic) => {
                let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                known.sequence.published(number, batch.clone(), &mut known.actions);
            }
            _ => self.metrics.unreadable(),
        }
    }

    fn replayed(&self, item: Option<Replayed>, known: &mut Known, running: &mut Running) {
        match item {
            Some(Replayed::Batch(number, batch)) => {
                known.sequence.replayed(number, batch, &mut known.actions);
                return;
            }
            Some(Replayed::End) => known.sequence.replay_ended(&mut known.actions),
            Some(Replayed::Failed(error)) => {
                warn!(address = %self.endpoint.address, rank = self.rank, %error, "An endpoint did not repeat its KV events.");
                known.sequence.replay_failed(&mut known.actions);
                self.end(running, Outcome::Failed);
                return;
            }
            None => known.sequence.replay_failed(&mut known.actions),
        }
        self.end(running, Outcome::Complete);
    }

    /// Ends the replay, if there is one.
    fn end(&self, running: &mut Running, outcome: Outcome) {
        if let Some((_, cause)) = running.0.take() {
            self.metrics.replayed(cause, outcome);
        }
    }

    /// Does what the sequence wants.
    fn act(&self, known: &mut Known, running: &mut Running) {
        while !known.actions.is_empty() {
            for action in std::mem::take(&mut known.actions) {
                match action {
                    Action::Apply(batch) => self.apply(&batch, &mut known.decoder),
                    Action::Forget => {
                        known.decoder = Decoder::default();
                        self.forget();
                    }
                    Action::Replay(first, cause) => {
                        // One that was under way is not what is wanted any more.
                        self.end(running, Outcome::Superseded);
                        match self.replays.filter(|_| may_replay(&mut known.replays)) {
                            Some(engine) => {
                                let turns = Arc::clone(&self.turns);
                                running.0 = Some((Box::pin(replay(engine, first, turns)), cause));
                            }
                            None => {
                                self.metrics.replayed(cause, Outcome::Refused);
                                known.sequence.replay_failed(&mut known.actions);
                            }
                        }
                    }
                }
            }
        }
        self.state.at(known.sequence.next());
    }

    fn apply(&self, batch: &[u8], decoder: &mut Decoder) {
        let batch = match decoder.decode(batch) {
            Ok(batch) => batch,
            Err(error) => {
                // Whatever it said is unknown: perhaps that blocks have left.
                warn!(address = %self.endpoint.address, rank = self.rank, %error, "Cannot read a batch of KV events.");
                self.metrics.unreadable();
                self.forget();
                return;
            }
        };
        let applied = self
            .fleet
            .change_blocks(&self.endpoint, |index, slot| index.apply(slot, self.rank, &batch.events))
            .unwrap_or_default();
        self.metrics.applied(&batch, applied);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.state.heard(now.as_secs_f64() - batch.at);
    }

    fn forget(&self) {
        self.metrics.forgotten();
        self.fleet.change_blocks(&self.endpoint, |index, slot| index.forget(slot, Some(self.rank)));
    }
}

/// Whether one more replay may begin now.
fn may_replay(began: &mut VecDeque<Instant>) -> bool {
    let now = Instant::now();
    began.retain(|began| now.duration_since(*began) < PERIOD);
    let may = began.len() < REPLAYS;
    if may {
        began.push_back(now);
    }
    may
}
