//! The picker's token ids, against those that a real engine computes from.

use std::sync::Arc;

use kthena_ext_proc::tokens::{Source, TokenMetrics, Tokenizers, Whose};
use serde_json::{Value, json};

use crate::fleet::{Engine, Fleet, MODEL, Role};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// Spaces, line ends, scripts and symbols that tokenizers treat each in its way.
const ODD: &str = "  Two  spaces,\n\na tab\t, naïve café, 東京タワー, नमस्ते, 👩‍👩‍👧 e\u{301}, it's 3.14 <|turn|>x<|over|> {\"a\": [1, 2]}\r\n ";

fn bodies() -> Vec<(&'static str, &'static str, Value)> {
    let weather = json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Weather \"now\" in a city: 東京 & <Zürich>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "default": 3}, "exact": {"type": "number", "default": 1.50}},
            "required": ["city"],
        },
    }});
    let clock =
        json!({"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}});
    let called = json!([
        {"role": "user", "content": "How is it there?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call-1", "type": "function", "function": {
            "name": "get_weather", "arguments": "{\"city\": \"Zürich\", \"days\": 2}",
        }}]},
        {"role": "tool", "tool_call_id": "call-1", "content": "{\"rain\": true}"},
        {"role": "user", "content": "So?"},
    ]);
    let turns = json!([
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": ODD},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Why? "},
    ]);
    let parts =
        json!([{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]);
    vec![
        ("text", COMPLETIONS, json!({"prompt": "once upon a time"})),
        ("odd text", COMPLETIONS, json!({"prompt": ODD})),
        ("text without special tokens", COMPLETIONS, json!({"prompt": ODD, "add_special_tokens": false})),
        ("token ids", COMPLETIONS, json!({"prompt": [5, 6, 7, 300, 301]})),
        ("one turn", CHAT, json!({"messages": [{"role": "user", "content": "hello"}]})),
        ("turns", CHAT, json!({"messages": turns})),
        ("content in parts", CHAT, json!({"messages": parts})),
        ("no opening for the answer", CHAT, json!({"messages": turns, "add_generation_prompt": false})),
        ("tools", CHAT, json!({"messages": turns, "tools": [weather, clock], "tool_choice": "none"})),
        ("tools that were called", CHAT, json!({"messages": called, "tools": [weather], "tool_choice": "none"})),
    ]
}

/// Ids of the prompt that the engine computed, in its answer to the request itself.
async fn computed(engine: &Engine, path: &str, body: &Value) -> Vec<u32> {
    let mut body = body.clone();
    body["return_token_ids"] = true.into();
    let reply = engine.client().post(path, body.to_string()).send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json().unwrap();
    let of_chat = answer.get("prompt_token_ids").filter(|ids| ids.is_array());
    serde_json::from_value(of_chat.unwrap_or(&answer["choices"][0]["prompt_token_ids"]).clone()).unwrap()
}

#[tokio::test]
async fn our_token_ids_are_those_that_the_engine_computes_from() {
    let fleet = Fleet::start(&[Role::Whole]).await.unwrap();
    let engine = &fleet.engines()[0];
    let tokenizers = Tokenizers::open(Some(&fleet.tokenizers()), Arc::new(TokenMetrics::default())).unwrap();
    let asking = Tokenizers::open(None, Arc::new(TokenMetrics::default())).unwrap();
    let whose = Whose { models: vec![MODEL.to_owned()], engine: None };
    let mut equal = 0;
    for (what, path, mut body) in bodies() {
        body["model"] = MODEL.into();
        body["max_tokens"] = 1.into();
        let expected = computed(engine, path, &body).await;
        let text = body.to_string();
        let ours = tokenizers.ids(text.as_bytes(), &whose).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(ours.ids[..], expected, "{what}");
        // A picker without the model's files asks the engine's /tokenize.
        let ask = Whose { models: Vec::new(), engine: Some(engine.address()) };
        let asked = asking.ids(text.as_bytes(), &ask).await.unwrap_or_else(|why| panic!("{what}, asked: {why}"));
        assert_eq!(asked.ids[..], expected, "{what}, asked");
        let given = body["prompt"].is_array();
        assert_eq!((ours.source == Source::Request, asked.source == Source::Engine), (given, !given), "{what}");
        equal += expected.len();
    }
    println!("{equal} token ids of {} prompts are the engine's own", bodies().len());
}
