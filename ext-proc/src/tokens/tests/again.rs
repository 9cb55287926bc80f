//! Requests that come again, and those that only look like it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::files::{self, Files};
use super::*;

#[tokio::test]
async fn a_request_that_comes_again_is_known_and_one_that_differs_is_not() {
    let directory = Directory::new("again");
    let [warm, cold] = [directory.open().unwrap(), directory.open().unwrap()];
    let text = "word ".repeat(400);
    let chat = json!({"messages": [{"role": "user", "content": text}]});
    let with = |name: &str, value: Value| {
        let mut body = chat.clone();
        body[name] = value;
        body
    };
    let tool = |name: &str| json!([{"type": "function", "function": {"name": name}}]);
    let turns = |last: &str| json!([{"role": "user", "content": text}, {"role": "user", "content": last}]);
    let all = [
        chat.clone(),
        with("messages", json!([{"role": "user", "content": format!("{}!", text.trim_end())}])),
        with("messages", json!([{"role": "tool", "content": text}])),
        with("messages", turns("a")),
        with("messages", turns("b")),
        with("tools", tool("f")),
        with("tools", tool("g")),
        with("chat_template_kwargs", json!({"role": "model"})),
        with("chat_template_kwargs", json!({"role": "critic"})),
        with("add_generation_prompt", json!(false)),
        with("add_special_tokens", json!(true)),
        with("cache_salt", json!("a")),
        with("cache_salt", json!("b")),
        json!({"prompt": text}),
        json!({"prompt": text, "add_special_tokens": false}),
    ];
    let ask = async |tokenizers: &Tokenizers, body: &Value| {
        tokenizers.ids(body.to_string().as_bytes(), &whose("tiny")).await.unwrap()
    };
    for body in &all {
        assert_eq!(ask(&warm, body).await.source, Source::Local, "{body}");
    }
    for body in all.iter().rev() {
        let (again, expected) = (ask(&warm, body).await, ask(&cold, body).await);
        assert_eq!((again.source, expected.source), (Source::Cache, Source::Local));
        assert_eq!((&again.ids, &again.salt), (&expected.ids, &expected.salt), "{body}");
        assert_eq!(again.salt.as_deref(), body["cache_salt"].as_str());
        let mut hotter = body.clone();
        hotter["temperature"] = json!(0.5);
        assert_eq!(ask(&warm, &hotter).await, again, "what changes no token");
    }
    assert!(ids_of(&warm, "org/parts", chat.clone()).await.unwrap() != ids_of(&warm, "tiny", chat).await.unwrap());
}

#[tokio::test]
async fn what_has_no_ids_has_none_the_second_time_either() {
    let directory = Directory::new("never");
    let tokenizers = directory.open().unwrap();
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]});
    let image = part(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}));
    let twice = r#"{"messages": [], "messages": [{"role": "user", "content": "a"}]}"#;
    for _ in 0..2 {
        ids_of(&tokenizers, "tiny", part(json!("b"))).await.unwrap();
        assert!(matches!(ids_of(&tokenizers, "tiny", image.clone()).await, Err(Why::Unknowable(_))));
        assert_eq!(tokenizers.ids(twice.as_bytes(), &whose("tiny")).await, Err(Why::NoPrompt));
        // An array passes for a request in some readers: it has no members to be known by.
        for text in ["a", "b"] {
            let array = json!([{"prompt": text}]).to_string();
            assert!(tokenizers.ids(array.as_bytes(), &whose("tiny")).await.is_err());
        }
    }
}

#[tokio::test]
async fn blocks_are_hashed_with_the_ids_and_for_each_size_and_adapter_anew() {
    let directory = Directory::new("blocks");
    let tokenizers = directory.open().unwrap();
    let body = json!({"messages": [{"role": "user", "content": "word ".repeat(100)}], "cache_salt": "s"}).to_string();
    let members = PromptMembers::find(body.as_bytes());
    let asked: [(&[u32], Option<&str>); 5] =
        [(&[], None), (&[16], None), (&[16], Some("a")), (&[16, 32], Some("a")), (&[16, 32], None)];
    for (sizes, lora) in asked {
        let blocks = Blocks { sizes: sizes.to_vec(), lora: lora.map(str::to_owned) };
        let tokens = tokenizers.tokens(body.as_bytes(), members.as_ref(), &whose("tiny"), &blocks).await.unwrap();
        for size in sizes {
            let keys = tokens.keys.iter().find(|keys| keys.is_for(*size, lora, Some("s"))).unwrap();
            assert_eq!(*keys, PromptKeys::new(&tokens.ids, *size, lora, Some("s")));
        }
    }
    assert_eq!(
        tokenizers.tokens(body.as_bytes(), None, &whose("tiny"), &Blocks::default()).await.unwrap().source,
        Source::Local
    );
}

#[test]
fn a_template_that_asks_for_the_date_is_rendered_anew_each_day() {
    let directory = Directory::new("date");
    directory.write("tiny/chat_template.jinja", "{{ strftime_now('%d %b %Y') }}");
    let files = Files::read(&files::look(&directory.0).unwrap(), &Files::default()).unwrap();
    let body = br#"{"messages": []}"#;
    let members = PromptMembers::find(body).unwrap();
    let key = |model: &str, second: u64| {
        let now: SystemTime = UNIX_EPOCH + Duration::from_secs(second);
        files.model(model).unwrap().key(body, &members, now)
    };
    assert_eq!(key("tiny", 86_400), key("tiny", 2 * 86_400 - 1));
    assert_ne!(key("tiny", 86_400), key("tiny", 2 * 86_400));
    assert_eq!(key("org/parts", 86_400), key("org/parts", 2 * 86_400), "it does not ask");
}
