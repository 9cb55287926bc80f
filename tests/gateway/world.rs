//! What most tests begin with: engines, manifests for them, a picker.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tests::client::{Client, Reply};
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig};
use tests::envoy::Envoy;
use tests::picker::{Picker, PickerOptions};
use tests::poll;
use tests::shapes::{GatewayConfig, Pool};

/// Long enough for anything that is local, also on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The model that every engine of a world serves.
pub(crate) const MODEL: &str = "m";

/// Engines of the pools `llama` and perhaps `qwen`, and a picker for them.
pub(crate) struct World {
    pub(crate) llama: Vec<Engine>,
    pub(crate) qwen: Vec<Engine>,
    pub(crate) config: ConfigDir,
    pub(crate) picker: Picker,
}

impl World {
    /// One pool of `count` engines that take no time.
    pub(crate) async fn instant(count: usize) -> Self {
        Self::start(vec![EngineConfig::instant(MODEL); count], Vec::new(), |options| options).await
    }

    /// Two pools of two such engines.
    pub(crate) async fn two_pools() -> Self {
        let two = || vec![EngineConfig::instant(MODEL); 2];
        Self::start(two(), two(), |options| options).await
    }

    /// One pool of `count` engines whose answers begin at once and then last for ever.
    pub(crate) async fn endless(count: usize) -> Self {
        let mut config = EngineConfig::timed(MODEL, 1.0);
        config.timing.token_interval = Duration::from_secs(3600);
        Self::start(vec![config; count], Vec::new(), |options| options).await
    }

    pub(crate) async fn start(
        llama: Vec<EngineConfig>,
        qwen: Vec<EngineConfig>,
        vary: impl FnOnce(PickerOptions) -> PickerOptions,
    ) -> Self {
        let (llama, qwen) = (Engine::start_many(llama).await.unwrap(), Engine::start_many(qwen).await.unwrap());
        let config = ConfigDir::new().unwrap();
        config.pool("llama", &addresses(&llama)).unwrap();
        if !qwen.is_empty() {
            config.pool("qwen", &addresses(&qwen)).unwrap();
        }
        let picker = vary(PickerOptions::new(config.path())).start().await.unwrap();
        Self { llama, qwen, config, picker }
    }

    /// The pool `llama`.
    pub(crate) fn pool(&self) -> Pool {
        Pool::new("llama", &addresses(&self.llama), self.picker.grpc_address())
    }

    /// Both pools.
    pub(crate) fn pools(&self) -> [Pool; 2] {
        [self.pool(), Pool::new("qwen", &addresses(&self.qwen), self.picker.grpc_address())]
    }

    /// Asserts that the request was answered with 200, by the endpoint that its decision names, and
    /// that this endpoint got it once. Returns the decision.
    pub(crate) async fn assert_picked(&self, reply: &Reply) -> Value {
        assert_eq!(reply.status, 200, "{}\n{}", reply.text(), self.picker.log());
        let served = reply.engine().expect("an engine answered");
        let engine = self.engine(served);
        let id = match reply.request_id() {
            Some(id) => id,
            // Not a completion: nothing else was sent to this engine since.
            None => engine.received().last().unwrap().header("x-request-id").unwrap().to_owned(),
        };
        let decision = self.picker.decision(&id).await.unwrap();
        assert_eq!(decision["endpoint"], served.to_string(), "{decision:#}");
        let received = engine.received();
        let of_this = received.iter().filter(|request| request.header("x-request-id") == Some(&id));
        assert_eq!(of_this.count(), 1, "{id}");
        decision
    }

    /// The engine at `address`.
    pub(crate) fn engine(&self, address: SocketAddr) -> &Engine {
        let mut engines = self.llama.iter().chain(&self.qwen);
        engines.find(|engine| engine.address() == address).expect("one of our engines")
    }

    /// Waits until nothing is in flight, as it must be after every test.
    pub(crate) async fn assert_idle(&self) {
        self.picker.wait_for_in_flight(0, SOON).await.unwrap();
    }

    /// Waits until exactly these requests are in flight at `address`.
    pub(crate) async fn wait_for_in_flight_at(&self, address: SocketAddr, count: u64) {
        poll::until(&format!("{count} in flight at {address}"), SOON, async || {
            (self.picker.in_flight().await.ok()?.get(&address) == Some(&count)).then_some(())
        })
        .await
        .unwrap();
    }
}

/// An Envoy with this configuration, and a client of it.
pub(crate) async fn envoy(config: GatewayConfig) -> (Envoy, Client) {
    let envoy = config.start().await.unwrap();
    let client = Client::new(envoy.address());
    (envoy, client)
}

pub(crate) fn addresses(engines: &[Engine]) -> Vec<SocketAddr> {
    engines.iter().map(Engine::address).collect()
}

/// A prompt that fills blocks of a prefix cache, and that no other `seed` shares a beginning with.
pub(crate) fn long_prompt(seed: &str) -> String {
    format!("{seed} was here before all others, ").repeat(60)
}
