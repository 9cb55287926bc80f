//! What a simulated engine says of its KV cache, as vLLM does: batches published over ZeroMQ, a few
//! thousand of them repeated to whoever asks, and nothing to those who come late.

mod encode;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zeromq::{PubSocket, RouterSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqMessage};

pub(super) use encode::Event;

/// Batches that are remembered for a replay (vLLM's `buffer_steps`).
const REMEMBERED: usize = 10_000;

/// Batches that wait to be published.
const QUEUE: usize = 1024;

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventForm {
    /// An array, as vLLM before 0.24 does.
    Array,
    /// A map with a `type`.
    Map,
}

/// How the answer to a replay is cut into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayForm {
    /// Nobody answers.
    Off,
    /// `['', number, batch]`, as vLLM before 0.28 does.
    Bare,
    /// `['', topic, number, batch]`.
    WithTopic,
}

/// How an engine publishes its KV events.
#[derive(Clone, Copy, Debug)]
pub struct KvEvents {
    /// How an event is written.
    pub events: EventForm,
    /// How a replay is answered.
    pub replay: ReplayForm,
}

impl Default for KvEvents {
    fn default() -> Self {
        Self { events: EventForm::Map, replay: ReplayForm::WithTopic }
    }
}

/// Where rank 0 publishes and answers; rank n does so n ports above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPorts {
    /// Where batches are published.
    pub events: u16,
    /// Where they are repeated.
    pub replay: u16,
}

/// What becomes of batches that subscribers do not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A replay brings them.
    Remembered,
    /// Nothing brings them.
    Forgotten,
}

/// To whom an engine publishes that connects, instead of waiting for subscribers. Rank n connects n ports above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCall {
    /// The subscriber.
    pub to: SocketAddr,
    /// What each message begins with.
    pub topic: String,
}

#[derive(Debug)]
pub(super) enum Command {
    Publish(Vec<Event>),
    Lose(usize, Lost),
}

/// Publishes the events of one engine; dropping it ends that.
#[derive(Debug)]
pub(super) struct Publisher {
    config: KvEvents,
    ports: KvPorts,
    call: Option<KvCall>,
    ranks: Vec<(mpsc::Sender<Command>, JoinHandle<()>)>,
}

/// Listeners of one engine: for each rank, where it publishes and where it answers.
type Listeners = Vec<(TcpListener, TcpListener)>;

impl Publisher {
    pub(super) async fn start(
        config: KvEvents,
        host: IpAddr,
        listeners: Listeners,
        call: Option<KvCall>,
    ) -> Result<Self> {
        let first = listeners.first().context("at least one rank")?;
        let ports = KvPorts { events: first.0.local_addr()?.port(), replay: first.1.local_addr()?.port() };
        let topic = call.as_ref().map_or_else(|| format!("kv@{host}@sim"), |call| call.topic.clone());
        let mut publisher = Self { config, ports, call, ranks: Vec::new() };
        for (rank, (events, replay)) in (0..).zip(listeners) {
            let (mut publish, mut router) = (PubSocket::new(), RouterSocket::new());
            for listener in [&events, &replay] {
                listener.set_nonblocking(true)?;
            }
            match &publisher.call {
                Some(call) => {
                    let port = call.to.port().checked_add(u16::try_from(rank)?).context("no such port")?;
                    publish.connect(&format!("tcp://{}", SocketAddr::new(call.to.ip(), port))).await?;
                }
                None => {
                    publish.bind_listener(events).await?;
                }
            }
            if config.replay != ReplayForm::Off {
                router.bind_listener(replay).await?;
            }
            let (commands, queue) = mpsc::channel(QUEUE);
            let topic = Bytes::from(topic.clone());
            let rank = Rank { config, rank, topic, next: 0, remembered: VecDeque::new(), lost: VecDeque::new() };
            publisher.ranks.push((commands, tokio::spawn(rank.run(publish, router, queue))));
        }
        Ok(publisher)
    }

    pub(super) fn ports(&self) -> KvPorts {
        self.ports
    }

    /// What publishes for this rank.
    pub(super) fn rank(&self, rank: usize) -> Option<mpsc::Sender<Command>> {
        self.ranks.get(rank).map(|(commands, _)| commands.clone())
    }

    /// Ends it, so that its ports are free; what it takes to start it again.
    pub(super) async fn stop(mut self) -> (KvEvents, KvPorts, Option<KvCall>) {
        for (_, task) in std::mem::take(&mut self.ranks) {
            task.abort();
            let _ = task.await;
        }
        (self.config, self.ports, self.call.take())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.ranks.iter().for_each(|(_, task)| task.abort());
    }
}

/// One data-parallel rank.
#[derive(Debug)]
struct Rank {
    config: KvEvents,
    rank: u32,
    topic: Bytes,
    next: u64,
    remembered: VecDeque<(u64, Bytes)>,
    lost: VecDeque<Lost>,
}

impl Rank {
    async fn run(mut self, mut publish: PubSocket, mut router: RouterSocket, mut queue: mpsc::Receiver<Command>) {
        let answers = self.config.replay != ReplayForm::Off;
        loop {
            // A socket fails when a peer goes; that is the peer's affair.
            let _: Result<()> = tokio::select! {
                command = queue.recv() => match command {
                    Some(Command::Publish(events)) => self.publish(&mut publish, &events).await,
                    Some(Command::Lose(count, lost)) => {
                        self.lost.extend(std::iter::repeat_n(lost, count));
                        Ok(())
                    }
                    None => return,
                },
                Ok(asked) = router.recv(), if answers => self.replay(&mut router, &asked).await,
            };
        }
    }

    async fn publish(&mut self, socket: &mut PubSocket, events: &[Event]) -> Result<()> {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let batch = Bytes::from(encode::batch(self.config.events, at, events, self.rank)?);
        let number = self.next;
        self.next += 1;
        let lost = self.lost.pop_front();
        if lost != Some(Lost::Forgotten) {
            self.remembered.push_back((number, batch.clone()));
            if self.remembered.len() > REMEMBERED {
                self.remembered.pop_front();
            }
        }
        if lost.is_none() {
            socket.send(message([self.topic.clone(), big_endian(number), batch])?).await?;
        }
        Ok(())
    }

    async fn replay(&self, router: &mut RouterSocket, asked: &ZmqMessage) -> Result<()> {
        let [Some(peer), Some(start)] = [asked.get(0), asked.get(2)] else { bail!("not a question for a replay") };
        let start = u64::from_be_bytes(start.as_ref().try_into()?);
        let topic = (self.config.replay == ReplayForm::WithTopic).then(|| self.topic.clone());
        let end = (u64::MAX, Bytes::new());
        for (number, batch) in self.remembered.iter().filter(|(number, _)| *number >= start).chain([&end]) {
            let frames = [peer.clone(), Bytes::new()].into_iter().chain(topic.clone());
            router.send(message(frames.chain([big_endian(*number), batch.clone()]))?).await?;
        }
        Ok(())
    }
}

fn big_endian(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn message(frames: impl IntoIterator<Item = Bytes>) -> Result<ZmqMessage> {
    ZmqMessage::try_from(frames.into_iter().collect::<Vec<_>>()).ok().context("a message has frames")
}

/// Listeners on each of `hosts`, all on the same ports: those of `ports`, else such as the system chooses.
pub(super) fn listen(hosts: &[IpAddr], ranks: u16, ports: Option<KvPorts>) -> Result<Vec<Listeners>> {
    let row = |first: Option<u16>| -> Result<Vec<Vec<TcpListener>>> {
        let mut first = first.unwrap_or_default();
        let mut row = Vec::new();
        for host in hosts {
            let mut listeners = vec![TcpListener::bind(SocketAddr::new(*host, first))?];
            first = listeners.first().context("one is bound")?.local_addr()?.port();
            for rank in 1..ranks {
                let port = first.checked_add(rank).context("no such port")?;
                listeners.push(TcpListener::bind(SocketAddr::new(*host, port))?);
            }
            row.push(listeners);
        }
        Ok(row)
    };
    let mut tries = 0;
    loop {
        tries += 1;
        match (row(ports.map(|ports| ports.events)), row(ports.map(|ports| ports.replay))) {
            (Ok(events), Ok(replay)) => {
                let engine =
                    |(events, replay): (Vec<TcpListener>, Vec<TcpListener>)| events.into_iter().zip(replay).collect();
                return Ok(events.into_iter().zip(replay).map(engine).collect());
            }
            (Err(error), _) | (_, Err(error)) if tries == 20 => {
                return Err(error.context("no free ports for KV events"));
            }
            _ => {}
        }
    }
}
