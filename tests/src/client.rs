//! An HTTP client that sends what it is told, byte by byte, and says when what came back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// An answer must be complete within this.
const DEADLINE: Duration = Duration::from_secs(60);

/// `GET` once, on a connection of its own.
///
/// # Errors
/// When there is no complete answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Reply> {
    Client::new(address).get(path).send().await
}

/// A client of one server; clones share its connections, which are kept and reused.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    pool: Pool<HttpConnector, BoxBody<Bytes, std::io::Error>>,
}

impl Client {
    /// Speaks HTTP/1.1.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::with(address, false)
    }

    /// Speaks HTTP/2 without TLS, and so can send trailers through Envoy.
    #[must_use]
    pub fn http2(address: SocketAddr) -> Self {
        Self::with(address, true)
    }

    fn with(address: SocketAddr, http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new()).http2_only(http2).build(connector);
        Self { address, pool }
    }

    /// Any request.
    pub fn request(&self, method: Method, path: &str) -> Call {
        Call {
            client: self.clone(),
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            chunks: Vec::new(),
            chunked: false,
            trailers: None,
        }
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Call {
        self.request(Method::GET, path)
    }

    /// `POST` of a JSON body.
    pub fn post(&self, path: &str, body: impl Into<Bytes>) -> Call {
        self.request(Method::POST, path).header("content-type", "application/json").body(body)
    }

    /// `POST /v1/chat/completions`; messages are (role, content).
    #[must_use]
    pub fn chat(&self, model: &str, messages: &[(&str, &str)]) -> Completion {
        let messages: Vec<Value> =
            messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        let body = json!({"model": model, "messages": messages});
        Completion { client: self.clone(), path: "/v1/chat/completions", body, headers: Vec::new() }
    }

    /// `POST /v1/completions`.
    #[must_use]
    pub fn complete(&self, model: &str, prompt: &str) -> Completion {
        let body = json!({"model": model, "prompt": prompt});
        Completion { client: self.clone(), path: "/v1/completions", body, headers: Vec::new() }
    }
}

/// An OpenAI completion to be asked for.
#[derive(Clone, Debug)]
pub struct Completion {
    client: Client,
    path: &'static str,
    body: Value,
    headers: Vec<(String, String)>,
}

impl Completion {
    /// Asks for a stream, with usage at its end.
    #[must_use]
    pub fn stream(mut self, stream: bool) -> Self {
        if stream {
            self.body["stream"] = true.into();
            self.body["stream_options"] = json!({"include_usage": true});
        }
        self
    }

    /// Asks for at most so many tokens.
    #[must_use]
    pub fn max_tokens(self, tokens: u32) -> Self {
        self.field("max_tokens", tokens)
    }

    /// Sets any field of the body.
    #[must_use]
    pub fn field(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.body[key] = value.into();
        self
    }

    /// Adds a request header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `x-request-id`. Envoy keeps it where it is told to trust it.
    #[must_use]
    pub fn request_id(self, id: &str) -> Self {
        self.header("x-request-id", id)
    }

    /// The request as it will be sent.
    pub fn call(self) -> Call {
        let call = self.client.post(self.path, self.body.to_string());
        self.headers.iter().fold(call, |call, (name, value)| call.header(name, value))
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// As [`Call::send`].
    pub async fn send(self) -> Result<Reply> {
        self.call().send().await
    }
}

/// A request to be sent.
#[derive(Clone, Debug)]
#[must_use = "a call does nothing until it is sent"]
pub struct Call {
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    chunks: Vec<Bytes>,
    chunked: bool,
    trailers: Option<HeaderMap>,
}

impl Call {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a header value"));
        self
    }

    /// A body with `content-length`.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.chunks = vec![body.into()];
        self
    }

    /// A body in these pieces, `transfer-encoding: chunked` in HTTP/1.1.
    pub fn chunks(mut self, chunks: impl IntoIterator<Item = Bytes>) -> Self {
        self.chunks = chunks.into_iter().collect();
        self.chunked = true;
        self
    }

    /// Trailers after a body in pieces.
    pub fn trailers(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.get_or_insert_default().append(name, HeaderValue::from_static(value));
        self.chunked = true;
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// When there is no complete answer within a minute.
    pub async fn send(self) -> Result<Reply> {
        let read = async { self.start().await?.finish().await };
        tokio::time::timeout(DEADLINE, read).await.context("no complete answer within a minute")?
    }

    /// Sends it and waits for the answer's headers. Dropping the result goes away mid-answer.
    ///
    /// # Errors
    /// When the connection fails first.
    pub async fn start(self) -> Result<Answer> {
        let mut request =
            Request::builder().method(self.method).uri(format!("http://{}{}", self.client.address, self.path));
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers);
        }
        let body = if self.chunked {
            let trailers = self.trailers.map(Frame::trailers);
            let frames = self.chunks.into_iter().map(Frame::data).chain(trailers).map(Ok);
            BoxBody::new(StreamBody::new(stream::iter(frames)))
        } else {
            let whole = self.chunks.into_iter().next().unwrap_or_default();
            BoxBody::new(Full::new(whole).map_err(|never| match never {}))
        };
        let sent = Instant::now();
        let response = self.client.pool.request(request.body(body)?).await?;
        Ok(Answer { headers_after: sent.elapsed(), sent, response, chunks: Vec::new() })
    }
}

/// An answer whose headers have come.
#[derive(Debug)]
pub struct Answer {
    sent: Instant,
    headers_after: Duration,
    response: Response<Incoming>,
    chunks: Vec<(Duration, Bytes)>,
}

impl Answer {
    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.response.body_mut().frame().await {
            if let Ok(data) = frame?.into_data() {
                self.chunks.push((self.sent.elapsed(), data.clone()));
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn finish(mut self) -> Result<Reply> {
        while self.next().await?.is_some() {}
        let total = self.sent.elapsed();
        let body = self.chunks.iter().fold(BytesMut::new(), |mut body, (_, chunk)| {
            body.extend_from_slice(chunk);
            body
        });
        Ok(Reply {
            status: self.status(),
            headers: self.response.headers().clone(),
            body: body.freeze(),
            headers_after: self.headers_after,
            first_byte_after: self.chunks.first().map_or(total, |(after, _)| *after),
            total,
            chunks: self.chunks,
        })
    }
}

/// A complete answer. Durations count from when the request was handed to the connection.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The pieces of the body, and when each came.
    pub chunks: Vec<(Duration, Bytes)>,
    /// Until the headers.
    pub headers_after: Duration,
    /// Until the body's first byte; of a streamed completion: the time to the first token.
    pub first_byte_after: Duration,
    /// Until the end.
    pub total: Duration,
}

impl Reply {
    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The simulated engine that answered; `None` when no engine did.
    #[must_use]
    pub fn engine(&self) -> Option<SocketAddr> {
        self.header(crate::engine::HEADER)?.parse().ok()
    }

    /// The request's id: what Envoy tells in `x-request-id`, else what the engine put into its answer.
    #[must_use]
    pub fn request_id(&self) -> Option<String> {
        if let Some(id) = self.header("x-request-id") {
            return Some(id.to_owned());
        }
        let answer = self.json().ok().or_else(|| self.events().into_iter().next())?;
        let id = answer["id"].as_str()?;
        id.strip_prefix("chatcmpl-").or_else(|| id.strip_prefix("cmpl-")).map(ToOwned::to_owned)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Shows the body when it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("status {}, not JSON: {}", self.status, self.text()))
    }

    /// The events of a streamed completion, without `[DONE]`.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str(data).ok()).collect()
    }

    /// `usage`, of either form of answer.
    #[must_use]
    pub fn usage(&self) -> Option<Value> {
        let usage = |answer: &Value| answer.get("usage").filter(|usage| usage.is_object()).cloned();
        match self.json() {
            Ok(answer) => usage(&answer),
            Err(_) => self.events().iter().rev().find_map(usage),
        }
    }
}

/// A body that never ends: its first bytes, then silence. For requests that are given up half-way.
pub fn unfinished(first: impl Into<Bytes>) -> BoxBody<Bytes, std::io::Error> {
    let first = stream::iter([Ok(Frame::data(first.into()))]);
    BoxBody::new(StreamBody::new(first.chain(stream::pending())))
}

impl Call {
    /// Sends the headers and the body's first piece, and then nothing: the answer, if any, comes early.
    ///
    /// # Errors
    /// When the connection fails first.
    pub async fn start_unfinished(mut self) -> Result<Answer> {
        let first = self.chunks.drain(..).next().unwrap_or_default();
        let mut request =
            Request::builder().method(self.method).uri(format!("http://{}{}", self.client.address, self.path));
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers);
        }
        let sent = Instant::now();
        let response = self.client.pool.request(request.body(unfinished(first))?).await?;
        Ok(Answer { headers_after: sent.elapsed(), sent, response, chunks: Vec::new() })
    }
}
