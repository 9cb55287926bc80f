//! KV transfer between simulated engines. **A fixture**: engines of one process find each other in a
//! table, those of others ask over HTTP, and no block is moved. Who may fetch what, and how often, is exact.
//!
//! Two ways, as the engines have them: vLLM's `NixlConnector` (prefill keeps the blocks for a lease, decode
//! fetches them once) and `SGLang`'s bootstrap (both meet in a room of the prefill engine). Unlike vLLM,
//! which does not notice, parameters that are used twice or were altered on their way are counted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::State;
use super::metrics::Counted;
use crate::client::Client;

/// Where an engine gives out blocks.
pub(super) const FETCH: &str = "/sim/fetch";

/// How long one side waits for the other in a room.
const MEETING: Duration = Duration::from_secs(30);

/// The engines of this process.
static ENGINES: LazyLock<Mutex<HashMap<SocketAddr, Weak<State>>>> = LazyLock::new(Mutex::default);

/// What has become of an engine's transfers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Prompts whose blocks it kept for somebody.
    pub kept: u64,
    /// Of these, fetched.
    pub fetched: u64,
    /// Of these, given up at the end of the lease.
    pub expired: u64,
    /// Prompts whose blocks it fetched from somebody.
    pub received: u64,
    /// From whom.
    pub sources: BTreeSet<SocketAddr>,
    /// **Faults**: somebody came for blocks that had been fetched before, or to a room that was used before.
    pub used_twice: u64,
    /// **Faults**: somebody came with parameters that are not, byte for byte, those given out.
    pub altered: u64,
}

/// One engine's side of all its transfers.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    totals: Transfers,
    next: u64,
    kept: HashMap<String, Kept>,
    gone: HashSet<String>,
    rooms: HashMap<u64, watch::Sender<Meeting>>,
}

#[derive(Debug)]
struct Kept {
    params: String,
    tokens: usize,
    until: Instant,
    _blocks: Counted,
}

#[derive(Clone, Copy, Debug, Default)]
struct Meeting {
    /// Tokens that prefill has computed.
    filled: Option<usize>,
    fetched: bool,
}

/// What a request's body says about transfer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Fields {
    kv_transfer_params: Option<Box<RawValue>>,
    bootstrap_host: Option<IpAddr>,
    bootstrap_room: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Params {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    remote_request_id: Option<String>,
    remote_host: Option<IpAddr>,
    remote_port: Option<u16>,
}

/// What a request's work has to do for its transfer.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Nothing.
    None,
    /// Keep the blocks.
    Keep,
    /// Fill the room and wait until it was emptied.
    Fill(u64),
    /// So many tokens were fetched already.
    Fetched(usize),
}

impl Fields {
    /// Finds out what is to do, and fetches blocks.
    ///
    /// # Errors
    /// What vLLM says with status 500 when the blocks cannot be had.
    pub(super) async fn task(&self, state: &State) -> Result<Task, String> {
        if let (Some(host), Some(room)) = (self.bootstrap_host, self.bootstrap_room) {
            if host == state.address.ip() {
                return Ok(Task::Fill(room));
            }
            let prefill = engine(|address| address.ip() == host).ok_or("no bootstrap server answers")?;
            let tokens = prefill.transfer.fetch_room(room).await?;
            state.transfer.received(prefill.address);
            return Ok(Task::Fetched(tokens));
        }
        let Some(raw) = &self.kv_transfer_params else { return Ok(Task::None) };
        let params: Params = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        if params.do_remote_prefill {
            let address = params.remote_host.zip(params.remote_port).ok_or("no remote address")?;
            let address = SocketAddr::from(address);
            let tokens = match engine(|it| *it == address) {
                Some(prefill) => prefill.transfer.fetch(raw.get())?,
                None => fetch_from(address, raw.get()).await?,
            };
            state.transfer.received(address);
            return Ok(Task::Fetched(tokens));
        }
        Ok(if params.do_remote_decode { Task::Keep } else { Task::None })
    }
}

/// A running engine of this process.
fn engine(is: impl Fn(&SocketAddr) -> bool) -> Option<Arc<State>> {
    let mut engines = ENGINES.lock();
    engines.retain(|_, engine| engine.strong_count() > 0);
    engines.iter().find(|(address, _)| is(address)).and_then(|(_, engine)| engine.upgrade())
}

/// Asks an engine of another process for blocks; how many tokens they are of.
async fn fetch_from(address: SocketAddr, params: &str) -> Result<usize, String> {
    let asked = Client::new(address).post(FETCH, params.to_owned()).send();
    let reply = tokio::time::timeout(MEETING, asked).await.map_err(|_| "the remote engine does not answer")?;
    let reply = reply.map_err(|_| "the remote engine does not answer")?;
    match reply.status {
        200 => reply.text().parse().map_err(|_| "the remote engine does not answer".to_owned()),
        _ => Err(reply.text()),
    }
}

/// The engine answers from now on.
pub(super) fn join(state: &Arc<State>) {
    ENGINES.lock().insert(state.address, Arc::downgrade(state));
}

/// The engine is gone, and with it whatever it kept.
pub(super) fn leave(state: &State) {
    ENGINES.lock().remove(&state.address);
    let mut book = state.transfer.book.lock();
    book.kept.clear();
    book.rooms.clear();
}

impl Transfer {
    pub(super) fn totals(&self) -> Transfers {
        let mut book = self.book.lock();
        book.expire();
        book.totals.clone()
    }

    /// Keeps a request's blocks for `lease`. Returns the parameters that they can be had with, in the
    /// shape of vLLM 0.32 and with what a reader of JSON may spoil: spaces and a number that no type holds.
    pub(super) fn keep(&self, state: &State, request: &str, tokens: usize, lease: Duration, blocks: Counted) -> String {
        let mut book = self.book.lock();
        book.expire();
        book.next += 1;
        book.totals.kept += 1;
        let id = format!("cmpl-{request}-0-{:08x}", book.next);
        let ids: Vec<usize> = (1..=tokens.div_ceil(state.config.block_tokens)).collect();
        let params = format!(
            r#"{{"do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [{ids:?}], "remote_engine_id": "{}", "remote_request_id": "{id}", "remote_host": "{}", "remote_port": {}, "tp_size": 1, "remote_num_tokens": {tokens}, "remote_blocks_expiry_time": null, "transfer_mode": "pull", "sim_unheard_of": {{"number": 123456789012345678901234567890.10}}}}"#,
            state.address,
            state.address.ip(),
            state.address.port(),
        );
        let kept = Kept { params: params.clone(), tokens, until: Instant::now() + lease, _blocks: blocks };
        book.kept.insert(id, kept);
        params
    }

    fn received(&self, from: SocketAddr) {
        let mut book = self.book.lock();
        book.totals.received += 1;
        book.totals.sources.insert(from);
    }

    /// Gives out what is kept under these parameters; how many tokens it is of.
    ///
    /// # Errors
    /// When nothing is kept under their id, any more.
    pub(super) fn fetch(&self, params: &str) -> Result<usize, String> {
        let asked: Params = serde_json::from_str(params).map_err(|error| error.to_string())?;
        let id = asked.remote_request_id.ok_or("no remote request id")?;
        let mut book = self.book.lock();
        book.expire();
        let Some(kept) = book.kept.remove(&id) else {
            if book.gone.contains(&id) {
                book.totals.used_twice += 1;
            }
            return Err(format!("no blocks are kept for {id}"));
        };
        if kept.params != params {
            book.totals.altered += 1;
        }
        book.totals.fetched += 1;
        book.gone.insert(id);
        Ok(kept.tokens)
    }

    /// The blocks of a room are computed; waits until they were fetched.
    pub(super) async fn fill_room(&self, room: u64, tokens: usize) -> bool {
        let meeting = self.room(room);
        {
            let mut book = self.book.lock();
            if meeting.borrow().filled.is_some() {
                book.totals.used_twice += 1;
                return false;
            }
            book.totals.kept += 1;
        }
        meeting.send_modify(|meeting| meeting.filled = Some(tokens));
        let mut changes = meeting.subscribe();
        let fetched = tokio::time::timeout(MEETING, changes.wait_for(|meeting| meeting.fetched)).await;
        matches!(fetched, Ok(Ok(_)))
    }

    async fn fetch_room(&self, room: u64) -> Result<usize, String> {
        let meeting = self.room(room);
        if meeting.borrow().fetched {
            self.book.lock().totals.used_twice += 1;
            return Err(format!("the room {room} was used before"));
        }
        let mut changes = meeting.subscribe();
        let filled = tokio::time::timeout(MEETING, changes.wait_for(|meeting| meeting.filled.is_some())).await;
        let tokens = match filled {
            Ok(Ok(meeting)) => meeting.filled.unwrap_or_default(),
            _ => return Err(format!("nobody came to the room {room}")),
        };
        self.book.lock().totals.fetched += 1;
        meeting.send_modify(|meeting| meeting.fetched = true);
        Ok(tokens)
    }

    fn room(&self, room: u64) -> watch::Sender<Meeting> {
        self.book.lock().rooms.entry(room).or_insert_with(|| watch::Sender::new(Meeting::default())).clone()
    }
}

impl Book {
    fn expire(&mut self) {
        let now = Instant::now();
        let before = self.kept.len();
        self.kept.retain(|_, kept| kept.until > now);
        self.totals.expired += (before - self.kept.len()) as u64;
    }
}
