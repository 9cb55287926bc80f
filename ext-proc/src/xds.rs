//! Endpoints for an Envoy that has no control plane: EDS on a delta ADS stream, on the ports of `ext_proc`.
//!
//! ```text
//! fleet ──> assignment of a pool ──> what a stream has not been told yet ──> Envoy's cluster
//! ```
//! | what | file |
//! |---|---|
//! | which endpoints of a pool Envoy may send to | `assignment.rs` |
//! | the delta protocol, without a socket | `subscriptions.rs` |
//!
//! Envoy keeps what it was told last when the picker is gone, so that it can go on without it.

mod assignment;
mod metrics;
mod subscriptions;

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use scheduling::PoolName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::fleet::Fleet;
pub use metrics::XdsMetrics;
use subscriptions::Subscriptions;

/// The endpoints of a fleet, for Envoys that follow them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Endpoints {
    fleet: Arc<Fleet>,
    bound: Option<PoolName>,
    metrics: Arc<XdsMetrics>,
    stop: CancellationToken,
}

impl Endpoints {
    /// The endpoints of `fleet`; those of `bound` where a name is no pool's. Its streams end with `stop`.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, bound: Option<PoolName>, metrics: Arc<XdsMetrics>, stop: CancellationToken) -> Self {
        Self { fleet, bound, metrics, stop }
    }

    /// The service for a tonic server.
    #[must_use]
    pub fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Endpoints {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("set `api_type: DELTA_GRPC` in Envoy's `ads_config`"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let follower = Follower {
            requests: request.into_inner(),
            declared: self.fleet.declared(),
            endpoints: self.clone(),
            subscriptions: Subscriptions::default(),
            _counted: self.metrics.stream(),
        };
        let answers = unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
        Ok(Response::new(answers.take_until(self.stop.clone().cancelled_owned()).boxed()))
    }
}

/// One Envoy, on its stream.
struct Follower {
    requests: Streaming<DeltaDiscoveryRequest>,
    declared: watch::Receiver<u64>,
    endpoints: Endpoints,
    subscriptions: Subscriptions,
    _counted: metrics::Stream,
}

impl Follower {
    /// The next answer, as soon as there is something new to say. Changes that come faster than Envoy reads become one.
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        let Endpoints { fleet, bound, metrics, stop: _ } = &self.endpoints;
        loop {
            tokio::select! {
                request = self.requests.next() => match request? {
                    Ok(request) => {
                        if let Some(error) = &request.error_detail {
                            metrics.refused();
                            warn!(error = %error.message, "An Envoy refused its endpoints and keeps those that it has.");
                        }
                        self.subscriptions.hear(request);
                    }
                    Err(error) => {
                        debug!(%error, "A stream of an Envoy ended.");
                        return None;
                    }
                },
                changed = self.declared.changed() => changed.ok()?,
            }
            // Before the snapshot is taken: what comes after it wakes this again.
            self.declared.mark_unchanged();
            if let Some(response) = self.subscriptions.answer(&fleet.snapshot(), bound.as_ref()) {
                metrics.updated();
                return Some(Ok(response));
            }
        }
    }
}
