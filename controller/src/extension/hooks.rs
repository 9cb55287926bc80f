//! What Envoy Gateway calls. Nothing is decided here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use extension::mark::mark;
use extension::pool::Pool;
use extension::shares::Shares;
use extension::translate::{Resources, Settings, translate};
use parking_lot::Mutex;
use proto::envoy_gateway::envoy_gateway_extension_server::EnvoyGatewayExtension;
use proto::envoy_gateway::{
    PostClusterModifyRequest, PostClusterModifyResponse, PostEndpointsModifyRequest, PostEndpointsModifyResponse,
    PostHttpListenerModifyRequest, PostHttpListenerModifyResponse, PostRouteModifyRequest, PostRouteModifyResponse,
    PostTranslateModifyRequest, PostTranslateModifyResponse, PostVirtualHostModifyRequest,
    PostVirtualHostModifyResponse,
};
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// Weights are asked for right after they were told.
const FRESH: Duration = Duration::from_secs(30);
/// The most rules whose weights wait to be asked for, and warnings that are not repeated.
const REMEMBERED: usize = 4096;

/// The extension.
#[derive(Debug)]
pub struct Hooks {
    settings: Settings,
    metrics: Arc<Metrics>,
    /// By cluster, until its pools are told.
    shares: Mutex<HashMap<String, (Instant, Shares)>>,
    warned: Mutex<HashSet<String>>,
}

impl Hooks {
    /// An extension of these settings.
    #[must_use]
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self { settings, metrics, shares: Mutex::default(), warned: Mutex::default() }
    }

    fn warn(&self, what: String) {
        let mut warned = self.warned.lock();
        if warned.len() >= REMEMBERED {
            warned.clear();
        }
        if !warned.contains(&what) {
            warn!("{what}");
            warned.insert(what);
        }
    }

    /// Counts the answer, and says a refusal: nothing is published until it is answered otherwise.
    fn answer<T>(&self, hook: &'static str, result: Result<T, impl ToString>) -> Result<Response<T>, Status> {
        self.metrics.hooked(hook, if result.is_ok() { "ok" } else { "refused" });
        result.map(Response::new).map_err(|error| {
            let error = error.to_string();
            self.warn(format!("Envoy Gateway's {hook} is refused, and it publishes nothing: {error}"));
            Status::failed_precondition(error)
        })
    }

    fn told(&self, load_assignment: &[u8]) -> Result<(), extension::Malformed> {
        let (cluster, shares) = Shares::read(load_assignment)?;
        let mut known = self.shares.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, (told, _)| told.elapsed() < FRESH);
        }
        if shares.pools.is_empty() || known.len() >= REMEMBERED {
            known.remove(&cluster);
        } else {
            known.insert(cluster, (Instant::now(), shares));
        }
        Ok(())
    }

    fn marked(&self, request: PostClusterModifyRequest) -> anyhow::Result<PostClusterModifyResponse> {
        let mut pools = Vec::new();
        for resource in request.post_cluster_context.into_iter().flat_map(|all| all.backend_extension_resources) {
            let Some((pool, ignored)) = Pool::read(&resource.unstructured_bytes)? else { continue };
            pools.push(pool);
            ignored.into_iter().for_each(|what| self.warn(what));
        }
        let name = extension::mark::name(request.cluster.clone())?;
        let shares = self.shares.lock().remove(&name).filter(|(told, _)| told.elapsed() < FRESH);
        let cluster = mark(request.cluster, pools, shares.as_ref().map(|(_, shares)| shares))
            .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        Ok(PostClusterModifyResponse { cluster: Some(cluster) })
    }

    fn translated(&self, request: PostTranslateModifyRequest) -> anyhow::Result<PostTranslateModifyResponse> {
        let start = Instant::now();
        let PostTranslateModifyRequest { clusters, secrets, listeners, routes, .. } = request;
        let made = translate(&self.settings, Resources { clusters, listeners, routes })?;
        let Resources { clusters, listeners, routes } = made;
        debug!(clusters = clusters.len(), listeners = listeners.len(), took = ?start.elapsed(), "A gateway was translated.");
        Ok(PostTranslateModifyResponse { clusters, secrets, listeners, routes })
    }
}

#[tonic::async_trait]
impl EnvoyGatewayExtension for Hooks {
    async fn post_endpoints_modify(
        &self,
        request: Request<PostEndpointsModifyRequest>,
    ) -> Result<Response<PostEndpointsModifyResponse>, Status> {
        let told = self.told(&request.into_inner().load_assignment);
        self.answer("endpoints", told.map(|()| PostEndpointsModifyResponse::default()))
    }

    async fn post_cluster_modify(
        &self,
        request: Request<PostClusterModifyRequest>,
    ) -> Result<Response<PostClusterModifyResponse>, Status> {
        self.answer("cluster", self.marked(request.into_inner()))
    }

    async fn post_translate_modify(
        &self,
        request: Request<PostTranslateModifyRequest>,
    ) -> Result<Response<PostTranslateModifyResponse>, Status> {
        self.answer("translation", self.translated(request.into_inner()))
    }

    async fn post_route_modify(
        &self,
        _: Request<PostRouteModifyRequest>,
    ) -> Result<Response<PostRouteModifyResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn post_virtual_host_modify(
        &self,
        _: Request<PostVirtualHostModifyRequest>,
    ) -> Result<Response<PostVirtualHostModifyResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn post_http_listener_modify(
        &self,
        _: Request<PostHttpListenerModifyRequest>,
    ) -> Result<Response<PostHttpListenerModifyResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}
