//! EDS for the Envoys of Envoy Gateway: each stream follows the endpoints of what it names (xDS protocol, state of the
//! world: an answer holds all that is wanted, and the next request is its acknowledgement or refusal).

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_server::EndpointDiscoveryService;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use extension::endpoints::Subject;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use super::fleet::Fleet;
use crate::metrics::Metrics;

/// The most names on one stream: Envoy opens one for each cluster.
const NAMES: usize = 1024;

/// The EDS server.
#[derive(Debug)]
pub struct Endpoints {
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    shut: CancellationToken,
}

impl Endpoints {
    /// A server of what `fleet` knows; its streams end with `shut`.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, metrics: Arc<Metrics>, shut: CancellationToken) -> Self {
        Self { fleet, metrics, shut }
    }
}

#[tonic::async_trait]
impl EndpointDiscoveryService for Endpoints {
    type StreamEndpointsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaEndpointsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_endpoints(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamEndpointsStream>, Status> {
        let follower = Follower {
            requests: request.into_inner(),
            changes: self.fleet.changes(),
            fleet: Arc::clone(&self.fleet),
            metrics: Arc::clone(&self.metrics),
            wanted: BTreeSet::new(),
            sent: None,
            _counted: Counted::new(&self.metrics),
        };
        let answers = unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
        Ok(Response::new(answers.take_until(self.shut.clone().cancelled_owned()).boxed()))
    }

    async fn delta_endpoints(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaEndpointsStream>, Status> {
        Err(Status::unimplemented("ask with api_type GRPC"))
    }

    async fn fetch_endpoints(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("ask with api_type GRPC"))
    }
}

/// One Envoy's interest in some endpoints.
struct Follower {
    requests: Streaming<DiscoveryRequest>,
    changes: watch::Receiver<u64>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    wanted: BTreeSet<Subject>,
    /// What Envoy was told last of what it wants now.
    sent: Option<Vec<Any>>,
    _counted: Counted,
}

impl Follower {
    /// The next answer: as soon as there is one, and it says something new. Changes that come faster than Envoy reads
    /// become one.
    async fn next(&mut self) -> Option<Result<DiscoveryResponse, Status>> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request? {
                    Ok(request) => self.hear(request),
                    Err(error) => {
                        debug!(%error, "A stream of an Envoy ended.");
                        return None;
                    }
                },
                changed = self.changes.changed(), if !self.wanted.is_empty() => changed.ok()?,
            }
            let version = *self.changes.borrow_and_update();
            let all =
                self.wanted.iter().map(|subject| self.fleet.endpoints(subject).map(pack_any::<ClusterLoadAssignment>));
            let Some(resources) = all.collect::<Option<Vec<Any>>>() else { continue };
            if self.wanted.is_empty() || self.sent.as_ref() == Some(&resources) {
                continue;
            }
            self.sent = Some(resources.clone());
            self.metrics.endpoint_updates.inc();
            return Some(Ok(DiscoveryResponse {
                version_info: version.to_string(),
                nonce: version.to_string(),
                type_url: <ClusterLoadAssignment as prost::Name>::type_url(),
                resources,
                ..DiscoveryResponse::default()
            }));
        }
    }

    fn hear(&mut self, request: DiscoveryRequest) {
        if let Some(error) = request.error_detail {
            self.metrics.endpoint_refusals.inc();
            warn!(wanted = ?self.wanted, error = %error.message, "An Envoy refused its endpoints and keeps those that it has.");
        }
        let mut wanted = BTreeSet::new();
        for name in request.resource_names.iter().take(NAMES) {
            match name.parse() {
                Ok(subject) => drop(wanted.insert(subject)),
                Err(error) => debug!(%error, "An Envoy asks for what is not served here."),
            }
        }
        if wanted != self.wanted {
            self.wanted = wanted;
            self.sent = None;
        }
    }
}

/// A stream, as long as it lives.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.endpoint_streams.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.endpoint_streams.dec();
    }
}
