//! Endpoints, pools and routes, and what is wrong with them.

use serde_json::{Value, json};
use tests::engine::Fault;
use tests::process::Signal;

use crate::world::{ALIAS, MODEL, SILENT, World};

/// An engine with a queue, as it tells it.
const BUSY: &str = "vllm:num_requests_running{model_name=\"tiny\"} 3\n\
                    vllm:num_requests_waiting{model_name=\"tiny\"} 7\n\
                    vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.42\n";

fn is_age(text: &Value) -> bool {
    let seconds = text.as_str().and_then(|text| text.strip_suffix(" s ago")).and_then(|text| text.parse::<f64>().ok());
    seconds.is_some_and(|seconds| (0.0..60.0).contains(&seconds))
}

#[tokio::test]
async fn every_endpoint_is_shown_with_its_load_queue_cache_and_age() {
    let mut world = World::endless(|engines| engines[0].set_fault(Fault::Metrics(BUSY.to_owned()))).await;
    let [busy, idle] = [0, 1].map(|index| world.engines[index].address().to_string());
    world.until_endpoint(&busy, "waiting", "7").await;
    world.until_endpoint(&idle, "waiting", "0").await;
    assert_eq!(world.rows("fleet").await.len(), 3);
    let row = world.endpoint(&busy).await;
    assert_eq!((&row["pod"], &row["pool"]), (&json!("default/llama-0"), &json!("default/llama")));
    assert_eq!((&row["in flight"], &row["running"], &row["KV cache"]), (&json!("0"), &json!("3"), &json!("42 %")));
    assert!(is_age(&row["gauges read"]), "{row:#}");
    let row = world.endpoint(&idle).await;
    assert_eq!((&row["running"], &row["KV cache"]), (&json!("0"), &json!("0 %")));
    let row = world.endpoint(SILENT).await;
    assert_eq!((&row["waiting"], &row["gauges read"]), (&json!("–"), &json!("never read")));

    // To the idle one, as long as the client listens.
    let answer = world.client.chat(ALIAS, &[("user", "x")]).stream(true).call().start().await.unwrap();
    world.until_endpoint(&idle, "in flight", "1").await;
    world.until_endpoint(&idle, "running", "1").await;
    drop(answer);
    world.until_endpoint(&idle, "in flight", "0").await;
    world.finish().await;
}

#[tokio::test]
async fn pools_and_routes_are_shown_and_follow_their_files() {
    let mut world = World::instant().await;
    let pools = "[...document.querySelectorAll('.pool')].map(pool => pool.innerText).join('; ')";
    assert_eq!(world.text(pools).await, "default/llama 2/2 ready; default/qwen 1/1 ready");
    let route = json!({
        "model": ALIAS, "adapters": "sql", "rule": "always", "model server": "llama", "engines' name": MODEL,
        "pods": "2", "route": "default/chat",
    });
    assert_eq!(world.rows("routes").await, [route]);

    world.config.model_route("next", "other", &[], "nobody").unwrap();
    world.until("the new route", "document.querySelectorAll('#routes tbody tr').length === 2").await;
    let wrong = world.text("document.querySelector('#routes .bad').innerText").await;
    assert_eq!(wrong, "nobody", "a ModelServer that is not there");

    world.config.write_text("wrong.yaml", "kind: [").unwrap();
    world.until("what is wrong", "document.getElementById('error').innerText").await;
    let said = world.text("document.getElementById('error').innerText").await;
    assert!(said.starts_with("the last good configuration is kept: ") && said.contains("wrong.yaml"), "{said}");
    world.config.remove("wrong.yaml").unwrap();
    world.until("that it was mended", "!document.getElementById('error').innerText").await;
    world.finish().await;
}

#[tokio::test]
async fn a_picker_that_is_gone_is_told() {
    let mut world = World::instant().await;
    world.picker.process().signal(Signal::Kill).unwrap();
    world.until("that it is gone", "document.getElementById('error').innerText").await;
    let said = world.text("document.getElementById('error').innerText").await;
    assert!(said.starts_with("the picker does not answer: "), "{said}");
    assert!(!world.browser.complaints().is_empty(), "the browser has seen it too");
    world.browser.close().await.unwrap();
}
