//! The demo's traffic: conversations of several turns over a few shared system prompts.

use std::time::Duration;

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::client::{Client, Reply};

/// A vocabulary of ordinary words: the text only has to be as long as real text and never the same.
const WORDS: [&str; 32] = [
    "order",
    "invoice",
    "customer",
    "refund",
    "because",
    "the",
    "delivery",
    "arrived",
    "late",
    "and",
    "please",
    "check",
    "status",
    "of",
    "my",
    "account",
    "before",
    "we",
    "ship",
    "again",
    "policy",
    "allows",
    "within",
    "thirty",
    "days",
    "manager",
    "approves",
    "every",
    "exception",
    "in",
    "writing",
    "today",
];

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions` with `stream: true`.
    ChatStream,
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `GET /v1/models`.
    Models,
}

/// One conversation: turns that follow each other, each with all that was said before.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Which listener it goes to: the pool's name.
    pub pool: &'static str,
    /// The model name that the client writes.
    pub model: &'static str,
    /// Whether the model is a LoRA adapter, which only some engines have.
    pub adapter: bool,
    system: String,
    questions: Vec<(Kind, String, u32)>,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its `x-request-id`.
    pub id: String,
    /// The pool's name.
    pub pool: &'static str,
    /// What was asked for.
    pub kind: Kind,
    /// The answer.
    pub reply: Reply,
    /// Prompt tokens, and those of them that came from the engine's prefix cache.
    pub prompt_tokens: (u64, u64),
}

impl Outcome {
    /// Time to the first token, of a streamed answer.
    #[must_use]
    pub fn time_to_first_token(&self) -> Option<Duration> {
        (self.kind == Kind::ChatStream && self.reply.status == 200).then_some(self.reply.first_byte_after)
    }
}

/// `conversations` conversations: three of four for the pool `llama` (some by its adapter, some by an
/// alias), the rest for `qwen`. The same seed gives the same text.
#[must_use]
pub fn plan(conversations: usize, turns: usize, seed: u64) -> Vec<Conversation> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let systems: Vec<String> = (0..6).map(|_| text(&mut rng, 900)).collect();
    (0..conversations)
        .map(|number| {
            let (pool, model, adapter) = match number % 8 {
                0 => ("llama", "support-assistant", false),
                3 => ("llama", "sql-adapter", true),
                2 | 6 => ("qwen", "qwen2.5-7b", false),
                _ => ("llama", "llama-3.1-8b", false),
            };
            let questions = (0..turns)
                .map(|turn| {
                    let kind = match (number + turn) % 7 {
                        0 => Kind::Chat,
                        4 => Kind::Completion,
                        _ => Kind::ChatStream,
                    };
                    (kind, text(&mut rng, 40), rng.random_range(12..32))
                })
                .collect();
            let shared = if pool == "qwen" { &systems[..2] } else { &systems[2..] };
            let system = shared.choose(&mut rng).cloned().unwrap_or_default();
            Conversation { pool, model, adapter, system, questions }
        })
        .collect()
}

/// One streamed question with a long text to read first.
///
/// # Errors
/// When Envoy cannot be reached.
pub async fn long_chat(client: &Client, pool: &'static str, model: &'static str, seed: u64) -> Result<Outcome> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (system, question) = (text(&mut rng, 1500), text(&mut rng, 40));
    let conversation = Conversation { pool, model, adapter: false, system, questions: Vec::new() };
    let messages = json!([
        {"role": "system", "content": conversation.system},
        {"role": "user", "content": question},
    ]);
    let body = json!({
        "model": model, "max_tokens": 24, "messages": messages,
        "stream": true, "stream_options": {"include_usage": true},
    });
    let reply = client.post("/v1/chat/completions", body.to_string()).send().await?;
    Ok(outcome(&conversation, Kind::ChatStream, reply))
}

fn text(rng: &mut SmallRng, words: usize) -> String {
    let words: Vec<&str> = (0..words).filter_map(|_| WORDS.choose(rng).copied()).collect();
    words.join(" ")
}

/// Sends one conversation, turn after turn, and calls `done` after each answer.
///
/// # Errors
/// When Envoy cannot be reached. An error status is an outcome, not an error.
pub async fn converse(conversation: &Conversation, client: &Client, done: impl Fn(&Outcome)) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut messages = vec![json!({"role": "system", "content": conversation.system})];
    let mut keep = |outcome: Outcome| {
        done(&outcome);
        outcomes.push(outcome);
    };
    let models = client.get("/v1/models").send().await?;
    keep(outcome(conversation, Kind::Models, models));
    for (kind, question, max_tokens) in &conversation.questions {
        messages.push(json!({"role": "user", "content": question}));
        let mut body = json!({"model": conversation.model, "max_tokens": max_tokens});
        let path = if *kind == Kind::Completion {
            body["prompt"] = transcript(&messages).into();
            "/v1/completions"
        } else {
            body["messages"] = messages.clone().into();
            "/v1/chat/completions"
        };
        if *kind == Kind::ChatStream {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
        }
        let mut call = client.post(path, body.to_string());
        if conversation.adapter {
            // Only for round robin, which cannot know which engines have the adapter: its route does.
            call = call.header("x-demo-adapter", conversation.model);
        }
        let reply = call.send().await?;
        messages.push(json!({"role": "assistant", "content": said(&reply)}));
        keep(outcome(conversation, *kind, reply));
    }
    Ok(outcomes)
}

fn outcome(conversation: &Conversation, kind: Kind, reply: Reply) -> Outcome {
    let usage = reply.usage().unwrap_or_default();
    let number = |pointer| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let prompt_tokens = (number("/prompt_tokens"), number("/prompt_tokens_details/cached_tokens"));
    // Envoy makes it and says it in its answer: it carries whether the request is traced.
    let id = reply.header("x-request-id").unwrap_or_default().to_owned();
    Outcome { id, pool: conversation.pool, kind, reply, prompt_tokens }
}

/// All that was said, as the prompt of a plain completion.
fn transcript(messages: &[Value]) -> String {
    let lines = messages.iter().map(|message| {
        format!(
            "{}: {}\n",
            message["role"].as_str().unwrap_or_default(),
            message["content"].as_str().unwrap_or_default()
        )
    });
    lines.collect()
}

/// The text of an answer, of any form.
fn said(reply: &Reply) -> String {
    let piece = |answer: &Value| {
        ["/choices/0/message/content", "/choices/0/delta/content", "/choices/0/text"]
            .iter()
            .find_map(|pointer| answer.pointer(pointer)?.as_str().map(str::to_owned))
    };
    match reply.json() {
        Ok(answer) => piece(&answer).unwrap_or_default(),
        Err(_) => reply.events().iter().filter_map(piece).collect(),
    }
}
