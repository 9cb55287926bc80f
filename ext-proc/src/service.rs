//! Envoy's `ExternalProcessor`: carries messages between the wire, the exchange and the fleet.

mod answer;
pub(crate) mod inbound;
mod kept;
mod prefill;
mod prepared;
mod stream;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use scheduling::PoolName;
use tonic::{Request, Streaming};

use crate::duplicates::Duplicates;
use crate::exchange::{BodySend, Modes, Rules};
use crate::fleet::Fleet;
use crate::hold::Holder;
use crate::model_name::{ModelNameMetrics, ModelNames};
use crate::observer::Observer;
use crate::pools::POOL_METADATA;
use crate::prefill::{Alongside, Client};
use crate::read_once::ReadBodies;
use crate::tokens::Tokenizers;

pub use stream::ProcessStream;
use wire::{ProcessingRequest, Server};

/// gRPC metadata of Envoy's `ext_proc` filter that permits us to ask for a hidden body: set it to
/// `full-duplex` in `grpc_service.initial_metadata` where the filter has `allow_mode_override: true`
/// and `request_body_mode: NONE`. Whether an override is allowed cannot be seen on the wire, and
/// where it is not, asking would break the request.
pub const MODE_OVERRIDE_METADATA: &str = "x-kthena-mode-override";

/// gRPC metadata that says that the filter has `response_trailer_mode: SEND` (value `send`): then
/// the stream lives exactly as long as the HTTP request, and no load is held for an estimate.
pub const RESPONSE_TRAILERS_METADATA: &str = "x-kthena-response-trailers";

/// How the protocol behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Body mode of both directions where the data plane sends no `protocol_config`.
    pub body_mode_fallback: BodySend,
    /// The most bytes of a request body that are kept; a larger one is refused with 413.
    pub max_body_size: usize,
    /// How long an exchange may take from its first message to its answer.
    pub exchange_timeout: Duration,
    /// How long the prefill of one request may take, further tries included; less than `exchange_timeout`.
    pub prefill_timeout: Duration,
    /// How many addresses an answer lists at most. ORIGINAL_DST clusters take only one.
    pub destinations: usize,
    /// Whether Envoy shall choose the route again after the answer.
    pub clear_route_cache: bool,
    /// The only pool served; `None` to tell it from each stream.
    pub pool: Option<PoolName>,
    /// How long a request is remembered for streams that repeat it.
    pub duplicate_ttl: Duration,
    /// How many requests are remembered for that.
    pub duplicate_capacity: usize,
    /// How long load is held after a stream that ended early, before a duration was measured.
    pub hold_default: Duration,
    /// How many such counts are held.
    pub hold_capacity: usize,
    /// What turns prompts into token ids for scorers that want them; `None`: nothing does.
    pub tokenizers: Option<Arc<Tokenizers>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_mode_fallback: BodySend::FullDuplex,
            max_body_size: 16 << 20,
            exchange_timeout: Duration::from_secs(30),
            prefill_timeout: Duration::from_secs(20),
            destinations: 1,
            clear_route_cache: false,
            pool: None,
            duplicate_ttl: Duration::from_secs(2),
            duplicate_capacity: 1 << 16,
            hold_default: Duration::from_secs(5),
            hold_capacity: 1 << 16,
            tokenizers: None,
        }
    }
}

/// The picker as a gRPC service. Clones share everything.
///
/// Needs [`crate::pools::AuthorityLayer`] on the server to know pools by `:authority`, and
/// [`Holder::run`] and [`Alongside::run`] beside it.
#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<Shared>,
    bound: Option<PoolName>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    fleet: Arc<Fleet>,
    observer: Observer,
    duplicates: Duplicates,
    holder: Arc<Holder>,
    /// By the step before the route.
    read_before: Arc<ReadBodies>,
    prefill: Client,
    alongside: Arc<Alongside>,
}

impl Service {
    /// A service that decides by `fleet` and tells `observer`.
    #[must_use]
    pub fn new(settings: Settings, fleet: Arc<Fleet>, observer: Observer) -> Self {
        let duplicates = Duplicates::new(settings.duplicate_ttl, settings.duplicate_capacity);
        let holder = Arc::new(Holder::new(settings.hold_default, settings.hold_capacity));
        let bound = settings.pool.clone();
        let (read_before, prefill, alongside) = Default::default();
        let shared = Shared { settings, fleet, observer, duplicates, holder, read_before, prefill, alongside };
        Self { shared: Arc::new(shared), bound }
    }

    /// The same service for a listener whose port belongs to `pool`.
    #[must_use]
    pub fn bound_to(&self, pool: PoolName) -> Self {
        Self { shared: Arc::clone(&self.shared), bound: Some(pool) }
    }

    /// Keeps load whose stream ended early: run it beside the service.
    #[must_use]
    pub fn holder(&self) -> Arc<Holder> {
        Arc::clone(&self.shared.holder)
    }

    /// Finishes prefills whose stream ended early: run it beside the service.
    #[must_use]
    pub fn alongside(&self) -> Arc<Alongside> {
        Arc::clone(&self.shared.alongside)
    }

    /// The service for a tonic server, with room for a whole body in one message.
    #[must_use]
    pub fn into_server(self) -> Server {
        let limit = self.shared.settings.max_body_size;
        Server::new(self, limit)
    }

    /// The step before the route, by the same rules; this service does not read again what that one read.
    #[must_use]
    pub fn model_names(&self, metrics: Arc<ModelNameMetrics>) -> ModelNames {
        let Shared { fleet, read_before, .. } = &*self.shared;
        ModelNames::new(self.rules(false), Arc::clone(fleet), Arc::clone(read_before), metrics)
    }

    fn rules(&self, mode_override: bool) -> Rules {
        let Settings { body_mode_fallback, max_body_size, exchange_timeout, .. } = self.shared.settings;
        let fallback = Modes { request: body_mode_fallback, response: body_mode_fallback, body_without_waiting: true };
        Rules { fallback, mode_override, max_body_size, deadline: exchange_timeout }
    }

    /// One exchange.
    fn process(&self, request: Request<Streaming<ProcessingRequest>>) -> ProcessStream {
        let (metadata, mut extensions, inbound) = request.into_parts();
        let says = |key: &str, value: &str| {
            metadata.get(key).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
        };
        let hints = stream::Hints {
            bound: self.bound.clone(),
            metadata: metadata.get(POOL_METADATA).and_then(|name| name.to_str().ok()).map(str::to_owned),
            authority: extensions.remove::<Authority>(),
            lives_as_request: says(RESPONSE_TRAILERS_METADATA, "send"),
        };
        let rules = self.rules(says(MODE_OVERRIDE_METADATA, "full-duplex"));
        let observer = self.shared.observer.stream_opened(&metadata);
        ProcessStream::new(Arc::clone(&self.shared), inbound, rules, hints, observer)
    }
}
