//! The OpenAI completions: read the request, make the words, answer whole or as a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use super::cache;
use super::fault::Fault;
use super::kv_events::Event;
use super::metrics::Finished;
use super::span::Parent;
use super::transfer::{self, Task};

static NEXT: AtomicU64 = AtomicU64::new(1);

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    model: String,
    messages: Option<Value>,
    prompt: Option<Value>,
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    min_tokens: Option<u32>,
    stream_options: Option<StreamOptions>,
    cache_salt: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// What the work on one completion needs to know.
#[derive(Debug)]
struct Job {
    model: String,
    prompt: Vec<u32>,
    salt: Option<String>,
    rank: usize,
    max_tokens: u32,
    parent: Option<Parent>,
    request_id: String,
    transfer: Task,
}

/// What the work on one completion tells.
#[derive(Debug)]
enum Step {
    Token(u32),
    /// With the parameters that the request's blocks can be had with, if they were to be kept.
    Done {
        cached: usize,
        kept: Option<String>,
    },
    Reset,
}

pub(super) async fn completion(Shared(state): Shared<Arc<State>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let trailers = body.trailers().cloned();
    let body = body.to_bytes();
    state.record.push(&parts, &body, trailers);
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(cause) => return error(400, "BadRequestError", &cause.to_string()),
    };
    if asked.model != state.config.model && !state.config.adapters.contains(&asked.model) {
        return error(404, "NotFoundError", &format!("The model `{}` does not exist.", asked.model));
    }
    let most = asked.max_completion_tokens.or(asked.max_tokens);
    if let (Some(least), Some(most)) = (asked.min_tokens, most)
        && least > most
    {
        let message = format!("min_tokens must be less than or equal to max_tokens={most}, got {least}.");
        return error(400, "BadRequestError", &message);
    }
    let fault = state.fault.lock().clone();
    match fault {
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Status(code)) => return error(code, "InternalServerError", "a fault that was asked for"),
        Some(Fault::Hang) => std::future::pending().await,
        _ => {}
    }
    let fields: transfer::Fields = match serde_json::from_slice(&body) {
        Ok(fields) => fields,
        Err(cause) => return error(400, "BadRequestError", &cause.to_string()),
    };
    let transfer = match fields.task(&state).await {
        Ok(task) => task,
        Err(cause) => return error(500, "InternalServerError", &cause),
    };
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let chat = parts.uri.path() == "/v1/chat/completions";
    let id = header("x-request-id").map_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed).to_string(), ToOwned::to_owned);
    let job = Job {
        prompt: prompt(&asked),
        salt: asked.cache_salt.clone(),
        rank: header("x-data-parallel-rank").and_then(|rank| rank.parse().ok()).unwrap_or(0) % state.caches.len(),
        max_tokens: most.unwrap_or(state.config.default_max_tokens).max(1),
        transfer,
        parent: header("traceparent").and_then(Parent::parse),
        request_id: id.clone(),
        model: asked.model.clone(),
    };
    let answer = Answer {
        id: if chat { format!("chatcmpl-{id}") } else { format!("cmpl-{id}") },
        chat,
        model: asked.model,
        prompt_tokens: job.prompt.len(),
        usage: asked.stream_options.is_some_and(|options| options.include_usage),
    };
    // The work ends when nobody listens any more.
    let (steps, listener) = mpsc::channel(1);
    tokio::spawn(work(state, job, steps));
    if asked.stream { answer.streamed(listener) } else { answer.whole(listener).await }
}

/// The tokens of the prompt: of everything that a chat template would print, in order.
fn prompt(asked: &Asked) -> Vec<u32> {
    match (&asked.messages, &asked.prompt) {
        (Some(messages), _) => {
            let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
            let turns = messages.iter().map(|message| {
                let content = message
                    .get("content")
                    .map(|content| content.as_str().map_or_else(|| content.to_string(), ToOwned::to_owned));
                format!("<{}>{}\n", message["role"].as_str().unwrap_or_default(), content.unwrap_or_default())
            });
            cache::tokens(turns.collect::<String>().as_bytes())
        }
        (None, Some(Value::String(text))) => cache::tokens(text.as_bytes()),
        (None, Some(Value::Array(ids))) if ids.iter().all(Value::is_u64) => {
            ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()).collect()
        }
        (None, other) => cache::tokens(other.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes()),
    }
}

/// What vLLM's `/tokenize` answers: the tokens that a completion with the same prompt has.
pub(super) async fn tokenize(Shared(state): Shared<Arc<State>>, Json(asked): Json<Asked>) -> Response {
    let fault = state.fault.lock().clone();
    match fault {
        Some(Fault::Status(code)) => return error(code, "InternalServerError", "a fault that was asked for"),
        Some(Fault::Hang) => std::future::pending().await,
        _ => {}
    }
    let tokens = prompt(&asked);
    Json(json!({"count": tokens.len(), "max_model_len": 1_000_000, "tokens": tokens, "token_strs": null}))
        .into_response()
}

async fn work(state: Arc<State>, job: Job, steps: mpsc::Sender<Step>) {
    let mut finished = Finished::new(Instant::now(), &job.model);
    let done = tokio::select! {
        done = compute(&state, &job, &steps, &mut finished) => done,
        () = steps.closed() => false,
    };
    finished.end(if done { "length" } else { "abort" });
    state.metrics.lock().finished(&finished);
    if let (Some(spans), Some(parent)) = (&state.spans, &job.parent) {
        spans.export(parent, &job.request_id, job.max_tokens, &finished);
    }
}

async fn compute(state: &State, job: &Job, steps: &mpsc::Sender<Step>, finished: &mut Finished) -> bool {
    let adapter = state.config.adapters.contains(&job.model).then_some(job.model.as_str());
    let _waiting = adapter.map(|adapter| state.metrics.lock().adapter_waits(adapter));
    let running = state.batch.enter().await;
    finished.scheduled();
    let block = state.config.block_tokens;
    let blocks = cache::blocks(&job.model, job.salt.as_deref(), &job.prompt, block);
    let tokens = job.prompt.len();
    let cache = &state.caches[job.rank];
    // The last token is always computed: it makes the first of the answer.
    let cached = (cache.lock().matching(&blocks) * block).min(tokens.saturating_sub(1));
    let fetched = match job.transfer {
        Task::Fetched(fetched) => fetched.min(tokens).saturating_sub(cached),
        _ => 0,
    };
    state.metrics.lock().prompt(tokens, cached, fetched);
    finished.prompt(tokens, cached);
    let held = state.metrics.lock().hold(tokens.div_ceil(block));
    running.prefill(tokens - cached - fetched).await;
    let changes = cache.lock().touch(&blocks, tokens.is_multiple_of(block));
    state.publish(job.rank, events(job, adapter, &blocks, block, &changes)).await;
    let (held, kept) = match job.transfer {
        Task::Keep => (None, Some(state.transfer.keep(state, &job.request_id, tokens, state.config.kv_lease, held))),
        Task::Fill(room) if !state.transfer.fill_room(room, tokens).await => return false,
        _ => (Some(held), None),
    };
    let reset_after = match *state.fault.lock() {
        Some(Fault::ResetAfter(tokens)) => Some(tokens),
        _ => None,
    };
    for token in 0..job.max_tokens {
        if reset_after == Some(token) {
            let _ = steps.send(Step::Reset).await;
            return false;
        }
        if token > 0 {
            running.decode().await;
        }
        finished.token();
        if steps.send(Step::Token(token)).await.is_err() {
            return false;
        }
    }
    // Out of the batch before the client hears of the end: whoever saw it sees the engine idle.
    drop((running, held));
    steps.send(Step::Done { cached, kept }).await.is_ok()
}

/// What one prefill did to the cache, in vLLM's order: what leaves, then what comes.
fn events(job: &Job, adapter: Option<&str>, blocks: &[u64], block: usize, changes: &cache::Changes) -> Vec<Event> {
    let mut events: Vec<Event> = changes.evicted.iter().map(|hash| Event::Removed(*hash)).collect();
    let from = changes.stored_from;
    if from < blocks.len() {
        events.push(Event::Stored {
            hashes: blocks[from..].to_vec(),
            parent: from.checked_sub(1).map(|before| blocks[before]),
            tokens: job.prompt[from * block..blocks.len() * block].to_vec(),
            block_tokens: block,
            lora: adapter.map(ToOwned::to_owned),
            salt: job.salt.clone(),
        });
    }
    events
}

/// The shape of one answer.
#[derive(Debug)]
struct Answer {
    id: String,
    chat: bool,
    model: String,
    prompt_tokens: usize,
    usage: bool,
}

impl Answer {
    async fn whole(self, mut steps: mpsc::Receiver<Step>) -> Response {
        let mut text = String::new();
        let mut count = 0;
        while let Some(step) = steps.recv().await {
            match step {
                Step::Token(token) => {
                    count += 1;
                    text.push_str(&word(token));
                }
                Step::Done { cached, kept } => {
                    let choice = if self.chat {
                        json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"})
                    } else {
                        json!({"index": 0, "text": text, "finish_reason": "length"})
                    };
                    let object = if self.chat { "chat.completion" } else { "text_completion" };
                    let answer = self.object(object, &json!([choice]), Some(self.usage(count, cached))).to_string();
                    // By hand: serde_json would spoil the numbers.
                    let params = kept.unwrap_or_else(|| "null".to_owned());
                    let answer =
                        format!("{},\"kv_transfer_params\":{params}}}", answer.strip_suffix('}').unwrap_or(&answer));
                    return ([("content-type", "application/json")], answer).into_response();
                }
                Step::Reset => break,
            }
        }
        error(500, "InternalServerError", "the engine broke off")
    }

    fn streamed(self, steps: mpsc::Receiver<Step>) -> Response {
        let mut count = 0;
        let events = ReceiverStream::new(steps).map(move |step| match step {
            Step::Token(token) => {
                count += 1;
                let choice = if self.chat {
                    json!({"index": 0, "delta": {"content": word(token)}, "finish_reason": null})
                } else {
                    json!({"index": 0, "text": word(token), "finish_reason": null})
                };
                Ok(event(&self.chunk(&json!([choice]), None)))
            }
            Step::Done { cached, kept: _ } => {
                let usage = if self.usage {
                    event(&self.chunk(&json!([]), Some(self.usage(count, cached))))
                } else {
                    String::new()
                };
                Ok(usage + "data: [DONE]\n\n")
            }
            Step::Reset => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        });
        let headers = [("content-type", "text/event-stream; charset=utf-8")];
        let events = events.then(async |event: Result<String, std::io::Error>| {
            if event.is_err() {
                // The server sends what it has when it must wait: the break comes after the words, not instead.
                tokio::task::yield_now().await;
            }
            event.map(Bytes::from)
        });
        (headers, Body::from_stream(events)).into_response()
    }

    fn chunk(&self, choices: &Value, usage: Option<Value>) -> Value {
        self.object(if self.chat { "chat.completion.chunk" } else { "text_completion" }, choices, usage)
    }

    fn object(&self, object: &str, choices: &Value, usage: Option<Value>) -> Value {
        let mut answer =
            json!({"id": self.id, "object": object, "created": 0, "model": self.model, "choices": choices});
        if let Some(usage) = usage {
            answer["usage"] = usage;
        }
        answer
    }

    fn usage(&self, completion: u32, cached: usize) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion as usize,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }
}

fn word(token: u32) -> String {
    format!("word{token} ")
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

pub(super) fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn error(code: u16, kind: &str, message: &str) -> Response {
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
    (status(code), Json(body)).into_response()
}
