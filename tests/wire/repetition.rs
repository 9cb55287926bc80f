//! Two streams about one request are one request.

use crate::envoy::Stream;
use crate::messages::*;
use crate::picker::Picker;

async fn ask(picker: &Picker, id: &str, bytes: &[u8]) -> (Stream, String) {
    let mut envoy = Stream::open(picker.address).await;
    let headers: &[_] = if id.is_empty() { &[] } else { &[("x-request-id", id)] };
    envoy.say(first(FULL_DUPLEX, FULL_DUPLEX, headers, false)).await;
    envoy.say(body(bytes, true)).await;
    let destination = envoy.destination().await;
    envoy.body().await;
    (envoy, destination)
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_and_counts_once() {
    let picker = Picker::over(&["127.0.0.1:8000", "127.0.0.2:8000", "127.0.0.3:8000"]).await;
    let (mut one, first) = ask(&picker, "id-1", BODY).await;
    let (two, second) = ask(&picker, "id-1", BODY).await;
    assert_eq!(first, second);
    assert_eq!(picker.in_flight().iter().sum::<u32>(), 1);
    let counted = picker.in_flight();
    one.half_close();
    one.ends().await;
    // The second stream still is the request, also for a third.
    let (three, third) = ask(&picker, "id-1", BODY).await;
    assert_eq!((third, picker.in_flight()), (first, counted));
    drop((two, three));
    picker.comes_to(&[0, 0, 0]).await;
}

#[tokio::test]
async fn another_body_or_no_id_is_another_request() {
    let picker = Picker::over(&["127.0.0.1:8000", "127.0.0.2:8000"]).await;
    let _one = ask(&picker, "id-1", BODY).await;
    let _two = ask(&picker, "id-1", br#"{"model":"m","prompt":"another"}"#).await;
    assert_eq!(picker.in_flight(), [1, 1]);
    let _three = ask(&picker, "", BODY).await;
    let _four = ask(&picker, "", BODY).await;
    assert_eq!(picker.in_flight().iter().sum::<u32>(), 4);
}

#[tokio::test]
async fn streams_at_the_same_instant_are_one_request_too() {
    let picker = Picker::over(&["127.0.0.1:8000", "127.0.0.2:8000", "127.0.0.3:8000"]).await;
    let asked = futures_util::future::join_all((0..20).map(|_| ask(&picker, "id-1", BODY))).await;
    let destinations: std::collections::BTreeSet<_> = asked.iter().map(|(_, destination)| destination).collect();
    assert_eq!(destinations.len(), 1);
    assert_eq!(picker.in_flight().iter().sum::<u32>(), 1);
}

#[tokio::test]
async fn a_retry_after_a_failed_answer_is_decided_anew() {
    let picker = Picker::over(&["127.0.0.1:8000", "127.0.0.2:8000"]).await;
    let (mut failed, _) = ask(&picker, "id-1", BODY).await;
    failed.say(response_headers("503")).await;
    failed.hear().await;
    let _retry = ask(&picker, "id-1", BODY).await;
    assert_eq!(picker.in_flight(), [1, 1], "the failed one is still open");
}
