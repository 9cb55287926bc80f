//! The step before the route: says a request's model in a header, so that a plain HTTPRoute can match on it.
//!
//! ```text
//! client ──> Envoy ── ext_proc: this step ──> route by x-gateway-model-name ── ext_proc: the pick ──> engine
//! ```
//! Envoy chooses a route by headers, and an OpenAI request says its model in the body. This step reads the body, sets
//! the headers and asks Envoy to choose the route again. It refuses nothing but what is too large or too slow: a body
//! that is wrong is refused by the pick, which knows the pool. A gateway that trusts these headers has them from here
//! alone: what a client wrote there is overwritten or removed.

mod base_models;
mod metrics;
mod stream;

use std::sync::Arc;
use std::time::Instant;

use tonic::{Request, Streaming};

use crate::exchange::{Answer, Rules};
use crate::fleet::Fleet;
use crate::openai;
use crate::read_once::{self, ReadBodies};
use crate::service::wire::{ProcessingRequest, Server};
use base_models::BaseModels;
pub use metrics::ModelNameMetrics;
pub use stream::NameStream;

/// The model that the request names: an adapter's name too (the Inference Extension's body-based routing).
pub const MODEL: &str = "x-gateway-model-name";
/// The base model of that model; itself, unless a ModelRoute lists it among its `loraAdapters`.
pub const BASE_MODEL: &str = "x-gateway-base-model-name";

/// The longest name that is said: Envoy's limit for all headers together is 60 KiB by default.
const LONGEST: usize = 1024;

/// The step as a gRPC service. Clones share everything.
#[derive(Clone, Debug)]
pub struct ModelNames {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rules: Rules,
    fleet: Arc<Fleet>,
    base_models: BaseModels,
    /// For the pick, where it is asked in this process.
    read: Arc<ReadBodies>,
    metrics: Arc<ModelNameMetrics>,
}

impl ModelNames {
    /// A step that knows the base models of `fleet`'s ModelRoutes, and keeps in `read` what it read.
    #[must_use]
    pub fn new(rules: Rules, fleet: Arc<Fleet>, read: Arc<ReadBodies>, metrics: Arc<ModelNameMetrics>) -> Self {
        Self { shared: Arc::new(Shared { rules, fleet, base_models: BaseModels::default(), read, metrics }) }
    }

    /// The service for a tonic server, with room for a whole body in one message.
    #[must_use]
    pub fn into_server(self) -> Server<Self> {
        let limit = self.shared.rules.max_body_size;
        Server::new(self, limit)
    }

    /// One exchange.
    pub(crate) fn process(&self, request: Request<Streaming<ProcessingRequest>>) -> NameStream {
        NameStream::new(Arc::clone(&self.shared), request.into_inner())
    }
}

impl Shared {
    /// What is said of a body of which this was read.
    fn answer_to(&self, read: openai::Parsed<'_>, body: &[u8], given: Vec<&'static str>) -> Answer {
        let mut answer = self.answer(Some(&read.body.model), given);
        if body.len() >= read_once::WORTH && !answer.set.is_empty() {
            let token = self.read.keep(read.detach(body), Instant::now());
            answer.set.extend(token.map(|token| (read_once::TOKEN, token)));
        }
        answer
    }

    /// The headers for a request that names `model`; `given` are those of ours that the client sent.
    fn answer(&self, model: Option<&str>, given: Vec<&'static str>) -> Answer {
        let Some(model) = model.filter(|model| can_be_said(model)) else {
            let clear_route_cache = !given.is_empty();
            return Answer { remove: given, clear_route_cache, ..Answer::default() };
        };
        let base = self.base_models.of(&self.fleet.snapshot(), model);
        let base = base.filter(|base| can_be_said(base)).map_or_else(|| model.to_owned(), |base| base.to_string());
        let set = vec![(MODEL, model.to_owned()), (BASE_MODEL, base)];
        Answer { set, clear_route_cache: true, ..Answer::default() }
    }
}

/// Envoy takes no control characters in a header, and a JSON string may have any.
fn can_be_said(model: &str) -> bool {
    !model.is_empty() && model.len() <= LONGEST && !model.chars().any(char::is_control) && model.trim() == model
}

#[cfg(test)]
mod tests;
