//! One line for each exchange, with Kthena's fields. Written by a thread of its own: a slow disk
//! or a full pipe costs lines, which are counted, and never a request's time.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::rfc3339;

/// Lines that may wait for the writer.
const QUEUE: usize = 4_096;

/// How long lines gather after the first of a quiet time: writing each at once would cost every
/// exchange a thread's wake-up and a system call.
const GATHER: Duration = Duration::from_millis(10);

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Kthena's text line.
    #[default]
    Text,
    /// One JSON object per line, with Kthena's keys.
    Json,
}

/// Where the lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(std::path::PathBuf),
}

/// Kthena's `ACCESS_LOG_*` variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `ACCESS_LOG_ENABLED`: true unless told otherwise.
    pub enabled: bool,
    /// `ACCESS_LOG_FORMAT`: `text` (default) or `json`.
    pub format: Format,
    /// `ACCESS_LOG_OUTPUT`: `stdout` (default), `stderr` or a path.
    pub output: Output,
}

impl Settings {
    /// Reads the settings from variables; a value that is none of the allowed gives a warning.
    #[must_use]
    pub fn read(variable: &dyn Fn(&str) -> Option<String>, warnings: &mut Vec<String>) -> Self {
        let enabled = match variable("ACCESS_LOG_ENABLED").as_deref().map(str::trim) {
            None | Some("" | "true" | "1") => true,
            Some("false" | "0") => false,
            Some(other) => {
                warnings.push(format!("ACCESS_LOG_ENABLED must be true or false, not `{other}`: taken as true"));
                true
            }
        };
        let format = match variable("ACCESS_LOG_FORMAT").as_deref().map(str::trim) {
            None | Some("" | "text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => {
                warnings.push(format!("ACCESS_LOG_FORMAT must be text or json, not `{other}`: taken as text"));
                Format::Text
            }
        };
        let output = match variable("ACCESS_LOG_OUTPUT").as_deref().map(str::trim) {
            None | Some("" | "stdout") => Output::Stdout,
            Some("stderr") => Output::Stderr,
            Some(path) => Output::File(path.into()),
        };
        Self { enabled, format, output }
    }
}

/// What is known of an exchange at its end.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it began.
    pub time: SystemTime,
    /// `:method`; empty when the data plane sent none.
    pub method: String,
    /// `:path`, with query.
    pub path: String,
    /// The HTTP status, where a response was seen or we refused.
    pub status: Option<u16>,
    /// Type and message of an error.
    pub error: Option<(&'static str, String)>,
    /// The client's model name.
    pub model: Option<Arc<str>>,
    /// `namespace/name` of the ModelRoute.
    pub model_route: Option<Arc<str>>,
    /// `namespace/name` of the ModelServer.
    pub model_server: Option<Arc<str>>,
    /// `namespace/pod` of the endpoint that served, else of the one picked.
    pub selected_pod: Option<Arc<str>>,
    /// Its address.
    pub endpoint: Option<SocketAddr>,
    /// The request's id.
    pub request_id: Arc<str>,
    /// `namespace/name` of the pool.
    pub pool: String,
    /// Prompt and completion tokens, where the engine's usage was seen.
    pub tokens: Option<(u64, u64)>,
    /// From the first message to the answer.
    pub request: Duration,
    /// From the answer to the response's headers.
    pub upstream: Duration,
    /// From the response's headers to the end.
    pub response: Duration,
}

#[derive(Serialize)]
struct Json<'a> {
    timestamp: String,
    method: &'a str,
    path: &'a str,
    /// The data plane does not tell; kept because Kthena's readers expect the key.
    protocol: &'a str,
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JsonError<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected_pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    inference_pool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    duration_total: u128,
    duration_request_processing: u128,
    duration_upstream_processing: u128,
    duration_response_processing: u128,
}

#[derive(Serialize)]
struct JsonError<'a> {
    r#type: &'a str,
    message: &'a str,
}

impl Line {
    fn total(&self) -> Duration {
        self.request + self.upstream + self.response
    }

    /// The line in `format`, without a line break. Durations are whole milliseconds, as Kthena's.
    #[must_use]
    pub fn format(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Json => serde_json::to_string(&self.json()).unwrap_or_default(),
        }
    }

    fn json(&self) -> Json<'_> {
        Json {
            timestamp: rfc3339::format(self.time),
            method: &self.method,
            path: &self.path,
            protocol: "",
            status_code: self.status.unwrap_or(0),
            error: self.error.as_ref().map(|(kind, message)| JsonError { r#type: kind, message }),
            model_name: self.model.as_deref(),
            model_route: self.model_route.as_deref(),
            model_server: self.model_server.as_deref(),
            selected_pod: self.selected_pod.as_deref(),
            endpoint: self.endpoint,
            request_id: &self.request_id,
            inference_pool: &self.pool,
            input_tokens: self.tokens.map(|(input, _)| input),
            output_tokens: self.tokens.map(|(_, output)| output),
            duration_total: self.total().as_millis(),
            duration_request_processing: self.request.as_millis(),
            duration_upstream_processing: self.upstream.as_millis(),
            duration_response_processing: self.response.as_millis(),
        }
    }

    fn text(&self) -> String {
        let mut out = format!(
            "[{}] \"{} {} -\" {}",
            rfc3339::format(self.time),
            Plain(&self.method),
            Plain(&self.path),
            self.status.unwrap_or(0)
        );
        if let Some((kind, message)) = &self.error {
            let _ = write!(out, " error={kind}:{message:?}");
        }
        let fields = [
            ("model_name", self.model.as_deref()),
            ("model_route", self.model_route.as_deref()),
            ("model_server", self.model_server.as_deref()),
            ("selected_pod", self.selected_pod.as_deref()),
            ("request_id", Some(&*self.request_id)),
            ("inference_pool", Some(self.pool.as_str()).filter(|pool| !pool.is_empty())),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                let _ = write!(out, " {name}={}", Plain(value));
            }
        }
        if let Some((input, output)) = self.tokens {
            let _ = write!(out, " tokens={input}/{output}");
        }
        let millis = |duration: Duration| duration.as_millis();
        let (request, upstream, response) = (millis(self.request), millis(self.upstream), millis(self.response));
        let _ = write!(out, " timings={}ms({request}+{upstream}+{response})", millis(self.total()));
        out
    }
}

/// A client's text within a line: what would end the line or the field is escaped.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nearly every text: written at once.
        if self.0.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
            return formatter.write_str(self.0);
        }
        for character in self.0.chars() {
            match character {
                ' ' => formatter.write_str("\\x20")?,
                '"' | '\\' => write!(formatter, "\\{character}")?,
                _ if character.is_control() => write!(formatter, "{}", character.escape_default())?,
                _ => formatter.write_char(character)?,
            }
        }
        Ok(())
    }
}

enum Message {
    Line(Box<Line>),
    Flush(SyncSender<()>),
}

/// Where exchanges leave their line.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    dropped: Counter,
}

impl AccessLog {
    /// Starts the writer. `None` when the log is switched off.
    ///
    /// # Errors
    /// A file that cannot be opened, or a thread that cannot be started.
    pub fn start(settings: &Settings, dropped: Counter) -> io::Result<Option<Self>> {
        if !settings.enabled {
            return Ok(None);
        }
        let writer: Box<dyn Write + Send> = match &settings.output {
            Output::Stdout => Box::new(io::stdout()),
            Output::Stderr => Box::new(io::stderr()),
            Output::File(path) => Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?),
        };
        Self::writing_to(writer, settings.format, dropped).map(Some)
    }

    /// Starts a writer of `format` to `writer`.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn writing_to(writer: Box<dyn Write + Send>, format: Format, dropped: Counter) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        // The thread ends when the last sender is gone; nobody waits for it.
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&lines, writer, format))?;
        Ok(Self { queue, dropped })
    }

    /// Leaves a line; counts it as dropped when the writer is too far behind.
    pub fn write(&self, line: Line) {
        if self.queue.try_send(Message::Line(Box::new(line))).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until all lines left so far are written, at most for `timeout`. Returns whether they are.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let (done, written) = sync_channel(1);
        self.queue.try_send(Message::Flush(done)).is_ok() && written.recv_timeout(timeout).is_ok()
    }
}

fn write_all(lines: &Receiver<Message>, writer: Box<dyn Write + Send>, format: Format) {
    let mut writer = BufWriter::new(writer);
    let mut broken = false;
    loop {
        let message = match lines.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => break,
            // Nothing waits: now is the time to show what was written.
            Err(TryRecvError::Empty) => {
                let _ = writer.flush();
                match lines.recv() {
                    Ok(message) => {
                        if matches!(message, Message::Line(_)) {
                            std::thread::park_timeout(GATHER);
                        }
                        message
                    }
                    Err(_) => break,
                }
            }
        };
        let result = match message {
            Message::Line(line) => writeln!(writer, "{}", line.format(format)),
            Message::Flush(done) => {
                let result = writer.flush();
                let _ = done.try_send(());
                result
            }
        };
        match result {
            Ok(()) => broken = false,
            Err(error) if !broken => {
                tracing::warn!(%error, "The access log cannot be written.");
                broken = true;
            }
            Err(_) => {}
        }
    }
    let _ = writer.flush();
}

#[cfg(test)]
mod tests;
