//! Decisions as they come, and what explains them.

use serde_json::{Value, json};

use crate::world::{ALIAS, World};

const DETAIL: &str = "document.querySelector('#decisions tr.detail')";

#[tokio::test]
async fn a_decision_appears_by_itself_with_its_reason_and_its_trace() {
    let mut world = World::instant().await;
    world.until("the empty list", "decisions.innerText === 'No request has been decided yet.'").await;
    let decision = world.ask("hello").await;
    let row = world.until_decision(&decision).await;
    assert_eq!((&row["why"], &row["endpoint"]), (&decision["reason"], &decision["endpoint"]));
    assert_eq!((&row["pool"], &row["model"]), (&json!("default/llama"), &json!(ALIAS)));
    assert_eq!(row["took"], format!("{} µs", decision["durationMicros"]));
    world.finish().await;
}

/// What is open, with all that the decision says.
async fn assert_explains(world: &mut World, decision: &Value) {
    let shown = world.text(&format!("{DETAIL}.innerText")).await;
    for key in ["traceId", "requestId", "targetModel", "route", "modelServer"] {
        let said = decision[key].as_str().unwrap();
        assert!(!said.is_empty() && shown.contains(said), "{key} {said} is missing in: {shown}");
    }
    for candidate in decision["candidates"].as_array().unwrap() {
        assert!(shown.contains(candidate["address"].as_str().unwrap()), "{candidate} is missing in: {shown}");
    }
    for scorer in decision["scorers"].as_array().unwrap() {
        assert!(shown.contains(scorer["name"].as_str().unwrap()), "{scorer} is missing in: {shown}");
    }
    let chosen = world.text(&format!("{DETAIL}.querySelector('tr.chosen code').innerText")).await;
    assert_eq!(chosen, decision["endpoint"]);
}

#[tokio::test]
async fn a_click_explains_a_decision_and_the_list_stands_still_meanwhile() {
    let mut world = World::instant().await;
    let first = world.ask("hello").await;
    world.until_decision(&first).await;
    world.browser.click("#decisions tr.pick td.why").await.unwrap();
    assert_explains(&mut world, &first).await;

    let second = world.ask("hello again").await;
    world.until("word of the other", "newer.innerText === 'show 1 newer'").await;
    assert_eq!(world.rows("decisions").await.len(), 1);
    assert_explains(&mut world, &first).await;
    world.browser.click("#newer").await.unwrap();
    world.until_decision(&second).await;
    assert_eq!(world.rows("decisions").await.len(), 2);
    world.until("that nothing is open", &format!("!{DETAIL} && !newer.innerText")).await;
    world.finish().await;
}

#[tokio::test]
async fn the_keyboard_opens_and_closes_a_decision() {
    let mut world = World::instant().await;
    let decision = world.ask("hello").await;
    world.until_decision(&decision).await;
    let button = "document.querySelector('#decisions button')";
    world.browser.evaluate(&format!("{button}.focus()")).await.unwrap();
    world.browser.press_enter().await.unwrap();
    assert_explains(&mut world, &decision).await;
    let state = format!("`${{{button}.ariaExpanded}} ${{document.activeElement === {button}}}`");
    assert_eq!(world.text(&state).await, "true true", "open, and the focus is where it was");
    world.browser.press_enter().await.unwrap();
    assert_eq!(world.text(&state).await, "false true");
    world.until("that it is closed", &format!("!{DETAIL}")).await;
    world.finish().await;
}

#[tokio::test]
async fn markup_in_a_request_is_shown_as_text() {
    let mut world = World::instant().await;
    let model = r#"<img src="/x" onerror="window.isTaken = 1"><b>bold</b>"#;
    let id = "<script>window.isTaken=2</script>";
    let reply = world.client.chat(model, &[("user", "x")]).request_id(id).send().await.unwrap();
    assert_eq!(reply.status, 404, "{}", reply.text());
    world.until("the refusal", "document.querySelector('#decisions tr.pick')").await;
    let rows = world.rows("decisions").await;
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["model"], &rows[0]["endpoint"]), (&json!(model), &json!("404 model_not_found")));
    world.browser.click("#decisions tr.pick").await.unwrap();
    let shown = world.text(&format!("{DETAIL}.innerText")).await;
    assert!(shown.contains(id) && shown.contains(model), "{shown}");
    let made = "decisions.querySelectorAll('img, script, b').length + (window.isTaken ?? 0)";
    assert_eq!(world.browser.evaluate(made).await.unwrap(), 0);
    world.finish().await;
}
