//! Clients that ask one request after the other, and what became of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::client::{Client, Reply};
use crate::poll;

const CLIENTS: usize = 4;
/// A client waits this long at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of requests so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Who answered, in this order.
    pub(super) answered: Vec<SocketAddr>,
    pub(super) failed: Vec<String>,
}

/// Asks until it is dropped or stopped.
pub(super) struct Load {
    tally: Arc<Mutex<Tally>>,
    done: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    pub(super) fn start(gateway: SocketAddr, model: &'static str) -> Self {
        let (tally, done) = (Arc::<Mutex<Tally>>::default(), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (tally, done, client) = (Arc::clone(&tally), Arc::clone(&done), Client::new(gateway));
            clients.spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let outcome = ask(&client, model).await;
                    let mut tally = tally.lock();
                    match outcome.and_then(|reply| served(&reply)) {
                        Ok(engine) => tally.answered.push(engine),
                        Err(error) => tally.failed.push(format!("{error:#}")),
                    }
                }
            });
        }
        Self { tally, done, clients }
    }

    /// Waits for so many answers more.
    pub(super) async fn wait_for(&self, more: usize) -> Result<()> {
        let until = self.tally.lock().answered.len() + more;
        poll::until("requests to be answered meanwhile", PATIENCE, async || {
            (self.tally.lock().answered.len() >= until).then_some(())
        })
        .await
    }

    /// Lets the last requests end.
    pub(super) async fn stop(mut self) -> Tally {
        self.done.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let tally = self.tally.lock();
        tally.clone()
    }
}

/// A streamed answer to a prompt that no other begins like, long enough to be prefilled apart.
pub(super) async fn ask(client: &Client, model: &str) -> Result<Reply> {
    let prompt: String = (0..60).map(|_| format!("{:x} ", rand::random::<u64>())).collect();
    let call = client.chat(model, &[("user", &prompt)]).stream(true).max_tokens(16);
    tokio::time::timeout(PATIENCE, call.send()).await.context("no answer")?
}

/// Who answered, to the end.
pub(super) fn served(reply: &Reply) -> Result<SocketAddr> {
    anyhow::ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
    anyhow::ensure!(reply.text().ends_with("data: [DONE]\n\n"), "an answer without its end");
    reply.engine().context("no engine answered")
}
