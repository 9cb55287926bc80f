//! What is remembered, for how long, and what never passes for something else.

use super::*;

fn key(body: &str) -> Key {
    Key::of_request(body.as_bytes(), &PromptMembers::find(body.as_bytes()).unwrap(), None)
}

fn text(text: &str) -> Key {
    Key::of_text(text, &[text.len()])[0]
}

#[test]
fn a_text_has_the_same_key_alone_and_as_the_beginning_of_a_longer_one() {
    let long = "more than a hasher buffers ".repeat(100);
    let ends = [0, 1, 100, 101, 1000, long.len()];
    for (end, key) in ends.iter().zip(Key::of_text(&long, &ends)) {
        assert_eq!(key, text(&long[..*end]), "{end}");
    }
}

#[test]
fn the_least_recently_used_prompt_leaves_first() {
    let mut cache = Cache::default();
    let known = Known::bare(vec![7; (KEPT / 8 - ENTRY) / 4].into());
    let key = |number: u8| text(&char::from(b'a' + number).to_string());
    (0..8).for_each(|number| cache.put(key(number), &known));
    assert!(cache.get(key(0)).is_some());
    cache.put(key(8), &known);
    assert!(cache.get(key(1)).is_none() && cache.get(key(0)).is_some() && cache.get(key(8)).is_some());
    assert_eq!(cache.bytes, KEPT);
    cache.put(key(9), &Known::bare(vec![7; KEPT / 32].into()));
    assert!(cache.get(key(9)).is_none(), "one prompt never takes everything");
}

#[test]
fn keys_count_as_bytes_and_what_is_put_again_counts_once() {
    let mut cache = Cache::default();
    let bare = Known::bare((0..64).collect());
    let hashed = bare.hashed(&Blocks { sizes: vec![16], lora: None }).unwrap();
    let key = text("a");
    for known in [&bare, &hashed, &bare, &hashed, &hashed] {
        cache.put(key, known);
        assert_eq!((cache.bytes, cache.prompts.len(), cache.order.len()), (known.bytes(), 1, 1));
    }
    assert_eq!(hashed.bytes() - bare.bytes(), 4 * 8);
    assert_eq!(cache.get(key), Some(hashed));
    assert_eq!((cache.prompts.len(), cache.order.len()), (1, 1));
}

#[test]
fn blocks_are_hashed_once_for_each_size_and_adapter_and_no_list_of_them_grows() {
    let known = Known { salt: Some("s".into()), ..Known::bare((0..64).collect()) };
    let blocks = |sizes: &[u32], lora: Option<&str>| Blocks { sizes: sizes.to_vec(), lora: lora.map(str::to_owned) };
    let one = known.hashed(&blocks(&[16], None)).unwrap();
    assert!(one.hashed(&blocks(&[16], None)).is_none() && one.hashed(&blocks(&[], Some("a"))).is_none());
    let both = one.hashed(&blocks(&[16], Some("a"))).unwrap();
    assert_eq!(both.keys.len(), 2);
    assert!(both.keys[0].is_for(16, None, Some("s")) && both.keys[1].is_for(16, Some("a"), Some("s")));
    let more = both.hashed(&blocks(&[8, 16, 32, 64], Some("a"))).unwrap();
    assert_eq!(more.keys.len(), KEYED);
    assert!(more.keys[0].is_for(16, Some("a"), Some("s")), "the oldest went");
    let most = more.hashed(&blocks(&[1, 2, 3, 4, 5, 6], None)).unwrap();
    assert_eq!(most.keys.len(), KEYED);
}

#[test]
fn whatever_the_tokens_depend_on_makes_another_key() {
    let text = "word ".repeat(2000);
    let chat = |rest: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]{rest}}}"#);
    let image = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#;
    let parts = |parts: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{parts}]}}]}}"#);
    let all = [
        chat(""),
        chat("").replace("word \"}", "wore \"}"),
        chat("").replace("\"word ", "\"work "),
        chat("").replace("\"user\"", "\"system\""),
        chat(r#","tools":[{"function":{"name":"f"}}]"#),
        chat(r#","tools":[{"function":{"name":"g"}}]"#),
        chat(r#","chat_template_kwargs":{"enable_thinking":true}"#),
        chat(r#","chat_template_kwargs":{"enable_thinking":false}"#),
        chat(r#","documents":[]"#),
        chat(r#","reasoning_effort":"low""#),
        chat(r#","chat_template":"x""#),
        chat(r#","add_generation_prompt":false"#),
        chat(r#","continue_final_message":true"#),
        chat(r#","add_special_tokens":true"#),
        chat(r#","add_special_tokens":false"#),
        chat(r#","truncate_prompt_tokens":1"#),
        chat(r#","prompt_embeds":"1""#),
        chat(r#","cache_salt":"a""#),
        chat(r#","cache_salt":"b""#),
        chat(r#","prompt":"a""#),
        chat(r#","prompt":"a","prompt":"a""#),
        chat(r#","prompt":"a,""#),
        r#"{"prompt":"ab"}"#.to_owned(),
        r#"{"prompt":["a","b"]}"#.to_owned(),
        r#"{"messages":"ab"}"#.to_owned(),
        r#"{"model":"m"}"#.to_owned(),
        parts(image),
        parts(&image.replace("AAAA", "AAAB")),
        parts(r#"{"type":"text","text":"a"}"#),
    ];
    let distinct: std::collections::HashSet<Key> = all.iter().map(|body| key(body)).collect();
    assert_eq!(distinct.len(), all.len());
    let body = all[0].as_bytes();
    let members = PromptMembers::find(body).unwrap();
    assert_ne!(Key::of_request(body, &members, Some(1)), Key::of_request(body, &members, Some(2)), "another day");
    assert_ne!(Key::of_request(body, &members, Some(1)), key(&all[0]));
}

#[test]
fn what_changes_no_token_changes_no_key() {
    let one = r#"{"model":"m","messages":[{"role":"user","content":"a"}],"max_tokens":5}"#;
    let other = r#"{ "temperature": 1.0, "messages" : [{"role":"user","content":"a"}] , "model":"n", "user": "u" }"#;
    assert_eq!(key(one), key(other));
}
