//! Asking an engine to repeat batches: a DEALER sends `['', first]` and is sent `['', number, batch]`
//! (vLLM before 0.28) or `['', topic, number, batch]` for each, then the number −1 with nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::zmtp::{Connection, Role, ZmtpError};

/// How long a replay may wait for its turn.
const TURN: Duration = Duration::from_secs(10);

/// How long the next batch may take.
const IDLE: Duration = Duration::from_secs(2);

/// How long all of them may take.
const WHOLE: Duration = Duration::from_secs(60);

/// The number that ends a replay.
const END: u64 = u64::MAX;

/// What a replay says.
#[derive(Debug)]
pub(super) enum Replayed {
    Batch(u64, Bytes),
    End,
    Failed(ReplayError),
}

/// Why there is no replay, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error("too many replays at once")]
    Turn,
    #[error(transparent)]
    Connection(#[from] ZmtpError),
    #[error("no batch within {} s", IDLE.as_secs())]
    Idle,
    #[error("not complete within {} s", WHOLE.as_secs())]
    Whole,
    #[error("an answer is not ['', number, batch] or ['', topic, number, batch]")]
    Frames,
}

enum Stage {
    Start,
    Running(Box<Answering>),
    Over,
}

/// An engine that answers.
struct Answering {
    connection: Connection,
    /// Until when all batches must have come.
    deadline: Instant,
    _turn: OwnedSemaphorePermit,
}

/// Asks `engine` for its batches from `first` on, as one of the few that `turns` allows at once. The
/// last item is [`Replayed::End`] or [`Replayed::Failed`].
pub(super) fn replay(engine: SocketAddr, first: u64, turns: Arc<Semaphore>) -> impl Stream<Item = Replayed> + Send {
    stream::unfold(Stage::Start, move |stage| {
        let turns = Arc::clone(&turns);
        async move {
            let answering = match stage {
                Stage::Start => start(engine, first, turns).await.map(Box::new),
                Stage::Running(answering) => Ok(answering),
                Stage::Over => return None,
            };
            let next = match answering {
                Ok(mut answering) => answering.next().await.map(|item| (item, Stage::Running(answering))),
                Err(error) => Err(error),
            };
            Some(match next {
                Ok((Replayed::End, _)) => (Replayed::End, Stage::Over),
                Ok(next) => next,
                Err(error) => (Replayed::Failed(error), Stage::Over),
            })
        }
    })
}

async fn start(engine: SocketAddr, first: u64, turns: Arc<Semaphore>) -> Result<Answering, ReplayError> {
    let turn = timeout(TURN, turns.acquire_owned()).await.ok().and_then(Result::ok).ok_or(ReplayError::Turn)?;
    let deadline = Instant::now() + WHOLE;
    let mut connection = Connection::open(engine, Role::Dealer).await?;
    connection.send(&[b"", &first.to_be_bytes()]).await?;
    Ok(Answering { connection, deadline, _turn: turn })
}

impl Answering {
    async fn next(&mut self) -> Result<Replayed, ReplayError> {
        let message = timeout_at(self.deadline, timeout(IDLE, self.connection.receive()))
            .await
            .map_err(|_| ReplayError::Whole)?
            .map_err(|_| ReplayError::Idle)??;
        let ([_, number, batch] | [_, _, number, batch]) = message.as_slice() else { return Err(ReplayError::Frames) };
        let number = number.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| ReplayError::Frames)?;
        Ok(if number == END || batch.is_empty() { Replayed::End } else { Replayed::Batch(number, batch.clone()) })
    }
}
