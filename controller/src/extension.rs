//! The port that Envoy Gateway and its Envoys call, so that an HTTPRoute may name an InferencePool.
//!
//! Envoy Gateway asks while it translates ([`hooks`]); what it is answered is decided in the crate `extension`. It
//! translates again only when an object changes that it watches, and pods are none: therefore its Envoys get the
//! endpoints of pools and pickers from here, by EDS ([`endpoints`]), as soon as the watches tell of them ([`fleet`]).
//! Every replica answers, whether it leads or not.

pub mod endpoints;
pub mod fleet;
pub mod hooks;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_server::EndpointDiscoveryServiceServer;
use extension::translate::Settings;
use proto::envoy_gateway::envoy_gateway_extension_server::EnvoyGatewayExtensionServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::observe::Observer;
use endpoints::Endpoints;
use fleet::Fleet;
use hooks::Hooks;

/// What `/readyz` waits for.
pub const POOLS: &str = "PoolOfExtension";

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most that a translation may be. Envoy Gateway itself sends at most 4 MiB, unless `maxMessageSize` says more.
const LARGEST: usize = 64 << 20;
/// An Envoy has a stream for each of its clusters.
const STREAMS: u32 = 4096;
/// Finds Envoys that went without a word.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Watches and answers until `shut`.
///
/// # Errors
/// When the port fails.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    observer: Observer,
    shut: CancellationToken,
) -> anyhow::Result<()> {
    let fleet = Arc::<Fleet>::default();
    let hooks = Hooks::new(settings, Arc::clone(&observer.metrics));
    let endpoints = Endpoints::new(Arc::clone(&fleet), Arc::clone(&observer.metrics), shut.clone());
    let server = Server::builder()
        .timeout(DEADLINE)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(EnvoyGatewayExtensionServer::new(hooks).max_decoding_message_size(LARGEST))
        .add_service(EndpointDiscoveryServiceServer::new(endpoints))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shut.cancelled_owned());
    tokio::select! {
        ended = server => Ok(ended?),
        () = observer.pools_and_pickers(fleet) => Ok(()),
    }
}
