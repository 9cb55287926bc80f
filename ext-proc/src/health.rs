//! gRPC health, on a port of its own and on the ext_proc ports.
//!
//! Gateways and manifests probe many service names (``, `readiness`, `inference-extension`,
//! `envoy.service.ext_proc.v3.ExternalProcessor`, …): all mean readiness, except `liveness`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Whether the picker wants traffic. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

/// What readiness is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    known: bool,
    draining: bool,
}

impl State {
    fn ready(self) -> bool {
        self.known && !self.draining
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }
}

impl Readiness {
    /// The fleet is known: a decision can be made.
    pub fn fleet_known(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.known, true));
    }

    /// The process is about to end: traffic should go elsewhere. Never taken back.
    pub fn drain(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.draining, true));
    }

    /// Whether the picker wants traffic now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().ready()
    }

    /// Why not, where it does not.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match *self.state.borrow() {
            State { draining: true, .. } => "draining",
            State { known: false, .. } => "the fleet is not known yet",
            State { .. } => "ready",
        }
    }
}

/// The `grpc.health.v1.Health` service.
#[derive(Clone, Debug)]
pub struct HealthService {
    readiness: Readiness,
}

/// The service to mount.
#[must_use]
pub fn server(readiness: Readiness) -> HealthServer<HealthService> {
    HealthServer::new(HealthService { readiness })
}

fn answer(service: &str, state: State) -> HealthCheckResponse {
    let serving = service == "liveness" || state.ready();
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(answer(&request.get_ref().service, *self.readiness.state.borrow())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let mut last = None;
        let changes = WatchStream::new(self.readiness.state.subscribe())
            .map(move |state| answer(&service, state))
            .filter(move |answer| {
                let changed = last.replace(answer.status) != Some(answer.status);
                std::future::ready(changed)
            })
            .map(Ok);
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(service: &HealthService, name: &str) -> ServingStatus {
        let request = Request::new(HealthCheckRequest { service: name.to_owned() });
        service.check(request).await.unwrap().into_inner().status()
    }

    #[tokio::test]
    async fn every_name_is_readiness_and_only_liveness_outlives_the_drain() {
        let readiness = Readiness::default();
        let service = HealthService { readiness: readiness.clone() };
        let names = ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension", "any"];
        for name in names {
            assert_eq!(check(&service, name).await, ServingStatus::NotServing, "{name} before the fleet is known");
        }
        readiness.fleet_known();
        for name in names {
            assert_eq!(check(&service, name).await, ServingStatus::Serving, "{name}");
        }
        readiness.drain();
        for name in names {
            assert_eq!(check(&service, name).await, ServingStatus::NotServing, "{name} while draining");
        }
        assert_eq!(check(&service, "liveness").await, ServingStatus::Serving);
    }

    #[tokio::test]
    async fn a_watch_tells_each_change_once() {
        let readiness = Readiness::default();
        let service = HealthService { readiness: readiness.clone() };
        let request = Request::new(HealthCheckRequest::default());
        let mut watch = service.watch(request).await.unwrap().into_inner();
        let mut next = async || watch.next().await.unwrap().unwrap().status();
        assert_eq!(next().await, ServingStatus::NotServing);
        readiness.fleet_known();
        assert_eq!(next().await, ServingStatus::Serving);
        readiness.fleet_known();
        readiness.drain();
        assert_eq!(next().await, ServingStatus::NotServing);
    }
}
