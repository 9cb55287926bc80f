//! Endpoints over a delta ADS stream, as Envoy asks for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use kthena_ext_proc::args::TlsMode;
use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::listen::connections;
use kthena_ext_proc::xds::Endpoints;
use prost::Name as _;
use scheduling::{Event, Profile};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Server};

use crate::picker::{declared, pool};

struct Source {
    address: SocketAddr,
    fleet: Arc<Fleet>,
    stop: CancellationToken,
    _server: JoinSet<()>,
}

impl Source {
    async fn of(endpoints: &[&str]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fleet, stop) = (Arc::new(Fleet::new(Profile::default())), CancellationToken::new());
        let service = Endpoints::new(Arc::clone(&fleet), None, Arc::default(), stop.clone());
        let server = Server::builder().add_service(service.into_server()).serve_with_incoming(connections(
            listener,
            None,
            TlsMode::Off,
        ));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        let source = Self { address, fleet, stop, _server: tasks };
        source.declare(endpoints);
        source
    }

    fn declare(&self, endpoints: &[&str]) {
        self.fleet.apply(Event::Declared(declared(&[pool("default", "llama", endpoints)])));
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    async fn open(&self) -> (UnboundedSender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
        let (say, said) = tokio::sync::mpsc::unbounded_channel();
        let request = UnboundedReceiverStream::new(said);
        (say, self.client().await.delta_aggregated_resources(request).await.unwrap().into_inner())
    }
}

fn subscribe(name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ClusterLoadAssignment::type_url(),
        resource_names_subscribe: vec![name.to_owned()],
        ..DeltaDiscoveryRequest::default()
    }
}

async fn next(stream: &mut Streaming<DeltaDiscoveryResponse>) -> Option<DeltaDiscoveryResponse> {
    tokio::time::timeout(Duration::from_secs(5), stream.message()).await.expect("an answer in time").unwrap()
}

#[tokio::test]
async fn a_refusal_is_not_answered_and_the_next_change_is_told_all_the_same() {
    let source = Source::of(&["127.0.0.9:8000"]).await;
    let (say, mut stream) = source.open().await;
    say.send(subscribe("default/llama")).unwrap();
    let first = next(&mut stream).await.unwrap();
    let error_detail = Some(rpc::Status { message: "no".to_owned(), ..rpc::Status::default() });
    let refusal = DeltaDiscoveryRequest { response_nonce: first.nonce, error_detail, ..subscribe("") };
    say.send(DeltaDiscoveryRequest { resource_names_subscribe: Vec::new(), ..refusal }).unwrap();
    source.declare(&["127.0.0.9:8000", "127.0.0.10:8000"]);
    let second = next(&mut stream).await.unwrap();
    assert_ne!(second.resources[0].version, first.resources[0].version);
}

#[tokio::test]
async fn the_stream_of_a_picker_that_stops_ends_and_does_not_hold_it_up() {
    let source = Source::of(&["127.0.0.9:8000"]).await;
    let (say, mut stream) = source.open().await;
    say.send(subscribe("default/llama")).unwrap();
    next(&mut stream).await.unwrap();
    source.stop.cancel();
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn who_asks_for_the_state_of_the_world_is_told_what_to_set() {
    let source = Source::of(&[]).await;
    let asked = tokio_stream::once(DiscoveryRequest::default());
    let status = source.client().await.stream_aggregated_resources(asked).await.unwrap_err();
    assert!(status.message().contains("DELTA_GRPC"), "{status}");
}
