//! Values for this crate's tests: endpoints, pools and requests in few words.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::{
    Body, Content, Decision, Declared, DeclaredEndpoint, DeclaredPool, Endpoint, EngineKind, Event, Gauges, Headers,
    KvConnector, ModelRoute, ModelServer, Moment, PdGroup, Pool, PoolName, PrefixIndex, Profile, Prompt, Refusal,
    Request, Rule, Snapshot, State, Target, schedule,
};

pub(crate) const MODEL: &str = "llama";

impl Headers for BTreeMap<&'static str, &'static str> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).copied()
    }
}

pub(crate) fn no_headers() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::new()
}

pub(crate) fn seconds(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(seconds))
}

pub(crate) fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (number / 256) as u8, (number % 256) as u8], 8000))
}

pub(crate) fn declared(number: usize, labels: &[(&str, &str)]) -> DeclaredEndpoint {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    DeclaredEndpoint {
        address: address(number),
        name: format!("default/pod-{number}").into(),
        labels: Arc::new(labels),
        ready: true,
        engine: EngineKind::Vllm,
    }
}

pub(crate) fn pool_of(name: &str, endpoints: Vec<DeclaredEndpoint>) -> DeclaredPool {
    DeclaredPool { name: PoolName::new("default", name), picker: None, endpoints }
}

pub(crate) fn server(name: &str, labels: &[(&str, &str)]) -> ModelServer {
    ModelServer {
        name: format!("default/{name}").into(),
        model: None,
        engine: EngineKind::Vllm,
        selector: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        port: None,
        pd_group: None,
        connector: KvConnector::default(),
    }
}

/// The server `pd` for all pods: those labelled `role=prefill` and `role=decode` pair within one value
/// of `group`.
pub(crate) fn pd_server() -> ModelServer {
    let role = |role: &str| [("role".to_owned(), role.to_owned())].into();
    let group_key = Some("group".into());
    let pd_group = PdGroup { group_key, prefill_labels: role("prefill"), decode_labels: role("decode") };
    ModelServer { pd_group: Some(pd_group), ..server("pd", &[]) }
}

/// A pod of a role, in a group if it has one.
pub(crate) fn worker(number: usize, role: &str, group: Option<&str>) -> DeclaredEndpoint {
    let labels: Vec<_> = [("role", role)].into_iter().chain(group.map(|group| ("group", group))).collect();
    declared(number, &labels)
}

pub(crate) fn route(name: &str, model: &str, targets: &[(&str, u32)]) -> ModelRoute {
    ModelRoute {
        name: format!("default/{name}").into(),
        created: None,
        model: Some(model.into()),
        adapters: Vec::new(),
        rules: vec![rule(targets)],
    }
}

pub(crate) fn rule(targets: &[(&str, u32)]) -> Rule {
    let target =
        |(name, weight): &(&str, u32)| Target { model_server: format!("default/{name}").into(), weight: *weight };
    Rule { targets: targets.iter().map(target).collect(), ..Rule::default() }
}

/// A fleet of one pool `pool`, with a seeded rng and the default profile.
pub(crate) struct Scene {
    pub(crate) state: State,
    pub(crate) profile: Profile,
    pub(crate) rng: SmallRng,
    pub(crate) now: Moment,
}

impl Scene {
    pub(crate) fn of(declared: Declared) -> Self {
        let mut state = State::new(Arc::new(PrefixIndex::default()));
        state.apply(Moment::START, Event::Declared(declared));
        Self { state, profile: Profile::default(), rng: SmallRng::seed_from_u64(7), now: Moment::START }
    }

    /// Of so many equal endpoints.
    pub(crate) fn equal(endpoints: usize) -> Self {
        let endpoints = (0..endpoints).map(|number| declared(number, &[])).collect();
        Self::of(Declared { pools: vec![pool_of("pool", endpoints)], ..Declared::default() })
    }

    /// Of the pool of these decode endpoints, and prefill endpoints that the pool does not select.
    pub(crate) fn pairs(decodes: Vec<DeclaredEndpoint>, prefills: Vec<DeclaredEndpoint>) -> Self {
        let (pools, model_servers) = (vec![pool_of("pool", decodes)], vec![pd_server()]);
        Self::of(Declared { pools, model_servers, workers: prefills, ..Declared::default() })
    }

    pub(crate) fn with_profile(mut self, profile: &serde_json::Value) -> Self {
        self.profile = Profile::from_value(profile).unwrap();
        self
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.state.snapshot()
    }

    pub(crate) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.snapshot().pools[&PoolName::new("default", "pool")])
    }

    pub(crate) fn scrape(&mut self, number: usize, gauges: Gauges) {
        let gauges = Gauges { read_at: self.now, ..gauges };
        assert!(self.state.apply(self.now, Event::Scraped { address: address(number), gauges }));
    }

    pub(crate) fn decide(&mut self, request: &Request<'_>) -> Result<Decision, Refusal> {
        schedule(&self.profile, &self.state.snapshot(), &self.pool(), request, self.now, &mut self.rng)
    }

    /// Decides for a prompt of [`MODEL`].
    pub(crate) fn ask(&mut self, prompt: &str) -> Result<Decision, Refusal> {
        with_prompt(MODEL, prompt, |request| self.decide(request))
    }

    /// Remembers that the first endpoint of the decision served it.
    pub(crate) fn learn(&self, decision: &Decision) {
        self.learn_at(decision, decision.endpoint().unwrap());
    }

    /// Remembers that this endpoint holds the decision's prompt.
    pub(crate) fn learn_at(&self, decision: &Decision, endpoint: &Endpoint) {
        let capacity = self.profile.prefix_cache_for(decision).map_or(0, crate::PrefixCache::capacity);
        self.snapshot().prefixes.learn(endpoint.slot, &decision.blocks, capacity);
    }
}

pub(crate) fn with_prompt<T>(model: &str, prompt: &str, then: impl FnOnce(&Request<'_>) -> T) -> T {
    let headers = no_headers();
    then(&Request {
        id: "1",
        path: "/v1/completions",
        headers: &headers,
        content: Content::Parsed(Body {
            model: Cow::Borrowed(model),
            stream: false,
            max_tokens: None,
            prompt: Prompt { pieces: vec![Cow::Borrowed(prompt.as_bytes())] },
        }),
        subset: None,
        tokens: None,
        resolution: None,
    })
}

/// Text without repetition of so many bytes, different for each seed.
pub(crate) fn text(seed: &str, bytes: usize) -> String {
    let mut text = String::new();
    for word in 0.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&format!("{seed} {word} "));
    }
    text.truncate(bytes);
    text
}
