//! What KV awareness needs: a tokenizer for the picker's process, and engines that say what they hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kthena_ext_proc::tokens::{Tokenizers, Whose};
use serde_json::{Map, Value, json};
use tests::client::Client;
use tests::engine::{Engine, EngineConfig, KvEvents, KvPorts};
use tests::picker::Picker;
use tests::poll;
use tests::scratch::Scratch;

use crate::load::WORDS;

const MODEL: &str = "bench";
const PROFILE: &str = "scheduler:\n  plugins:\n    Score:\n      enabled:\n        - {name: least-request, weight: 1}\n        - {name: kvcache-aware, weight: 1}\n";
/// Blocks that an engine keeps: all that is asked here.
const BLOCKS: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

/// Simulated engines whose caches are filled past the picker. They only tell; requests go to endpoints of
/// the same addresses that cost less.
#[derive(Debug)]
pub(crate) struct Kv {
    /// Each with the number of prompts that it holds.
    engines: Vec<(Engine, u64)>,
    ports: KvPorts,
    files: Scratch,
}

impl Kv {
    /// An engine for each of these endpoints.
    pub(crate) async fn start(endpoints: &[SocketAddr]) -> Result<Self> {
        let config = |host: &SocketAddr| EngineConfig {
            address: SocketAddr::new(host.ip(), 0),
            cache_blocks: BLOCKS,
            ..EngineConfig::instant(MODEL)
        };
        let mut engines = Vec::new();
        for host in endpoints {
            engines.push(Engine::start(config(host)).await?);
        }
        let ports = Engine::publish_kv_events(&engines, KvEvents::default()).await?;
        let engines = engines.into_iter().map(|engine| (engine, 0)).collect();
        let files = Scratch::new("kv")?;
        std::fs::write(files.file("profile.yaml"), PROFILE)?;
        let folder = files.file("tokenizers").join(MODEL);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("tokenizer.json"), tokenizer().to_string())?;
        std::fs::write(folder.join("chat_template.jinja"), TEMPLATE)?;
        Ok(Self { engines, ports, files })
    }

    /// What a picker has to be told, as `flag=value`.
    pub(crate) fn flags(&self) -> Vec<String> {
        vec![
            format!("scheduler-config={}", self.files.file("profile.yaml").display()),
            format!("tokenizer-dir={}", self.files.file("tokenizers").display()),
            format!("kv-events-port={}", self.ports.events),
            format!("kv-replay-port={}", self.ports.replay),
        ]
    }

    /// Has each engine hold its share of the prompts, and waits until `picker` knows.
    pub(crate) async fn fill(&mut self, bodies: &[Bytes], picker: &Picker) -> Result<()> {
        let tokenizers = Tokenizers::open(Some(&self.files.file("tokenizers")), Arc::default())?;
        let whose = Whose { models: vec![MODEL.to_owned()], engine: None };
        for (place, body) in bodies.iter().enumerate() {
            let mut ids = tokenizers.ids(body, &whose).await;
            for _ in 0..20 {
                if ids.is_ok() {
                    break;
                }
                // Slower than a request may wait, here as in the picker: the next time it is there.
                ids = tokenizers.ids(body, &whose).await;
            }
            let ids = ids.context("the prompt cannot be tokenized")?.ids;
            let count = self.engines.len();
            let (engine, held) = self.engines.get_mut(place % count).context("an engine")?;
            let ask = json!({"model": MODEL, "prompt": &ids[..], "max_tokens": 1}).to_string();
            let call = Client::new(engine.address()).post("/v1/completions", Bytes::from(ask));
            let reply = call.header("content-type", "application/json").send().await?;
            ensure!(reply.status == 200, "{}", reply.text());
            // What it computed for one prompt is one batch of events.
            *held += 1;
        }
        poll::until("the engines' events", SOON, async || {
            let fleet = picker.fleet().await.ok()?;
            let heard = |(engine, held): &(Engine, u64)| {
                let host = format!("{}:", engine.address().ip());
                let mut own = fleet
                    .iter()
                    .filter(|endpoint| endpoint["address"].as_str().is_some_and(|address| address.starts_with(&host)));
                own.any(|endpoint| endpoint["kvEvents"][0]["nextSequence"] == *held)
            };
            self.engines.iter().all(heard).then_some(())
        })
        .await
    }

    /// Where the tokens of prompts came from, and how many prompts had none.
    pub(crate) async fn sources(&self, picker: &Picker) -> Result<String> {
        let metrics = picker.metrics().await?;
        let count = |source: &str| {
            let label = format!("source=\"{source}\"");
            metrics.sum("kthena_router_tokens_total", &[&label]).unwrap_or(0.0)
        };
        Ok(format!(
            "prompts: {} tokenized, {} from the tokenizer's cache, {} without tokens",
            count("local"),
            count("cache"),
            count("none")
        ))
    }
}

const TEMPLATE: &str =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}";

/// Byte-level BPE that makes a token of each word of the load with its space: about as many tokens as text of
/// that kind has in a real one.
fn tokenizer() -> Value {
    let special = ["<|im_start|>", "<|im_end|>"];
    let mut vocab: Vec<String> = special.map(str::to_owned).into();
    // The letters of byte-level BPE: printable bytes stand for themselves, the others come after U+0100.
    vocab.extend((0x21..0x7f_u8).map(|byte| char::from(byte).to_string()));
    vocab.extend((0xa1..0x100_u32).filter(|letter| *letter != 0xad).filter_map(char::from_u32).map(String::from));
    vocab.extend((0x100..0x144_u32).filter_map(char::from_u32).map(String::from));
    let mut merges = Vec::new();
    for word in WORDS {
        let mut merged = "\u{120}".to_owned();
        for letter in word.chars() {
            let merge = format!("{merged} {letter}");
            merged.push(letter);
            if !merges.contains(&merge) {
                merges.push(merge);
                vocab.push(merged.clone());
            }
        }
    }
    let vocab: Map<String, Value> = (0..).zip(vocab).map(|(id, token): (u32, String)| (token, json!(id))).collect();
    let added = |(id, content): (usize, &str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = special.into_iter().enumerate().map(added).collect();
    json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "decoder": null, "post_processor": null,
        "truncation": null, "padding": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "dropout": null, "unk_token": null, "fuse_unk": false},
    })
}
