//! Real engines with all that is before them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tests::client::{Client, Completion, Reply};
use tests::config_dir::ConfigDir;
use tests::envoy::Envoy;
use tests::picker::{Picker, PickerOptions};
use tests::shapes::{Pool, standalone};

use crate::fleet::{Fleet, MODEL, SOON};

/// The pool's name, and the ModelServer's.
pub(crate) const POOL: &str = "llama";

/// Engines, the manifests that declare them, the picker that reads those, and Envoy as
/// `deploy/envoy/standalone.yaml` configures it.
pub(crate) struct Stage {
    pub(crate) client: Client,
    _envoy: Envoy,
    pub(crate) picker: Picker,
    _config: ConfigDir,
    pub(crate) fleet: Fleet,
}

impl Stage {
    /// Puts a picker, varied by `vary`, and Envoy before `fleet`; the pool's endpoints are `endpoints`.
    pub(crate) async fn before(
        fleet: Fleet,
        config: ConfigDir,
        endpoints: &[SocketAddr],
        vary: impl FnOnce(PickerOptions) -> PickerOptions,
    ) -> Self {
        let picker = vary(PickerOptions::new(config.path())).start().await.unwrap();
        let pool = Pool::new(POOL, endpoints, picker.grpc_address());
        let envoy = standalone::config(&pool).unwrap().start().await.unwrap();
        Self { client: Client::new(envoy.address()), _envoy: envoy, picker, _config: config, fleet }
    }

    /// The decision for the request that got this reply.
    pub(crate) async fn decision(&self, reply: &Reply) -> Value {
        assert_eq!(reply.status, 200, "{}\n{}", reply.text(), self.picker.log());
        self.picker.decision(&reply.request_id().expect("the engine tells the request's id")).await.unwrap()
    }

    /// A sum of a metric of the picker's; 0 while nothing was counted.
    pub(crate) async fn counted(&self, name: &str, labels: &[&str]) -> f64 {
        self.picker.metrics().await.unwrap().sum(name, labels).unwrap_or(0.0)
    }

    /// Waits until nothing is in flight, as it must be after every test.
    pub(crate) async fn assert_idle(&self) {
        self.picker.wait_for_in_flight(0, SOON).await.unwrap();
    }
}

/// Asks for so many tokens, always the same ones, and for their ids.
pub(crate) fn fixed(ask: Completion, tokens: u32) -> Completion {
    ask.max_tokens(tokens).field("temperature", 0).field("ignore_eos", true).field("return_token_ids", true)
}

/// The ids of the tokens that the engine made.
pub(crate) fn token_ids(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json().unwrap()["choices"][0]["token_ids"].clone()
}

/// How many tokens the engine saw in the prompt.
pub(crate) fn prompt_tokens(reply: &Reply) -> u64 {
    reply.usage().expect("usage")["prompt_tokens"].as_u64().expect("a number")
}

/// Text that no other `seed` shares a beginning with: some 1700 tokens of the tiny model.
pub(crate) fn long_prompt(seed: &str) -> String {
    format!("{seed} was here before all others, ").repeat(2400 / (seed.len() + 30))
}

/// `fixed` for `prompt`, asked of the engine itself: what one engine alone answers.
pub(crate) async fn alone(client: &Client, prompt: &str, tokens: u32) -> Value {
    token_ids(&fixed(client.complete(MODEL, prompt), tokens).send().await.unwrap())
}

/// How many of these decisions each endpoint got.
pub(crate) fn by_endpoint(decisions: &[Value]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for decision in decisions {
        *counts.entry(decision["endpoint"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}
