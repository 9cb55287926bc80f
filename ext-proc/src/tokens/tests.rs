mod again;
mod reload;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use axum::Router;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// The template of the model `tiny`; the one of `parts` takes lists of parts.
const TEMPLATE: &str = "{% for m in messages %}\n{{ '<|im_start|>' + m.role + '\\n' + m.content }}\n{%- for call in m.tool_calls %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}\n{{- '<|im_end|>\\n' -}}\n{% endfor %}\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>' + (role or 'assistant') + '\\n' }}{% endif %}";
const PARTS: &str =
    "{% for m in messages %}{{ m.role }}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endfor %}";

/// Ids that a text has in the tokenizer of these tests, which has no merges: the special tokens, then a token
/// for each byte, in the order of byte-level BPE's letters for them.
fn ids(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().position(|token| rest.starts_with(token));
        let length = match special {
            Some(id) => {
                ids.push(u32::try_from(id).unwrap());
                rest.find('>').unwrap() + 1
            }
            None => {
                ids.push(if letter > ' ' { u32::from(letter) - 0x21 + 3 } else { 191 + u32::from(letter) });
                1
            }
        };
        rest = &rest[length..];
    }
    ids
}

fn tokenizer() -> Value {
    let mut letters: Vec<String> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().iter().map(ToString::to_string).collect();
    letters.sort_unstable();
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let all = special.into_iter().map(str::to_owned).chain(letters);
    let vocab: serde_json::Map<String, Value> = (0..).zip(all).map(|(id, letter)| (letter, json!(id))).collect();
    let added = |(id, content): (usize, &str)| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let added: Vec<Value> = special.into_iter().enumerate().map(added).collect();
    json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "decoder": null,
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}, "padding": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "dropout": null, "unk_token": null, "fuse_unk": false},
    })
}

/// Files of the models `tiny` and `org/parts`, removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kthena-tokens-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let directory = Self(path);
        directory.write("tiny/tokenizer.json", &tokenizer().to_string());
        directory.write(
            "tiny/tokenizer_config.json",
            &json!({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}).to_string(),
        );
        directory.write("org/parts/tokenizer.json", &tokenizer().to_string());
        directory.write("org/parts/chat_template.jinja", PARTS);
        directory
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn open(&self) -> Result<Tokenizers, String> {
        Tokenizers::open(Some(&self.0), Arc::default()).map_err(|error| error.to_string())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn whose(model: &str) -> Whose {
    Whose { models: vec!["alias".to_owned(), model.to_owned()], engine: None }
}

async fn ids_of(tokenizers: &Tokenizers, model: &str, body: Value) -> Result<Vec<u32>, Why> {
    Ok(tokenizers.ids(body.to_string().as_bytes(), &whose(model)).await?.ids.to_vec())
}

#[tokio::test]
async fn a_completion_has_special_tokens_and_a_chat_only_its_templates() {
    let directory = Directory::new("kinds");
    let tokenizers = directory.open().unwrap();
    let tiny = async |body| ids_of(&tokenizers, "tiny", body).await.unwrap();
    assert_eq!(tiny(json!({"prompt": "Hi you"})).await, ids("<|endoftext|>Hi you"));
    assert_eq!(tiny(json!({"prompt": "Hi you", "add_special_tokens": false})).await, ids("Hi you"));
    assert_eq!(tiny(json!({"prompt": [5, 6, 70000]})).await, [5, 6, 70000]);

    let hello = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]);
    let expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n";
    assert_eq!(tiny(json!({"messages": hello})).await, ids(&format!("{expected}<|im_start|>assistant\n")));
    let more = json!({"messages": hello, "add_generation_prompt": true, "chat_template_kwargs": {"role": "model", "add_generation_prompt": false}});
    assert_eq!(tiny(more).await, ids(&format!("{expected}<|im_start|>model\n")));
    let bare = json!({"messages": hello, "add_generation_prompt": false, "add_special_tokens": true});
    assert_eq!(tiny(bare).await, ids(&format!("<|endoftext|>{expected}")));

    let parts = ids_of(&tokenizers, "org/parts", json!({"messages": hello})).await.unwrap();
    assert_eq!(parts, ids("system[Be kind.]user[a][b]"));
}

#[tokio::test]
async fn tools_and_their_calls_are_what_vllm_shows_to_the_template() {
    let directory = Directory::new("tools");
    let tokenizers = directory.open().unwrap();
    let body = json!({
        "messages": [
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2.0]}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
        ],
        "tools": [{"function": {"strict": true, "name": "f"}}],
        "add_generation_prompt": false,
    });
    let expected = concat!(
        "<|im_start|>assistant\nf{\"b\": 1, \"a\": [2.0]}<|im_end|>\n<|im_start|>tool\nx\ny<|im_end|>\n",
        "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": null, \"parameters\": null, \"strict\": true}}",
    );
    assert_eq!(ids_of(&tokenizers, "tiny", body).await.unwrap(), ids(expected));
}

#[tokio::test]
async fn a_last_message_may_be_left_open() {
    let directory = Directory::new("open");
    let tokenizers = directory.open().unwrap();
    let body = |both: bool| {
        json!({
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Sure, "}],
            "continue_final_message": true, "add_generation_prompt": both,
        })
    };
    let expected = ids("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nSure, ");
    assert_eq!(ids_of(&tokenizers, "tiny", body(false)).await.unwrap(), expected);
    assert!(matches!(ids_of(&tokenizers, "tiny", body(true)).await, Err(Why::Template(_))));
}

#[tokio::test]
async fn a_chat_that_grows_keeps_the_ids_of_its_beginning() {
    let directory = Directory::new("grows");
    let [warm, cold] = [directory.open().unwrap(), directory.open().unwrap()];
    let mut messages = Vec::new();
    let mut sources = Vec::new();
    for turn in 0..5 {
        messages.push(json!({"role": "user", "content": format!("question {turn}")}));
        let body = json!({"messages": messages}).to_string();
        let first = warm.ids(body.as_bytes(), &whose("tiny")).await.unwrap();
        let again = warm.ids(body.as_bytes(), &whose("tiny")).await.unwrap();
        assert_eq!((first.source, again.source, &first.ids), (Source::Local, Source::Cache, &again.ids));
        let text: String = (0..=turn)
            .map(|turn| match turn {
                0 => format!("<|im_start|>user\nquestion {turn}<|im_end|>\n"),
                _ => {
                    format!("<|im_start|>assistant\nanswer\n<|im_end|>\n<|im_start|>user\nquestion {turn}<|im_end|>\n")
                }
            })
            .collect();
        assert_eq!(*first.ids, ids(&format!("{text}<|im_start|>assistant\n")));
        assert_eq!(
            cold.ids(body.as_bytes(), &whose("tiny")).await.unwrap().ids,
            first.ids,
            "the cache changes nothing"
        );
        messages.push(json!({"role": "assistant", "content": "answer\n"}));
        sources.push(first.source);
    }
}

#[tokio::test]
async fn what_the_engine_may_see_otherwise_has_no_ids() {
    let directory = Directory::new("why");
    let tokenizers = directory.open().unwrap();
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]);
    for (body, why) in [
        (json!({"prompt": ["a", "b"]}), Why::Several),
        (json!({"prompt": [[1], [2]]}), Why::Several),
        (json!({"input": "embed me"}), Why::NoPrompt),
        (json!({"messages": image}), Why::Unknowable("content that is not text")),
        (json!({"messages": [], "chat_template": "x"}), Why::Unknowable("chat_template")),
        (json!({"prompt": "a", "truncate_prompt_tokens": 1}), Why::Unknowable("truncate_prompt_tokens")),
    ] {
        assert_eq!(ids_of(&tokenizers, "tiny", body).await, Err(why));
    }
    assert_eq!(ids_of(&tokenizers, "other", json!({"prompt": "a"})).await, Err(Why::NoTokenizer));
    assert!(matches!(
        ids_of(&tokenizers, "org/parts", json!({"messages": [{"role": "user", "content": 5}]})).await,
        Err(Why::NoPrompt)
    ));
}

#[tokio::test]
async fn the_salt_comes_with_the_ids() {
    let tokenizers = Tokenizers::open(None, Arc::default()).unwrap();
    let body = json!({"prompt": [1, 2], "cache_salt": "tenant-a"}).to_string();
    let tokens = tokenizers.ids(body.as_bytes(), &Whose::default()).await.unwrap();
    assert_eq!((tokens.salt.as_deref(), tokens.source), (Some("tenant-a"), Source::Request));
}

#[tokio::test]
async fn without_files_the_engine_is_asked_in_the_requests_own_words() {
    let echo = async |body: String| {
        assert_eq!(body, r#"{"model":"m","prompt":"a"}"#);
        r#"{"count":2,"max_model_len":10,"tokens":[7,8],"token_strs":null}"#
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let engine = Some(listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    let hang = Router::new().route("/tokenize", post(echo));
    tasks.spawn(async move { axum::serve(listener, hang).await.unwrap() });

    let tokenizers = Tokenizers::open(None, Arc::default()).unwrap();
    let whose = Whose { models: vec!["m".to_owned()], engine };
    let tokens = tokenizers.ids(br#"{"model":"m","prompt":"a"}"#, &whose).await.unwrap();
    assert_eq!((&*tokens.ids, tokens.source), (&[7, 8][..], Source::Engine));

    let effort = br#"{"model":"m","messages":[{"role":"user","content":"a"}],"reasoning_effort":"low"}"#;
    assert_eq!(tokenizers.ids(effort, &whose).await, Err(Why::NoTokenizer), "/tokenize does not know this field");
    let hung = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let whose = Whose { engine: Some(hung.local_addr().unwrap()), ..whose };
    assert_eq!(tokenizers.ids(br#"{"model":"m","prompt":"a"}"#, &whose).await, Err(Why::Deadline));
}

#[test]
fn bad_files_are_named() {
    let directory = Directory::new("bad");
    directory.write("tiny/tokenizer_config.json", r#"{"added_tokens_decoder": {"300": {"content": "<new>"}}}"#);
    assert!(directory.open().unwrap_err().contains("`<new>` is not in tokenizer.json"));
    directory.write("tiny/tokenizer_config.json", r#"{"chat_template": "{% if %}"}"#);
    assert!(directory.open().unwrap_err().contains("tiny: the chat template"));
    directory.write("tiny/tokenizer.json", "{");
    assert!(directory.open().unwrap_err().contains("tiny/tokenizer.json: "));
    let empty = Directory::new("empty");
    let _ = fs::remove_dir_all(empty.0.join("tiny"));
    let _ = fs::remove_dir_all(empty.0.join("org"));
    assert!(empty.open().unwrap_err().contains("MODEL/tokenizer.json"));
}

#[test]
fn every_reason_is_in_the_list_of_names() {
    let all = [
        Why::NoPrompt,
        Why::Several,
        Why::Unknowable("x"),
        Why::NoTokenizer,
        Why::Template(String::new()),
        Why::Tokenizer(String::new()),
        Why::Busy,
        Why::Deadline,
        Why::Engine(String::new()),
    ];
    assert_eq!(all.map(|why| why.name()), Why::NAMES);
}
