//! What a pick counts, and where.

use std::borrow::Cow;

use scheduling::{Body, Content, Prompt};

use super::fixtures::{pairs, pool};
use super::*;
use crate::from_proto::WireHeaders;

fn pick(fleet: &Fleet) -> Picked {
    let (headers, prompt) = (WireHeaders::default(), vec![b'x'; 4096]);
    let body = Body {
        model: Cow::Borrowed("m"),
        stream: false,
        max_tokens: None,
        prompt: Prompt { pieces: vec![Cow::Borrowed(prompt.as_slice())] },
    };
    let content = Content::Parsed(body);
    fleet
        .pick(
            &pool(),
            &Request {
                id: "id",
                path: "/v1/completions",
                headers: &headers,
                content,
                subset: None,
                tokens: None,
                resolution: None,
            },
        )
        .unwrap()
}

/// Requests and tokens in flight at each endpoint, by port.
fn in_flight(fleet: &Fleet) -> Vec<(u16, u32, u64)> {
    let snapshot = fleet.snapshot();
    let endpoints = snapshot.pools[&pool()].all_endpoints();
    endpoints.map(|it| (it.address.port(), it.load.requests(), it.load.uncached_tokens())).collect()
}

#[test]
fn a_pick_counts_prompt_tokens_at_prefill_until_prefill_is_done() {
    let fleet = pairs(&[2, 3]);
    let mut picked = pick(&fleet);
    let prefills = picked.decision.disaggregation.as_ref().unwrap().prefills.clone();
    let (first, second) = (prefills[0].address.port(), prefills[1].address.port());
    let counted = |at: Option<u16>| {
        let prefill = |port| if at == Some(port) { (port, 1, 1024) } else { (port, 0, 0) };
        vec![(1, 1, 0), prefill(2), prefill(3)]
    };
    assert_eq!(in_flight(&fleet), counted(Some(first)));
    picked.prefill_at(&prefills[1]);
    assert_eq!(in_flight(&fleet), counted(Some(second)));
    picked.prefill_done();
    assert_eq!(in_flight(&fleet), counted(None));
    picked.prefill_at(&prefills[0]);
    assert_eq!(in_flight(&fleet), counted(Some(first)), "a repeated request is prefilled once more");
    drop(picked);
    assert_eq!(in_flight(&fleet), [(1, 0, 0), (2, 0, 0), (3, 0, 0)]);
}

#[test]
fn where_prefill_fails_for_good_decode_has_the_prompt_to_compute() {
    let fleet = pairs(&[2]);
    let mut picked = pick(&fleet);
    picked.decode_alone();
    assert_eq!(in_flight(&fleet), [(1, 1, 1024), (2, 0, 0)]);
    drop(picked);
    assert_eq!(in_flight(&fleet), [(1, 0, 0), (2, 0, 0)]);
}

#[test]
fn both_endpoints_of_a_pair_learn_the_prompt() {
    let fleet = pairs(&[2]);
    let picked = pick(&fleet);
    let prefill = picked.decision.disaggregation.as_ref().unwrap().prefills[0].address;
    fleet.learn(&picked.decision, prefill);
    assert_eq!(pick(&fleet).decision.disaggregation.as_ref().unwrap().uncached_tokens, 0);
    fleet.learn(&picked.decision, picked.decision.endpoint().unwrap().address);
    assert!(pick(&fleet).decision.disaggregation.as_ref().unwrap().prefills.is_empty(), "decode holds it all");
}

#[test]
fn an_endpoint_that_fails_five_times_in_a_row_is_avoided() {
    let fleet = pairs(&[2, 3]);
    let failing = pick(&fleet).decision.disaggregation.as_ref().unwrap().prefills[0].address;
    for _ in 0..5 {
        fleet.outcome(&pool(), failing, false);
    }
    let picked = pick(&fleet);
    let pair = picked.decision.disaggregation.as_ref().unwrap();
    assert!(pair.prefills.len() == 1 && pair.prefills[0].address != failing, "{}", picked.decision);
}
