//! What a script acts on: the brain's own `State` and `schedule`, a clock of its own, seeded chance.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduling::{
    Body, Content, Decision, Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, Gauges, Headers, InFlight,
    KvConnector, ModelRoute, ModelServer, Moment, PdGroup, PoolName, PrefixIndex, Profile, Prompt, Refusal, Request,
    Role, Rule, State, Target, schedule,
};

pub(crate) struct World {
    state: State,
    profile: Profile,
    rng: SmallRng,
    now: Moment,
    endpoints: BTreeMap<String, DeclaredEndpoint>,
    servers: Vec<ModelServer>,
    routes: Vec<ModelRoute>,
    held: Vec<InFlight>,
    /// How often the last `send` picked each.
    picked: BTreeMap<String, usize>,
    refused: usize,
}

impl Default for World {
    fn default() -> Self {
        Self {
            state: State::new(Arc::new(PrefixIndex::default())),
            profile: Profile::default(),
            rng: SmallRng::seed_from_u64(1),
            now: Moment::START,
            endpoints: BTreeMap::new(),
            servers: Vec::new(),
            routes: Vec::new(),
            held: Vec::new(),
            picked: BTreeMap::new(),
            refused: 0,
        }
    }
}

#[derive(Debug)]
struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

type Pairs<'a> = [(&'a str, &'a str)];

impl World {
    pub(crate) fn profile(&mut self, json: &str) -> Result<(), String> {
        let value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        self.profile = Profile::from_value(&value).map_err(|error| error.to_string())?;
        Ok(())
    }

    pub(crate) fn endpoint(&mut self, name: &str, address: &str, labels: &Pairs<'_>) -> Result<(), String> {
        let endpoint = DeclaredEndpoint {
            address: parse(address)?,
            name: format!("default/{name}").into(),
            labels: Arc::new(owned(labels)),
            ready: true,
            engine: EngineKind::Vllm,
        };
        self.endpoints.insert(name.to_owned(), endpoint);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.endpoints.remove(name);
    }

    pub(crate) fn server(&mut self, name: &str, options: &Pairs<'_>) {
        let (model, options): (Vec<_>, Vec<_>) = options.iter().partition(|(key, _)| *key == "model");
        let (pairs, selector): (Vec<_>, Vec<_>) = options.into_iter().partition(|(key, _)| *key == "pairs");
        let role = |role: &str| BTreeMap::from([("role".to_owned(), role.to_owned())]);
        self.servers.push(ModelServer {
            name: format!("default/{name}").into(),
            model: model.first().map(|(_, model)| Arc::from(*model)),
            engine: EngineKind::Vllm,
            selector: owned(&selector),
            port: None,
            pd_group: pairs.first().map(|(_, key)| PdGroup {
                group_key: Some(Arc::from(*key)),
                prefill_labels: role("prefill"),
                decode_labels: role("decode"),
            }),
            connector: KvConnector::default(),
        });
    }

    pub(crate) fn route(&mut self, name: &str, model: &str, options: &[&str]) -> Result<(), String> {
        let mut route = ModelRoute {
            name: format!("default/{name}").into(),
            created: None,
            model: Some(model.into()),
            adapters: options.iter().filter_map(|option| option.strip_prefix("adapter=")).map(Arc::from).collect(),
            rules: vec![Rule::default()],
        };
        for option in options.iter().filter(|option| !option.starts_with("adapter=")) {
            let (server, weight) = option.split_once(':').ok_or("a target is written SERVER:WEIGHT")?;
            let target = Target { model_server: format!("default/{server}").into(), weight: parse(weight)? };
            route.rules.iter_mut().for_each(|rule| rule.targets.push(target.clone()));
        }
        self.routes.push(route);
        Ok(())
    }

    pub(crate) fn declare(&mut self) {
        let prefills = |endpoint: &DeclaredEndpoint| {
            let role = |server: &ModelServer| server.role_of_pod(&endpoint.name, &endpoint.labels);
            self.servers.iter().any(|server| role(server) == Some(Role::Prefill))
        };
        let (workers, endpoints) = self.endpoints.values().cloned().partition(prefills);
        let declared = Declared {
            pools: vec![DeclaredPool { name: pool_name(), picker: None, endpoints }],
            model_servers: self.servers.clone(),
            model_routes: self.routes.clone(),
            workers,
        };
        self.state.apply(self.now, Event::Declared(declared));
    }

    pub(crate) fn wait(&mut self, seconds: usize) {
        self.now = self.now + Duration::from_secs(seconds as u64);
    }

    pub(crate) fn scrape(&mut self, name: &str, options: &Pairs<'_>) -> Result<(), String> {
        let address = self.endpoints.get(name).ok_or("no such endpoint")?.address;
        let snapshot = self.state.snapshot();
        let pool = snapshot.pools.get(&pool_name()).ok_or("nothing is declared yet")?;
        let endpoint = pool.endpoint(address);
        let in_flight_then = endpoint.map_or(0, |endpoint| endpoint.load.requests());
        let mut gauges = Gauges { read_at: self.now, in_flight_then, ..Gauges::default() };
        for (key, value) in options {
            match *key {
                "running" => gauges.running = parse(value)?,
                "waiting" => gauges.waiting = parse(value)?,
                "kv" => gauges.kv_usage = Some(parse(value)?),
                "ttft" => gauges.time_to_first_token = Some(Duration::from_millis(parse(value)?)),
                "tpot" => gauges.time_per_output_token = Some(Duration::from_millis(parse(value)?)),
                _ => return Err(format!("no such gauge: {key}")),
            }
        }
        self.state.apply(self.now, Event::Scraped { address, gauges });
        Ok(())
    }

    pub(crate) fn scrape_fails(&mut self, name: &str) -> Result<(), String> {
        let address = self.endpoints.get(name).ok_or("no such endpoint")?.address;
        self.state.apply(self.now, Event::ScrapeFailed { address });
        Ok(())
    }

    pub(crate) fn send(&mut self, count: usize, hold: bool, options: &Pairs<'_>) -> Result<String, String> {
        let option = |key: &str| options.iter().find(|(other, _)| *other == key).map_or("", |(_, value)| *value);
        let prompt = prompt(option("prompt"))?;
        (self.picked, self.refused) = (BTreeMap::new(), 0);
        let mut last = String::new();
        for _ in 0..count {
            match self.decide(option("model"), &prompt) {
                Ok(decision) => {
                    last = describe(&decision);
                    self.serve(&decision, hold)?;
                }
                Err(refusal) => {
                    last = format!("refused: {refusal}");
                    self.refused += 1;
                }
            }
        }
        let mut counts: Vec<String> = self.picked.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if self.refused > 0 {
            counts.push(format!("refused {}", self.refused));
        }
        Ok(format!("{}\nlast: {last}", counts.join(", ")))
    }

    fn decide(&mut self, model: &str, prompt: &str) -> Result<Decision, Refusal> {
        let snapshot = self.state.snapshot();
        let pool = snapshot.pools.get(&pool_name()).expect("the script has declared its pool");
        let body = Body {
            model: Cow::Borrowed(model),
            stream: false,
            max_tokens: None,
            prompt: Prompt { pieces: vec![Cow::Borrowed(prompt.as_bytes())] },
        };
        let request = Request {
            id: "simulated",
            path: "/v1/completions",
            headers: &NoHeaders,
            content: Content::Parsed(body),
            subset: None,
            tokens: None,
            resolution: None,
        };
        schedule(&self.profile, &snapshot, pool, &request, self.now, &mut self.rng)
    }

    fn serve(&mut self, decision: &Decision, hold: bool) -> Result<(), String> {
        let endpoint = decision.endpoint().ok_or("a decision without endpoint")?;
        let prefill =
            decision.disaggregation.as_ref().and_then(|pair| Some((pair.prefills.first()?, pair.uncached_tokens)));
        for (endpoint, uncached_tokens) in [(endpoint, decision.uncached_tokens)].into_iter().chain(prefill) {
            let in_flight = endpoint.load.begin(uncached_tokens);
            if hold {
                self.held.push(in_flight);
            }
            if let Some(cache) = self.profile.prefix_cache_for(decision) {
                self.state.snapshot().prefixes.learn(endpoint.slot, &decision.blocks, cache.capacity());
            }
            let name = endpoint.name.trim_start_matches("default/").to_owned();
            *self.picked.entry(name).or_default() += 1;
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) {
        self.held.clear();
    }

    pub(crate) fn expect(&self, name: &str, least: usize, most: usize) -> Result<(), String> {
        let picked = self.picked.get(name).copied().unwrap_or(0);
        if (least..=most).contains(&picked) {
            Ok(())
        } else {
            Err(format!("{name} was picked {picked} times, expected {least}..{most}"))
        }
    }

    pub(crate) fn expect_refused(&self) -> Result<(), String> {
        if self.refused > 0 && self.picked.is_empty() { Ok(()) } else { Err("nothing was refused".to_owned()) }
    }
}

fn describe(decision: &Decision) -> String {
    let matched = decision.rows().next().map_or(0, |row| row.candidate.matched_blocks);
    let rewrite = decision.rewrite_model.as_ref().map(|model| format!("; model becomes {model}")).unwrap_or_default();
    format!("{decision}{rewrite}; {matched} of {} blocks matched", decision.report.blocks)
}

fn pool_name() -> PoolName {
    PoolName::new("default", "pool")
}

/// `a:100+b:20`: a hundred bytes of text that only `a` has, then twenty of `b`'s.
fn prompt(parts: &str) -> Result<String, String> {
    let mut prompt = String::new();
    for part in parts.split('+').filter(|part| !part.is_empty()) {
        let (seed, bytes) = part.split_once(':').ok_or("a prompt is written SEED:BYTES")?;
        let bytes: usize = parse(bytes)?;
        let words = (0..).flat_map(|number| format!("{seed}-{number} ").into_bytes());
        prompt.extend(words.take(bytes).map(char::from));
    }
    Ok(prompt)
}

fn owned(pairs: &Pairs<'_>) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn parse<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` cannot be read"))
}
