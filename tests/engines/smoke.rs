//! The engines themselves: what the other tests stand on.

use crate::fleet::{Fleet, MODEL, Role, SOON};
use tests::{client, poll};

#[tokio::test]
async fn four_engines_answer_alike_and_end_with_their_fleet() {
    let fleet = Fleet::start(&[Role::Whole, Role::Whole, Role::Prefill, Role::Decode]).await.unwrap();
    let mut answers = Vec::new();
    for engine in fleet.engines() {
        let ask = engine.client().complete(MODEL, "once upon a time").max_tokens(8);
        let reply = ask.field("temperature", 0).field("ignore_eos", true).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        answers.push(reply.json().unwrap()["choices"][0]["text"].clone());
    }
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|answer| answer == &answers[0] && answer != ""), "{answers:?}");
    let addresses = fleet.addresses();
    drop(fleet);
    for address in addresses {
        poll::until("the engine's end", SOON, async || client::get(address, "/health").await.err()).await.unwrap();
    }
}
