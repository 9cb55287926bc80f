//! One question to one engine, with a deadline and a cap.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use scheduling::Load;
use serde::Deserialize;

use crate::engine_client::{Connections, engine_client};
use crate::exposition::{self, Reading};

/// How long an engine may take to answer, page and list of models each.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long the connection to an engine is kept: longer than the longest interval between two scrapes.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// The largest page that is read, in bytes.
const CAP: usize = 4 << 20;

/// Why an engine could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("no answer within {} ms", DEADLINE.as_millis())]
    Deadline,
    #[error("cannot ask for {path}")]
    Request { path: &'static str, source: legacy::Error },
    #[error("{path} answered with status {status}")]
    Status { path: &'static str, status: StatusCode },
    #[error("the answer to {path} broke off or has more than {CAP} bytes: {cause}")]
    Body { path: &'static str, cause: String },
    #[error("/metrics is not text")]
    NotText,
    #[error("/metrics has neither vLLM's nor SGLang's gauges of running and waiting requests")]
    NoGauges,
}

/// What came of one scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) address: SocketAddr,
    pub(super) load: Arc<Load>,
    pub(super) outcome: Result<Answer, ScrapeError>,
    /// `Some` when the models were asked for; `Some(None)` when there was no usable answer.
    pub(super) models: Option<Option<Arc<[Arc<str>]>>>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reading: Reading,
    pub(super) in_flight_then: u32,
}

/// Keeps one connection to each engine.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
}

impl Client {
    pub(super) fn new() -> Self {
        let http = engine_client(Connections { connect: DEADLINE, idle: 1, idle_time: IDLE_TIME });
        Self { http }
    }

    /// Asks the engine at `address`, `with_models` or without.
    pub(super) fn scrape(
        &self,
        address: SocketAddr,
        load: Arc<Load>,
        with_models: bool,
    ) -> impl Future<Output = Scrape> + Send + use<> {
        let client = self.clone();
        async move {
            let outcome = client.gauges(address, &load).await;
            let models = match with_models && outcome.is_ok() {
                true => Some(client.models(address).await.ok()),
                false => None,
            };
            Scrape { address, load, outcome, models }
        }
    }

    async fn gauges(&self, address: SocketAddr, load: &Load) -> Result<Answer, ScrapeError> {
        let page = self.get(address, "/metrics").await?;
        let in_flight_then = load.requests();
        let reading = exposition::scan(std::str::from_utf8(&page).map_err(|_| ScrapeError::NotText)?);
        if reading.waiting.is_none() && reading.running.is_none() {
            return Err(ScrapeError::NoGauges);
        }
        Ok(Answer { reading, in_flight_then })
    }

    async fn models(&self, address: SocketAddr) -> Result<Arc<[Arc<str>]>, ScrapeError> {
        const PATH: &str = "/v1/models";
        let list = self.get(address, PATH).await?;
        let list: ModelList = serde_json::from_slice(&list)
            .map_err(|error| ScrapeError::Body { path: PATH, cause: error.to_string() })?;
        Ok(list.data.into_iter().map(|model| Arc::from(model.id)).collect())
    }

    async fn get(&self, address: SocketAddr, path: &'static str) -> Result<Bytes, ScrapeError> {
        let exchange = async {
            let request = Request::get(format!("http://{address}{path}"))
                .header(header::ACCEPT, "text/plain;version=0.0.4, application/json;q=0.9")
                .body(Empty::new())
                .map_err(|error| ScrapeError::Body { path, cause: error.to_string() })?;
            let answer = self.http.request(request).await.map_err(|source| ScrapeError::Request { path, source })?;
            if answer.status() != StatusCode::OK {
                return Err(ScrapeError::Status { path, status: answer.status() });
            }
            let body = Limited::new(answer.into_body(), CAP).collect().await;
            Ok(body.map_err(|cause| ScrapeError::Body { path, cause: cause.to_string() })?.to_bytes())
        };
        tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| ScrapeError::Deadline)?
    }
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    const PAGE: &str = "vllm:num_requests_running 3\nvllm:num_requests_waiting 1\n";

    /// Serves until the set is dropped.
    async fn serve(router: Router) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, tasks)
    }

    async fn scrape(router: Router) -> Scrape {
        let (address, _tasks) = serve(router).await;
        Client::new().scrape(address, Arc::default(), true).await
    }

    fn error(scrape: Scrape) -> String {
        scrape.outcome.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn an_engine_is_read_with_its_models_and_our_work() {
        let models = r#"{"object":"list","data":[{"id":"base"},{"id":"sql","parent":"base"}]}"#;
        let router = Router::new().route("/metrics", get(PAGE)).route("/v1/models", get(models));
        let (address, _tasks) = serve(router).await;
        let load = Arc::new(Load::default());
        let _guard = load.begin(1);
        let scrape = Client::new().scrape(address, Arc::clone(&load), true).await;
        let answer = scrape.outcome.unwrap();
        assert_eq!((answer.reading.running, answer.in_flight_then), (Some(3.0), 1));
        let names: Vec<_> = scrape.models.unwrap().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["base", "sql"]);
    }

    #[tokio::test]
    async fn a_missing_list_of_models_does_not_spoil_the_gauges() {
        let scrape = scrape(Router::new().route("/metrics", get(PAGE))).await;
        assert!(scrape.outcome.is_ok());
        assert_eq!(scrape.models, Some(None));
    }

    #[tokio::test]
    async fn a_page_that_is_no_engines_is_a_failure_and_not_idleness() {
        assert!(error(scrape(Router::new().route("/metrics", get("<html>"))).await).contains("neither"));
        assert!(error(scrape(Router::new()).await).contains("404"));
        let endless = || async { "x".repeat(CAP + 1) };
        assert!(error(scrape(Router::new().route("/metrics", get(endless))).await).contains("more than"));
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_left_at_the_deadline() {
        let hang = || std::future::pending::<()>();
        assert!(error(scrape(Router::new().route("/metrics", get(hang))).await).contains("no answer within"));
    }
}
