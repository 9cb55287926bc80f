//! Whose tokenizer a request's prompt needs, and whose cache its blocks are in.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduling::{EngineKind, Pool, PoolName, Request, Resolution};

use super::{Blocks, Tokenizers, Tokens};
use crate::fleet::Fleet;
use crate::openai::PromptMembers;

/// Whose tokenizer is meant.
#[derive(Clone, Debug, Default)]
pub struct Whose {
    /// Names of the model, the first that has a tokenizer counts: the engine's, the client's, the base model's.
    pub models: Vec<String>,
    /// An engine that can be asked; it must serve the model under the name in the body.
    pub engine: Option<SocketAddr>,
}

/// A prompt in tokens, and the adapter that it is for.
#[derive(Debug)]
pub struct InTokens {
    tokens: Tokens,
    lora: Option<String>,
}

impl InTokens {
    /// As the brain wants it.
    #[must_use]
    pub fn view(&self) -> scheduling::Tokens<'_> {
        let Tokens { ids, salt, keys, source: _ } = &self.tokens;
        scheduling::Tokens { ids, lora: self.lora.as_deref(), salt: salt.as_deref(), keys }
    }
}

/// A request whose prompt is wanted in tokens.
#[derive(Debug)]
pub struct Asking {
    tokenizers: Arc<Tokenizers>,
    whose: Whose,
    blocks: Blocks,
    /// The route and server that the tokens are for: the decision has to be about the same.
    pub resolution: Option<Resolution>,
}

impl Asking {
    /// What to ask for `request`, where the profile wants tokens and the request has a prompt.
    #[must_use]
    pub fn of(
        tokenizers: Option<&Arc<Tokenizers>>,
        fleet: &Fleet,
        pool: &PoolName,
        request: &Request<'_>,
    ) -> Option<Self> {
        let tokenizers = tokenizers.filter(|_| is_wanted(fleet, request.path))?;
        let snapshot = fleet.snapshot();
        let pool = snapshot.pools.get(pool)?;
        let resolution = pool.routing.resolve(request, &mut SmallRng::from_os_rng()).ok()?;
        let (whose, lora) = whose(pool, request.model()?, resolution.as_ref());
        let blocks = Blocks { sizes: snapshot.block_sizes(pool), lora };
        Some(Self { tokenizers: Arc::clone(tokenizers), whose, blocks, resolution })
    }

    /// The tokens of the request with this body, or none: the metric says why. Waits for a bounded time.
    pub async fn tokens(&self, body: &[u8], members: Option<&PromptMembers>) -> Option<InTokens> {
        let tokens = self.tokenizers.tokens(body, members, &self.whose, &self.blocks).await.ok()?;
        Some(InTokens { tokens, lora: self.blocks.lora.clone() })
    }
}

/// Whether requests for `path` are compared by their tokens.
#[must_use]
pub fn is_wanted(fleet: &Fleet, path: &str) -> bool {
    path.ends_with("/completions") && fleet.profile().uses_kv_events()
}

/// Whose tokenizer a request for `model` needs, and which adapter it is for.
fn whose(pool: &Pool, model: &str, resolution: Option<&Resolution>) -> (Whose, Option<String>) {
    let rewritten = resolution.and_then(|resolution| resolution.rewrite_model(model));
    let served = rewritten.as_deref().unwrap_or(model);
    let base = match resolution {
        Some(resolution) => resolution.server.model.as_deref(),
        None => first_model(pool),
    };
    let is_adapter = match resolution {
        Some(resolution) => resolution.adapter,
        // An engine lists its own model before its adapters. Another name of it then passes for an adapter, of
        // which nothing is cached: an error, but not one that believes in blocks that are not there.
        None => base.is_some_and(|base| base != served),
    };
    let mut models = vec![served.to_owned(), model.to_owned()];
    models.extend(base.map(str::to_owned));
    // The body goes to the engine as it is: where the name in it changes, the engine would not know it.
    let engine = if served == model { least_loaded(pool) } else { None };
    (Whose { models, engine }, is_adapter.then(|| served.to_owned()))
}

/// The model that the pool's engines say they serve.
fn first_model(pool: &Pool) -> Option<&str> {
    let mut models = pool.endpoints.iter().filter_map(|endpoint| endpoint.gauges.as_ref()?.models.as_ref()?.first());
    models.next().map(AsRef::as_ref)
}

/// An engine that can be asked: vLLM's `/tokenize` reads what its completions read.
fn least_loaded(pool: &Pool) -> Option<SocketAddr> {
    let ready = pool.endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.engine == EngineKind::Vllm);
    ready.min_by_key(|endpoint| endpoint.load.requests()).map(|endpoint| endpoint.address)
}

#[cfg(test)]
mod tests {
    use scheduling::{Gauges, Moment};

    use super::*;
    use crate::fleet::fixtures;

    #[test]
    fn an_adapter_has_the_tokenizer_of_its_base_and_a_cache_of_its_own() {
        let fleet = fixtures::fleet(&["10.0.0.1:8000"]);
        let gauges =
            Gauges { read_at: Moment::START, models: Some(["tiny", "ad1"].map(Arc::from).into()), ..Gauges::default() };
        let address = "10.0.0.1:8000".parse().unwrap();
        fleet.apply(scheduling::Event::Scraped { address, gauges });
        let snapshot = fleet.snapshot();
        let pool = snapshot.pools.get(&fixtures::pool()).unwrap();
        let (tiny, lora) = whose(pool, "tiny", None);
        assert_eq!((tiny.models[0].as_str(), tiny.engine, lora), ("tiny", Some(address), None));
        let (adapter, lora) = whose(pool, "ad1", None);
        assert_eq!(
            (adapter.models, lora),
            (["ad1", "ad1", "tiny"].map(str::to_owned).to_vec(), Some("ad1".to_owned()))
        );
    }
}
