//! A closed loop: so many keep-alive connections, each with one request in flight.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::TcpStream;

/// Different bodies per size.
const BODIES: usize = 64;
pub(crate) const WORDS: &[&str] = &[
    "the", "cache", "engine", "of", "prompt", "answer", "with", "tokens", "a", "request", "under", "load", "model",
    "in", "prefill", "decode", "and", "batch", "to", "endpoint",
];

/// Chat requests of `bytes` bytes each: a system prompt that all share is half of it.
pub(crate) fn bodies(bytes: usize) -> Rc<[Bytes]> {
    let mut rng = SmallRng::seed_from_u64(bytes as u64);
    let shell = |system: &str, user: &str| {
        let messages = format!(r#"[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{user}"}}]"#,);
        format!(r#"{{"model":"bench","messages":{messages},"max_tokens":16,"temperature":0.7}}"#)
    };
    let room = bytes - shell("", "").len();
    let system = text(&mut rng, room / 2);
    (0..BODIES).map(|_| shell(&system, &text(&mut rng, room - room / 2)).into()).collect()
}

fn text(rng: &mut SmallRng, bytes: usize) -> String {
    let mut text = format!("{:08x}", rng.random::<u32>());
    while text.len() < bytes {
        text.push(' ');
        text.push_str(WORDS.choose(rng).unwrap_or(&""));
    }
    text.truncate(bytes);
    text
}

/// Requests answered so far; dropping it ends the load.
#[derive(Debug)]
pub(crate) struct Load {
    answered: Rc<Cell<u64>>,
    connections: tokio::task::JoinSet<Result<()>>,
}

impl Load {
    /// Opens `connections` to `gateway` and keeps each of them busy. Needs a `LocalSet`.
    pub(crate) fn start(gateway: SocketAddr, bodies: &Rc<[Bytes]>, connections: usize) -> Self {
        let answered = Rc::new(Cell::new(0));
        let mut set = tokio::task::JoinSet::new();
        for offset in 0..connections {
            let bodies = Rc::clone(bodies);
            set.spawn_local(keep_busy(gateway, bodies, offset, Rc::clone(&answered)));
        }
        Self { answered, connections: set }
    }

    /// Requests answered so far.
    ///
    /// # Errors
    /// When a connection has failed: figures of a broken run mean nothing.
    pub(crate) fn answered(&mut self) -> Result<u64> {
        if let Some(ended) = self.connections.try_join_next() {
            ended.context("a connection's task died")??;
        }
        Ok(self.answered.get())
    }
}

async fn keep_busy(gateway: SocketAddr, bodies: Rc<[Bytes]>, offset: usize, answered: Rc<Cell<u64>>) -> Result<()> {
    let stream = TcpStream::connect(gateway).await.with_context(|| format!("cannot reach Envoy at {gateway}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let requests = async move {
        for body in bodies.iter().cycle().skip(offset) {
            let request = Request::builder()
                .method(Method::POST)
                .uri("/v1/chat/completions")
                .header("host", "bench")
                .header("content-type", "application/json")
                .body(Full::new(body.clone()))?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let answer = response.into_body().collect().await?.to_bytes();
            ensure!(status == StatusCode::OK, "Envoy answered {status}: {}", String::from_utf8_lossy(&answer));
            answered.set(answered.get() + 1);
        }
        Ok(())
    };
    tokio::select! {
        ended = connection => Ok(ended?),
        done = requests => done,
    }
}
