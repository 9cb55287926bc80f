//! HTTP clients for engines: connections are made in bounded time, kept for a bounded time, and few.

use std::time::Duration;

use hyper::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How much of a connection's input may wait for us, in bytes.
const BUFFER: usize = 64 << 10;

/// What a client may do with its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections {
    /// How long one may take to be made.
    pub(crate) connect: Duration,
    /// How many to one engine are kept for the next call.
    pub(crate) idle: usize,
    /// How long they are kept.
    pub(crate) idle_time: Duration,
}

/// A client without any connection yet. Calls have their callers' deadlines.
pub(crate) fn engine_client<B>(connections: Connections) -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let Connections { connect, idle, idle_time } = connections;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle_time)
        .pool_max_idle_per_host(idle)
        .http1_max_buf_size(BUFFER)
        .build(connector)
}
