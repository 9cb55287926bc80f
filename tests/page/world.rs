//! What every story begins with: engines, a picker, an Envoy, and a browser that shows the picker's page.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::browser::Browser;
use tests::client::Client;
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig};
use tests::envoy::Envoy;
use tests::otlp_sink::OtlpSink;
use tests::picker::{Picker, PickerOptions};
use tests::shapes::Pool;
use tests::shapes::plain::{self, Body};

/// What the engines call their model.
pub(crate) const MODEL: &str = "tiny";
/// What requests call it.
pub(crate) const ALIAS: &str = "assistant";
/// The only endpoint of the pool `qwen`. Nobody listens there.
pub(crate) const SILENT: &str = "127.0.0.1:1";

/// The rows of a table as objects, from the head of a column to the text below it.
const ROWS: &str = "[...document.querySelectorAll('#TABLE > table > tbody > tr:not(.detail)')].map(row =>
    Object.fromEntries([...row.cells].map(cell => [cell.dataset.head, cell.innerText.trim()])))";

pub(crate) struct World {
    pub(crate) browser: Browser,
    /// Of Envoy, in front of the pool `llama`.
    pub(crate) client: Client,
    pub(crate) picker: Picker,
    pub(crate) engines: Vec<Engine>,
    pub(crate) config: ConfigDir,
    _envoy: Envoy,
    _sink: OtlpSink,
}

impl World {
    /// The pool `llama` of two engines that take no time, with a route, and the pool `qwen`.
    pub(crate) async fn instant() -> Self {
        Self::start(EngineConfig::instant(MODEL), |_| ()).await
    }

    /// The same with engines whose answers begin at once and then last for ever; `prepare` has them before the picker
    /// has heard of them.
    pub(crate) async fn endless(prepare: impl FnOnce(&[Engine])) -> Self {
        let mut config = EngineConfig::timed(MODEL, 1.0);
        config.timing.token_interval = Duration::from_secs(3600);
        Self::start(config, prepare).await
    }

    async fn start(engine: EngineConfig, prepare: impl FnOnce(&[Engine])) -> Self {
        let sink = OtlpSink::start().await.unwrap();
        let engines = Engine::start_many(vec![engine; 2]).await.unwrap();
        prepare(&engines);
        let addresses: Vec<SocketAddr> = engines.iter().map(Engine::address).collect();
        let config = ConfigDir::new().unwrap();
        config.pool("llama", &addresses).unwrap();
        config.pool("qwen", &[SILENT.parse().unwrap()]).unwrap();
        config.model_server("llama", "llama", addresses[0].port(), Some(MODEL)).unwrap();
        config.model_route("chat", ALIAS, &["sql"], "llama").unwrap();
        let picker = PickerOptions::new(config.path()).traces(&sink.endpoint()).start().await.unwrap();
        let pool = Pool::new("llama", &addresses, picker.grpc_address());
        let shape = plain::config(&pool, Body::FullDuplex).traces(sink.address());
        let envoy = shape.vary(|shape| shape.manager()["always_set_request_id_in_response"] = json!(true));
        let envoy = envoy.start().await.unwrap();
        let client = Client::new(envoy.address());
        let mut browser = Browser::start().await.unwrap();
        browser.resize(1280, 900, false).await.unwrap();
        let mut world = Self { browser, client, picker, engines, config, _envoy: envoy, _sink: sink };
        world.open().await;
        world
    }

    /// Opens the page anew and waits until it shows the fleet.
    pub(crate) async fn open(&mut self) {
        let url = self.url();
        self.browser.open(&url).await.unwrap();
        // Lost with the document, should the page load itself anew.
        self.browser.evaluate("window.isFirst = true").await.unwrap();
        self.until("the fleet", "document.querySelector('#fleet td')").await;
    }

    fn url(&self) -> String {
        format!("http://{}/", self.picker.debug_address())
    }

    /// Waits until an expression is true on the page; an element is, although it has no value of its own.
    pub(crate) async fn until(&mut self, what: &str, expression: &str) {
        self.browser.until(what, &format!("Boolean({expression})")).await.unwrap();
    }

    /// The text of what an expression comes to.
    pub(crate) async fn text(&mut self, expression: &str) -> String {
        let value = self.browser.evaluate(expression).await.unwrap();
        value.as_str().unwrap_or_else(|| panic!("{expression} is {value}")).to_owned()
    }

    /// The rows of the table `fleet`, `routes` or `decisions`.
    pub(crate) async fn rows(&mut self, table: &str) -> Vec<Value> {
        let rows = self.browser.evaluate(&ROWS.replace("TABLE", table)).await.unwrap();
        rows.as_array().unwrap().clone()
    }

    /// The row of an endpoint.
    pub(crate) async fn endpoint(&mut self, address: &str) -> Value {
        let rows = self.rows("fleet").await;
        rows.iter().find(|row| row["endpoint"] == address).unwrap_or_else(|| panic!("{address}: {rows:#?}")).clone()
    }

    /// Waits until the endpoint's row has this text in a column.
    pub(crate) async fn until_endpoint(&mut self, address: &str, head: &str, text: &str) {
        let rows = ROWS.replace("TABLE", "fleet");
        let (what, [address, head, text]) = (format!("{head} {text}"), [address, head, text].map(Value::from));
        let found = format!("{rows}.some(row => row.endpoint === {address} && row[{head}] === {text})");
        self.until(&what, &found).await;
    }

    /// Sends one request for the alias, and returns its decision.
    pub(crate) async fn ask(&mut self, prompt: &str) -> Value {
        let reply = self.client.chat(ALIAS, &[("user", prompt)]).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.picker.decision(&reply.request_id().unwrap()).await.unwrap()
    }

    /// Waits until the page has a row for a request; it is told by the beginning of its trace's id.
    pub(crate) async fn until_decision(&mut self, decision: &Value) -> Value {
        let trace = &decision["traceId"].as_str().unwrap()[..8];
        let found = format!("{}.find(row => row.trace === {})", ROWS.replace("TABLE", "decisions"), json!(trace));
        self.browser.until("the decision", &found).await.unwrap()
    }

    /// What must be so at every story's end: nothing loaded from elsewhere, no complaint, never loaded anew.
    pub(crate) async fn finish(mut self) {
        assert_eq!(self.browser.evaluate("window.isFirst").await.unwrap(), true, "the page loaded itself anew");
        let url = self.url();
        let foreign: Vec<&str> = self.browser.requests().into_iter().filter(|asked| !asked.starts_with(&url)).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert!(self.browser.requests().len() > 5, "the requests are not seen");
        assert_eq!(self.browser.complaints(), Vec::<String>::new());
        self.browser.close().await.unwrap();
    }
}
