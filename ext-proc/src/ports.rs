//! The ports of the process.

use std::net::SocketAddr;

use anyhow::Context;
use scheduling::PoolName;
use tokio::net::TcpListener;
use tracing::info;

/// Where the picker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// `ext_proc`.
    pub grpc: SocketAddr,
    /// `ext_proc` for one pool each (`--pool-port`).
    pub pools: Vec<(PoolName, SocketAddr)>,
    /// The step before the route (`--model-name-port`).
    pub model_name: Option<SocketAddr>,
    /// gRPC health.
    pub grpc_health: SocketAddr,
    /// `/metrics`, `/healthz`, `/readyz`.
    pub metrics: SocketAddr,
    /// The debug page, on loopback.
    pub debug: SocketAddr,
}

/// What is bound.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The first is the one without a pool.
    pub(crate) grpc: Vec<(Option<PoolName>, TcpListener)>,
    pub(crate) model_name: Option<TcpListener>,
    pub(crate) grpc_health: TcpListener,
    pub(crate) metrics: TcpListener,
    pub(crate) debug: TcpListener,
    /// One for each rank, where engines connect; `None`: they are connected to.
    pub(crate) kv_events: Option<Vec<TcpListener>>,
}

impl Listeners {
    /// Where.
    pub(crate) fn addresses(&self) -> anyhow::Result<Addresses> {
        // Ports for KV events are never 0.
        let Self { grpc, model_name, grpc_health, metrics, debug, kv_events: _ } = self;
        let mut first = None;
        let mut pools = Vec::new();
        for (pool, listener) in grpc {
            match pool {
                Some(pool) => pools.push((pool.clone(), listener.local_addr()?)),
                None => first = Some(listener.local_addr()?),
            }
        }
        Ok(Addresses {
            grpc: first.context("no ext_proc port")?,
            pools,
            model_name: model_name.as_ref().map(TcpListener::local_addr).transpose()?,
            grpc_health: grpc_health.local_addr()?,
            metrics: metrics.local_addr()?,
            debug: debug.local_addr()?,
        })
    }
}

impl Addresses {
    /// The first log line: whoever starts the picker with ports of 0 reads them here.
    pub(crate) fn log(&self) {
        // Not `debug`: the log macro has a function of that name.
        let Self { grpc, pools, model_name, grpc_health, metrics, debug: debug_address } = self;
        let pools: Vec<String> = pools.iter().map(|(pool, address)| format!("{pool}={address}")).collect();
        info!(
            grpcAddress = %grpc,
            grpcHealthAddress = %grpc_health,
            metricsAddress = %metrics,
            debugAddress = %debug_address,
            poolAddresses = pools.join(","),
            modelNameAddress = model_name.map(tracing::field::display),
            "Listening."
        );
    }
}
