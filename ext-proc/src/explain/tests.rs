//! Dry runs.

use scheduling::{EngineHash, KvEvent, Medium, Profile};
use serde_json::json;

use super::*;
use crate::fleet::fixtures;

#[tokio::test]
async fn a_dry_run_compares_the_prompts_tokens_as_a_request_would() {
    const WARM: &str = "10.0.0.2:8000";
    let fleet = Arc::new(fixtures::fleet(&["10.0.0.1:8000", WARM]));
    let profile = json!({"scheduler": {"plugins": {"Score": {"enabled": [{"name": "kvcache-aware", "weight": 1}]}}}});
    fleet.set_profile(Profile::from_value(&profile).unwrap());
    let ids: Vec<u32> = (0..100).collect();
    let stored = KvEvent::Stored {
        hashes: (1..=6).map(EngineHash).collect(),
        parent: None,
        tokens: ids[..96].to_vec(),
        block_size: 16,
        lora: None,
        salt: None,
        medium: Medium::Gpu,
    };
    let snapshot = fleet.snapshot();
    let warm = snapshot.pools[&fixtures::pool()].endpoint(WARM.parse().unwrap()).unwrap();
    snapshot.kv.apply(warm.slot, 0, &[stored]);

    let body = json!({"model": "m", "prompt": ids}).to_string().into_bytes();
    let asked = DryRunRequest { body, path: "/v1/completions".to_owned(), ..DryRunRequest::default() };
    let tokenizers = Arc::new(Tokenizers::open(None, Arc::default()).unwrap());
    let record = Explainer::new(Arc::clone(&fleet), Arc::default(), Some(tokenizers)).dry_run(&asked).await.unwrap();
    let held = |record: &DecisionRecord| {
        let warm = record.candidates.iter().find(|candidate| candidate.address == WARM);
        warm.and_then(|warm| warm.held_tokens)
    };
    assert_eq!((record.endpoint.as_str(), held(&record)), (WARM, Some(96)), "{record:?}");
    let without = Explainer::new(fleet, Arc::default(), None).dry_run(&asked).await.unwrap();
    assert_eq!(held(&without), None, "{without:?}");
}
