//! Endpoint after endpoint, and in time.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use scheduling::{EngineKind, Slot};
use tokio::task::JoinSet;

use super::*;
use crate::prefill::client::serve;

/// Prefill endpoints that do the same to every call.
#[derive(Default)]
struct Prefills {
    endpoints: Vec<Arc<Endpoint>>,
    /// Which were asked, in order.
    asked: Arc<Mutex<Vec<usize>>>,
    tasks: Vec<JoinSet<()>>,
}

impl Prefills {
    /// Adds one that answers with `status`, or never.
    async fn and(mut self, status: Option<u16>) -> Self {
        let (number, asked) = (self.endpoints.len(), Arc::clone(&self.asked));
        let answer = async move || {
            asked.lock().push(number);
            match status {
                Some(status) => StatusCode::from_u16(status).unwrap(),
                None => std::future::pending().await,
            }
        };
        let (address, tasks) = serve(Router::new().route("/v1/completions", post(answer))).await;
        self.tasks.push(tasks);
        self.endpoints.push(Arc::new(Endpoint {
            address,
            slot: Slot(0),
            name: "prefill".into(),
            labels: Arc::default(),
            ready: true,
            engine: EngineKind::Vllm,
            gauges: None,
            load: Arc::default(),
        }));
        self
    }

    fn job(&self, timeout: Duration) -> Job {
        Job {
            client: Client::default(),
            connector: KvConnector::Http,
            path: "/v1/completions",
            headers: CallHeaders::new("id", None, None),
            traceparent: None,
            body: Bytes::from_static(b"{}"),
            prefills: self.endpoints.clone(),
            uncached_tokens: 7,
            decode: |_| Ok(Vec::new()),
            timeout,
            observer: PrefillObserver::default(),
        }
    }

    /// The place of the endpoint that has done it, or how it failed.
    async fn run(&self, timeout: Duration) -> Result<usize, &'static str> {
        match self.job(timeout).run().await {
            Outcome::Done { endpoint, .. } => {
                Ok(self.endpoints.iter().position(|other| other.address == endpoint.address).unwrap())
            }
            Outcome::Failed { error, .. } => Err(error.code()),
        }
    }

    fn in_flight(&self) -> Vec<(u32, u64)> {
        self.endpoints.iter().map(|it| (it.load.requests(), it.load.uncached_tokens())).collect()
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_endpoint_that_fails_is_followed_by_the_next_and_each_is_asked_once() {
    let prefills = Prefills::default().and(Some(503)).await.and(Some(500)).await.and(Some(200)).await;
    assert_eq!(prefills.run(LONG).await, Ok(2));
    assert_eq!(*prefills.asked.lock(), [0, 1, 2]);
    let prefills = Prefills::default().and(Some(503)).await.and(Some(500)).await;
    assert_eq!(prefills.run(LONG).await, Err("status"));
    assert_eq!(*prefills.asked.lock(), [0, 1]);
}

#[tokio::test]
async fn a_request_that_an_engine_refuses_is_not_brought_to_another() {
    let prefills = Prefills::default().and(Some(400)).await.and(Some(200)).await;
    assert_eq!(prefills.run(LONG).await, Err("refused"));
    assert_eq!(*prefills.asked.lock(), [0]);
}

#[tokio::test]
async fn one_that_hangs_leaves_time_for_another() {
    let prefills = Prefills::default().and(None).await.and(Some(200)).await;
    assert_eq!(prefills.run(Duration::from_millis(400)).await, Ok(1));
    let prefills = Prefills::default().and(None).await.and(None).await;
    let started = Instant::now();
    assert_eq!(prefills.run(Duration::from_millis(100)).await, Err("deadline"));
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert_eq!(prefills.in_flight(), [(0, 0); 2]);
}

#[tokio::test]
async fn load_is_counted_at_the_endpoint_that_is_asked_while_it_is_asked() {
    let prefills = Prefills::default().and(Some(500)).await.and(None).await;
    let mut run = Box::pin(prefills.job(LONG).run());
    let second_is_asked = async {
        while *prefills.asked.lock() != [0, 1] {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut run => panic!("the second never answers"),
        () = second_is_asked => {}
    }
    assert_eq!(prefills.in_flight(), [(0, 0), (1, 7)]);
    drop(run);
    assert_eq!(prefills.in_flight(), [(0, 0); 2]);
}
