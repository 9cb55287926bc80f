//! The data plane's side of a stream, and what a test wants to know of the answers.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, CommonResponse, ImmediateResponse, ProcessingRequest, ProcessingResponse, StreamedBodyResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

const DESTINATION: &str = "x-gateway-destination-endpoint";
const PATIENCE: Duration = Duration::from_secs(10);

/// One stream to the picker.
pub(crate) struct Stream {
    say: Option<mpsc::Sender<ProcessingRequest>>,
    hear: Streaming<ProcessingResponse>,
}

pub(crate) async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A connection whose `:authority` is `authority`.
pub(crate) async fn connect_as(address: SocketAddr, authority: &str) -> Channel {
    let origin = format!("http://{authority}").parse().unwrap();
    Endpoint::from_shared(format!("http://{address}")).unwrap().origin(origin).connect().await.unwrap()
}

impl Stream {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::on(&connect(address).await, &[]).await
    }

    /// A stream with gRPC metadata on a connection that is there.
    pub(crate) async fn on(channel: &Channel, metadata: &[(&'static str, &str)]) -> Self {
        let (say, messages) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(messages));
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let mut client = ExternalProcessorClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let hear = client.process(request).await.unwrap().into_inner();
        Self { say: Some(say), hear }
    }

    pub(crate) async fn say(&self, message: ProcessingRequest) {
        self.try_say(message).await.expect("the picker no longer listens");
    }

    /// Fails when the picker has ended the stream.
    pub(crate) async fn try_say(&self, message: ProcessingRequest) -> Result<(), ()> {
        let say = self.say.as_ref().expect("half-closed");
        tokio::time::timeout(PATIENCE, say.send(message)).await.expect("the picker does not read").map_err(drop)
    }

    pub(crate) fn half_close(&mut self) {
        self.say = None;
    }

    async fn next(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.hear.message()).await.expect("the picker says nothing")
    }

    pub(crate) async fn hear(&mut self) -> ProcessingResponse {
        self.next().await.unwrap().expect("the stream ended")
    }

    /// The stream ends cleanly, without a further word.
    pub(crate) async fn ends(&mut self) {
        let next = self.next().await;
        assert!(matches!(next, Ok(None)), "{next:?}");
    }

    /// The stream ends with an error.
    pub(crate) async fn fails(&mut self) -> Status {
        self.next().await.expect_err("the stream goes on")
    }

    /// The answer in the headers' response: its destination.
    pub(crate) async fn destination(&mut self) -> String {
        destination(&self.hear().await)
    }

    /// The body that comes back in full duplex, and the size of each chunk.
    pub(crate) async fn body(&mut self) -> (Vec<u8>, Vec<usize>) {
        let (mut whole, mut sizes) = (Vec::new(), Vec::new());
        loop {
            let StreamedBodyResponse { body, end_of_stream, .. } = chunk(&self.hear().await);
            whole.extend_from_slice(&body);
            sizes.push(body.len());
            if end_of_stream {
                return (whole, sizes);
            }
        }
    }

    /// A refusal: its status and its body.
    pub(crate) async fn refusal(&mut self) -> (i32, serde_json::Value) {
        let ImmediateResponse { status, body, .. } = immediate(&self.hear().await);
        (status.unwrap().code, serde_json::from_slice(&body).unwrap())
    }
}

/// The common part of a headers or body response; empty when there is none.
pub(crate) fn common(response: &ProcessingResponse) -> CommonResponse {
    match response.response.clone() {
        Some(Part::RequestHeaders(part)) => part.response,
        Some(Part::RequestBody(part)) => part.response,
        other => panic!("neither headers nor body: {other:?}"),
    }
    .unwrap_or_default()
}

/// Name and value of every header that a response sets.
pub(crate) fn set_headers(response: &ProcessingResponse) -> Vec<(String, String)> {
    let mutation = common(response).header_mutation.unwrap_or_default();
    let headers = mutation.set_headers.into_iter().map(|option| {
        let header = option.header.unwrap();
        assert_eq!(header.value, "", "only raw_value is set");
        assert_eq!(option.append_action, 2, "OVERWRITE_IF_EXISTS_OR_ADD");
        (header.key, String::from_utf8(header.raw_value).unwrap())
    });
    headers.collect()
}

/// The destination, which must be the same in header and metadata.
pub(crate) fn destination(response: &ProcessingResponse) -> String {
    let headers = set_headers(response);
    let (_, header) = headers.iter().find(|(name, _)| name == DESTINATION).expect("no destination header");
    let metadata = response.dynamic_metadata.as_ref().expect("no metadata");
    let Some(Kind::StructValue(lb)) = &metadata.fields["envoy.lb"].kind else { panic!("{metadata:?}") };
    let Some(Kind::StringValue(value)) = &lb.fields[DESTINATION].kind else { panic!("{metadata:?}") };
    assert_eq!(header, value, "header and metadata differ");
    value.clone()
}

pub(crate) fn chunk(response: &ProcessingResponse) -> StreamedBodyResponse {
    let (Some(Part::RequestBody(BodyResponse { response: Some(common) }))
    | Some(Part::ResponseBody(BodyResponse { response: Some(common) }))) = response.response.clone()
    else {
        panic!("no body: {response:?}")
    };
    match common.body_mutation.and_then(|body| body.mutation) {
        Some(Mutation::StreamedResponse(chunk)) => chunk,
        other => panic!("no chunk: {other:?}"),
    }
}

pub(crate) fn immediate(response: &ProcessingResponse) -> ImmediateResponse {
    match response.response.clone() {
        Some(Part::ImmediateResponse(immediate)) => immediate,
        other => panic!("no immediate response: {other:?}"),
    }
}
