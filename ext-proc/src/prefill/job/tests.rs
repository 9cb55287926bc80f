//! Endpoint after endpoint, and in time.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use scheduling::{Disaggregation, Verdict};
use tokio::task::JoinSet;

use super::*;
use crate::fleet::{Picked, fixtures};
use crate::prefill::client::serve;

/// Prefill endpoints that do the same to every call, and a request picked for them.
struct Prefills {
    endpoints: Vec<Arc<Endpoint>>,
    fleet: Arc<Fleet>,
    /// Which were asked, in order.
    asked: Arc<Mutex<Vec<usize>>>,
    _tasks: Vec<JoinSet<()>>,
}

impl Prefills {
    /// Each answers with its status, or never.
    async fn that_answer(statuses: &[Option<u16>]) -> Self {
        let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
        let (mut addresses, mut tasks) = (Vec::new(), Vec::new());
        for (number, status) in statuses.iter().copied().enumerate() {
            let asked = Arc::clone(&asked);
            let answer = async move || {
                asked.lock().push(number);
                match status {
                    Some(status) => StatusCode::from_u16(status).unwrap(),
                    None => std::future::pending().await,
                }
            };
            let (address, set) = serve(Router::new().route("/v1/completions", post(answer))).await;
            addresses.push(address);
            tasks.push(set);
        }
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts.push(DECODE);
        let fleet = Arc::new(fixtures::fleet(&texts));
        let snapshot = fleet.snapshot();
        let endpoint = |address| Arc::clone(snapshot.pools[&fixtures::pool()].endpoint(address).unwrap());
        let endpoints = addresses.iter().map(|address| endpoint(*address)).collect();
        Self { endpoints, fleet, asked, _tasks: tasks }
    }

    fn job(&self, timeout: Duration) -> Job {
        let mut decision = (*fixtures::pick(&self.fleet, DECODE).decision).clone();
        decision.disaggregation = Some(Disaggregation {
            connector: KvConnector::Http,
            verdict: Verdict::Disaggregate { uncached_tokens: 7 },
            prefills: self.endpoints.clone(),
            sidecar: false,
            uncached_tokens: 7,
            report: None,
        });
        let picked = Picked::again(Arc::new(decision)).unwrap();
        Job {
            client: Client::default(),
            connector: KvConnector::Http,
            path: "/v1/completions",
            headers: CallHeaders::new("id", None, None),
            traceparent: None,
            body: Bytes::from_static(b"{}"),
            prefills: self.endpoints.clone(),
            picked: Arc::new(Mutex::new(picked)),
            fleet: Arc::clone(&self.fleet),
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

const DECODE: &str = "127.0.0.9:8000";
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_endpoint_that_fails_is_followed_by_the_next_and_each_is_asked_once() {
    let prefills = Prefills::that_answer(&[Some(503), Some(500), Some(200)]).await;
    assert_eq!(prefills.run(LONG).await, Ok(2));
    assert_eq!(*prefills.asked.lock(), [0, 1, 2]);
    let prefills = Prefills::that_answer(&[Some(503), Some(500)]).await;
    assert_eq!(prefills.run(LONG).await, Err("status"));
    assert_eq!(*prefills.asked.lock(), [0, 1]);
}

#[tokio::test]
async fn a_request_that_an_engine_refuses_is_not_brought_to_another() {
    let prefills = Prefills::that_answer(&[Some(400), Some(200)]).await;
    assert_eq!(prefills.run(LONG).await, Err("refused"));
    assert_eq!(*prefills.asked.lock(), [0]);
}

#[tokio::test]
async fn one_that_hangs_leaves_time_for_another() {
    let prefills = Prefills::that_answer(&[None, Some(200)]).await;
    assert_eq!(prefills.run(Duration::from_millis(400)).await, Ok(1));
    let prefills = Prefills::that_answer(&[None, None]).await;
    let started = Instant::now();
    assert_eq!(prefills.run(Duration::from_millis(100)).await, Err("deadline"));
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert_eq!(prefills.in_flight(), [(0, 0); 2]);
}

#[tokio::test]
async fn load_is_counted_at_the_endpoint_that_is_asked_while_it_is_asked() {
    let prefills = Prefills::that_answer(&[Some(500), None]).await;
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
