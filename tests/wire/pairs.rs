//! A prefill that the answer waits for: what the data plane hears and does meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kthena_ext_proc::service::Settings;
use scheduling::{Declared, EngineKind, KvConnector, ModelServer, PdGroup};
use tests::engine::{Engine, EngineConfig, Fault};
use tests::poll;

use crate::envoy::{Stream, common, destination};
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

const SOON: Duration = Duration::from_secs(5);

fn labels(role: &str) -> BTreeMap<String, String> {
    [("app", "llama"), ("role", role)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// A picker for a prefill engine and a decode endpoint that nobody talks to here.
async fn pair(prefill: &Engine) -> Picker {
    let (decode, port) = ("127.0.0.9", prefill.address().port());
    let with_role = |endpoints: &[&str], role: &str| {
        let mut pool = pool("default", "llama", endpoints);
        for endpoint in &mut pool.endpoints {
            endpoint.name = format!("default/{role}").into();
            endpoint.labels = Arc::new(labels(role));
        }
        pool
    };
    let group = PdGroup { group_key: None, prefill_labels: labels("prefill"), decode_labels: labels("decode") };
    let server = ModelServer {
        name: "default/server".into(),
        model: None,
        engine: EngineKind::Vllm,
        selector: BTreeMap::from([("app".to_owned(), "llama".to_owned())]),
        port: Some(port),
        pd_group: Some(group),
        connector: KvConnector::Nixl,
    };
    let workers = with_role(&[&prefill.address().to_string()], "prefill").endpoints;
    let decodes = with_role(&[&format!("{decode}:{port}")], "decode");
    Picker::start(Settings::default(), Declared { workers, model_servers: vec![server], ..declared(&[decodes]) }).await
}

async fn engine() -> Engine {
    Engine::start(EngineConfig::instant("m")).await.unwrap()
}

/// Long enough to be worth a transfer.
fn long_body() -> Vec<u8> {
    format!(r#"{{"model":"m","prompt":"{}"}}"#, "word ".repeat(400)).into_bytes()
}

#[tokio::test]
async fn envoy_is_asked_to_wait_as_long_as_the_prefill_may_take_and_a_second() {
    let prefill = engine().await;
    let picker = pair(&prefill).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(BUFFERED, NONE, &[], false)).await;
    assert_eq!(common(&envoy.hear().await), Default::default());
    envoy.say(body(&long_body(), true)).await;
    let wait = envoy.hear().await;
    let time = wait.override_message_timeout.expect("a wish for time");
    assert!((20..=21).contains(&time.seconds), "{time:?}");
    assert!(wait.response.is_none(), "Envoy ignores whatever else is in this message");
    let answer = envoy.hear().await;
    assert_eq!(destination(&answer), format!("127.0.0.9:{}", prefill.address().port()));
    assert!(common(&answer).body_mutation.is_some());
    assert_eq!(prefill.transfers().kept, 1);
}

/// Without `protocol_config`, as NGINX Gateway Fabric: to close means only that all was said.
#[tokio::test]
async fn a_data_plane_that_has_said_all_still_gets_its_answer() {
    let prefill = engine().await;
    prefill.set_fault(Fault::Slow(Duration::from_millis(100)));
    let picker = pair(&prefill).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(request_headers(&[], false)).await;
    envoy.say(body(&long_body(), true)).await;
    envoy.half_close();
    assert_eq!(envoy.destination().await, format!("127.0.0.9:{}", prefill.address().port()));
    let (whole, _) = envoy.body().await;
    assert!(whole.ends_with(b"}") && whole.len() > long_body().len());
    envoy.ends().await;
}

#[tokio::test]
async fn envoy_that_closes_meanwhile_has_no_client_any_more() {
    let prefill = engine().await;
    let picker = pair(&prefill).await;
    prefill.set_fault(Fault::Hang);
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[("x-request-id", "gone")], false)).await;
    envoy.say(body(&long_body(), true)).await;
    prefill.wait_for_request("gone", SOON).await.unwrap();
    picker.comes_to(&[1]).await;
    envoy.half_close();
    envoy.ends().await;
    picker.comes_to(&[0]).await;
    let snapshot = picker.fleet.snapshot();
    let prefills = snapshot.pools.values().flat_map(|pool| pool.endpoint(prefill.address()));
    let in_flight: u32 = prefills.map(|endpoint| endpoint.load.requests()).sum();
    assert_eq!(in_flight, 0);
    poll::until("an idle engine", SOON, async || (prefill.load() == (0, 0)).then_some(())).await.unwrap();
}
