//! Groups of prefill and decode engines, manifests for them, a picker.

use serde_json::{Value, json};
use tests::client::Client;
use tests::config_dir::{ConfigDir, Group};
use tests::engine::{Engine, EngineConfig, Received, Transfers};
use tests::envoy::Envoy;
use tests::picker::{Picker, PickerOptions};
use tests::poll;
use tests::scratch::Scratch;
use tests::shapes::plain::{self, Body};
use tests::shapes::{GatewayConfig, Pool};

use crate::world::{MODEL, SOON, addresses, envoy};

/// How a world of pairs is made.
pub(crate) struct Plan {
    /// Prefill and decode engines of each group.
    pub(crate) groups: Vec<(usize, usize)>,
    pub(crate) prefill: EngineConfig,
    pub(crate) decode: EngineConfig,
    /// `spec` of the ModelServer is varied by this.
    pub(crate) vary: fn(&mut Value),
    pub(crate) decode_labels: Value,
    pub(crate) flags: Vec<(&'static str, String)>,
    /// The scheduler's configuration.
    pub(crate) profile: Option<&'static str>,
    pub(crate) traces: Option<String>,
}

impl Default for Plan {
    /// One pair over NIXL that takes no time.
    fn default() -> Self {
        Self {
            groups: vec![(1, 1)],
            prefill: EngineConfig::instant(MODEL),
            decode: EngineConfig::instant(MODEL),
            vary: |_| {},
            decode_labels: json!({}),
            flags: Vec::new(),
            profile: None,
            traces: None,
        }
    }
}

pub(crate) struct Pairs {
    /// Prefill engines, group by group.
    pub(crate) prefills: Vec<Vec<Engine>>,
    /// Decode engines, group by group.
    pub(crate) decodes: Vec<Vec<Engine>>,
    pub(crate) picker: Picker,
    _config: ConfigDir,
    _scratch: Scratch,
}

impl Plan {
    pub(crate) async fn start(self) -> Pairs {
        let (prefills, decodes): (Vec<usize>, Vec<usize>) = self.groups.iter().copied().unzip();
        let prefill = vec![self.prefill; prefills.iter().sum()];
        let decode = vec![self.decode; decodes.iter().sum()];
        let mut engines = Engine::start_many(prefill.into_iter().chain(decode)).await.unwrap().into_iter();
        let mut of_groups = |counts: &[usize]| -> Vec<Vec<Engine>> {
            counts.iter().map(|count| engines.by_ref().take(*count).collect()).collect()
        };
        let (prefills, decodes) = (of_groups(&prefills), of_groups(&decodes));
        let groups: Vec<Group> = std::iter::zip(&prefills, &decodes)
            .map(|(prefills, decodes)| Group { prefills: addresses(prefills), decodes: addresses(decodes) })
            .collect();
        let config = ConfigDir::new().unwrap();
        config.pairs("llama", MODEL, &groups, &self.decode_labels, self.vary).unwrap();
        let mut options = PickerOptions::new(config.path());
        for (flag, value) in self.flags {
            options = options.flag(flag, value);
        }
        let scratch = Scratch::new("profile").unwrap();
        if let Some(profile) = self.profile {
            let file = scratch.file("routerConfiguration.yaml");
            std::fs::write(&file, profile).unwrap();
            options = options.flag("--scheduler-config", file.display());
        }
        if let Some(endpoint) = self.traces {
            options = options.traces(&endpoint);
        }
        Pairs { prefills, decodes, picker: options.start().await.unwrap(), _config: config, _scratch: scratch }
    }
}

impl Pairs {
    pub(crate) fn pool(&self) -> Pool {
        let decodes: Vec<_> = self.decodes.iter().flat_map(|group| addresses(group)).collect();
        Pool::new("llama", &decodes, self.picker.grpc_address())
    }

    /// An Envoy before it in this body mode, and a client.
    pub(crate) async fn behind(&self, body: Body) -> (Envoy, Client) {
        self.behind_with(body, |_| {}).await
    }

    /// The same with changes to the ext_proc filter.
    pub(crate) async fn behind_with(&self, body: Body, vary: impl FnOnce(&mut Value)) -> (Envoy, Client) {
        let mut config: GatewayConfig = plain::config(&self.pool(), body);
        vary(config.ext_proc());
        envoy(config).await
    }

    /// The only prefill engine, or the first.
    pub(crate) fn prefill(&self) -> &Engine {
        &self.prefills[0][0]
    }

    /// The only decode engine, or the first.
    pub(crate) fn decode(&self) -> &Engine {
        &self.decodes[0][0]
    }

    /// What all engines have seen of transfers, together.
    pub(crate) fn transfers(&self) -> Transfers {
        let mut sum = Transfers::default();
        for one in self.prefills.iter().chain(&self.decodes).flatten().map(Engine::transfers) {
            sum.kept += one.kept;
            sum.fetched += one.fetched;
            sum.expired += one.expired;
            sum.received += one.received;
            // Who fetched from whom is a question to one engine.
            sum.used_twice += one.used_twice;
            sum.altered += one.altered;
        }
        sum
    }

    /// Asserts that so many prompts were transferred, each once and unaltered.
    pub(crate) fn assert_transferred(&self, count: u64) {
        let expected = Transfers { kept: count, fetched: count, received: count, ..Transfers::default() };
        assert_eq!(self.transfers(), expected, "{}", self.picker.log());
    }

    /// Waits for a sum of a metric to be `value`.
    pub(crate) async fn wait_for_metric(&self, name: &str, labels: &[&str], value: f64) {
        poll::until(&format!("{name} {labels:?} = {value}"), SOON, async || {
            (self.picker.metrics().await.ok()?.sum(name, labels) == Some(value)).then_some(())
        })
        .await
        .unwrap();
    }

    /// Waits until nothing is in flight, as it must be after every test.
    pub(crate) async fn assert_idle(&self) {
        self.picker.wait_for_in_flight(0, SOON).await.unwrap();
    }
}

/// The body that the engine got last, as text.
pub(crate) fn last_body(engine: &Engine) -> String {
    body(engine.received().last().expect("a request"))
}

pub(crate) fn body(received: &Received) -> String {
    String::from_utf8(received.body.as_ref().expect("a small body").to_vec()).unwrap()
}
