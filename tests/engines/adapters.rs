//! Equal prompts that are not equal to a cache: for adapters, and under a salt.

use tests::scratch::Scratch;

use crate::caches::{batches, cached_stage, foretold_and_taken, heard, hits, ids, past, thousand};
use crate::fleet::{ADAPTERS, Fleet, Role};

#[tokio::test]
async fn adapters_and_salts_have_blocks_of_their_own() {
    let files = Scratch::new("profile").unwrap();
    let fleet = Fleet::start(&[Role::Adapted]).await.unwrap();
    let port = fleet.ports.events;
    let stage = cached_stage(fleet, "kvcache-aware", &files, port, |options| options).await;
    let engine = &stage.fleet.engines()[0];
    let name = engine.address().to_string();
    // 256 blocks hold five prompts of 31 whole blocks each.
    let prompt = &thousand(1)[..500];
    let kinds = [
        ("the model", None, None),
        ("an adapter", Some(ADAPTERS[0]), None),
        ("another adapter", Some(ADAPTERS[1]), None),
        ("a salt", None, Some("tenant-a")),
        ("another salt", None, Some("tenant-b")),
    ];
    let mut all = 0;
    for (what, adapter, salt) in kinds {
        let ask = |client| {
            let mut ask = ids(client, prompt);
            if let Some(adapter) = adapter {
                ask = ask.field("model", adapter);
            }
            if let Some(salt) = salt {
                ask = ask.field("cache_salt", salt);
            }
            ask
        };
        let before = batches(&stage, &name).await.unwrap();
        let reply = ask(&stage.client).send().await.unwrap();
        assert_eq!(foretold_and_taken(&stage, &reply).await, (0, 0), "nobody has computed it for {what}");
        heard(&stage, &name, before).await;
        let reply = ask(&stage.client).send().await.unwrap();
        assert_eq!(foretold_and_taken(&stage, &reply).await, (496, 496), "it was computed for {what}");
        all += 496;
    }
    // What is told past the picker is believed by the same keys.
    let own = engine.client();
    past(&stage, engine, ids(&own, &thousand(2)[..500]).field("model", ADAPTERS[0])).await;
    let reply = ids(&stage.client, &thousand(2)[..500]).field("model", ADAPTERS[0]).send().await.unwrap();
    assert_eq!(foretold_and_taken(&stage, &reply).await, (496, 496));
    assert_eq!(hits(&stage).await, all + 496);
    stage.assert_idle().await;
    println!("{} cached tokens of {} kinds of one prompt foretold, and taken", all + 496, kinds.len());
}
