//! An OpenAI-shaped body, read once: `model`, the prompt's text, and little else.
//!
//! Text is borrowed where the JSON had no escapes, unknown fields are skipped without allocation,
//! and no tree is built. Shapes: chat completions, completions, embeddings, responses, and what
//! vLLM and SGLang accept besides.
//!
//! What decides here is judged here: the body's structure, its keys, its model. The text of the prompt
//! is only hashed: control characters, unknown escapes and bytes that are no UTF-8 in it are the
//! engine's to refuse, and refused by every engine in words of its own.

mod detached;
mod members;
mod prompt;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use scheduling::{Body, Prompt, RefusalKind};

use crate::json::{self, Malformed, Reader};
pub use detached::Detached;
pub use members::{PROMPT_MEMBERS, PromptMembers};
use prompt::collect;

/// A body, and where its model stands.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// What the brain wants to know.
    pub body: Body<'a>,
    /// The bytes of `model`'s value, quotes included.
    pub model: Range<usize>,
    /// Where the prompt's members stand.
    pub members: PromptMembers,
}

/// Whether a body with these `content-type` headers is worth parsing; one without any is. Several
/// values, also in one header with commas as Envoy joins them, count as JSON where one is: an engine
/// may read any of them.
#[must_use]
pub fn is_json<'a>(content_types: impl IntoIterator<Item = &'a str>) -> bool {
    let mut essences = content_types
        .into_iter()
        .flat_map(|value| value.split(','))
        .map(|value| value.split(';').next().unwrap_or_default().trim())
        .filter(|essence| !essence.is_empty())
        .peekable();
    essences.peek().is_none() || essences.any(is_json_essence)
}

fn is_json_essence(essence: &str) -> bool {
    let suffix = essence.len().checked_sub("+json".len()).and_then(|start| essence.get(start..));
    essence.eq_ignore_ascii_case("application/json") || suffix.is_some_and(|it| it.eq_ignore_ascii_case("+json"))
}

/// Reads a body.
///
/// # Errors
/// [`RefusalKind::BadJson`], [`RefusalKind::ModelMissing`], [`RefusalKind::ModelNotString`],
/// [`RefusalKind::ModelTwice`].
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, RefusalKind> {
    let mut fields = Fields::default();
    let mut reader = Reader::new(bytes);
    let read = reader.object(|reader, key| fields.read(reader, key)).and_then(|()| reader.end());
    read.map_err(|_| RefusalKind::BadJson(json::complaint(bytes)))?;

    if fields.models > 1 {
        return Err(RefusalKind::ModelTwice);
    }
    let place = fields.model.ok_or(RefusalKind::ModelMissing)?;
    let model = model(bytes.get(place.clone()).unwrap_or_default())?;

    let mut pieces = fields.front;
    if pieces.is_empty() {
        pieces = fields.pieces;
    } else {
        pieces.append(&mut fields.pieces);
    }
    Ok(Parsed {
        body: Body {
            model,
            stream: fields.stream,
            max_tokens: fields.max_completion_tokens.or(fields.max_tokens),
            prompt: Prompt { pieces },
        },
        model: place,
        members: fields.members,
    })
}

/// The name that a body's `model` is.
fn model(raw: &[u8]) -> Result<Cow<'_, str>, RefusalKind> {
    if !raw.starts_with(b"\"") {
        return Err(RefusalKind::ModelNotString);
    }
    let bad = |error: serde_json::Error| RefusalKind::BadJson(format!("`model`: {error}"));
    let name = if raw.contains(&b'\\') {
        Cow::Owned(serde_json::from_slice::<String>(raw).map_err(bad)?)
    } else {
        Cow::Borrowed(serde_json::from_slice::<&str>(raw).map_err(bad)?)
    };
    if name.is_empty() { Err(RefusalKind::ModelNotString) } else { Ok(name) }
}

#[derive(Default)]
struct Fields<'a> {
    /// The place of its value.
    model: Option<Range<usize>>,
    models: usize,
    stream: bool,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    /// What chat templates put before the messages, wherever it stands in the body.
    front: Vec<Cow<'a, [u8]>>,
    pieces: Vec<Cow<'a, [u8]>>,
    members: PromptMembers,
}

impl<'a> Fields<'a> {
    fn read(&mut self, reader: &mut Reader<'a>, key: &str) -> Result<(), Malformed> {
        let start = reader.place();
        match key {
            "model" => {
                self.model = Some(start..start + reader.value()?.len());
                self.models += 1;
            }
            // With good will: whether a number of any size or kind is acceptable is the engine's business.
            "stream" => self.stream = reader.value()? == b"true",
            "max_tokens" => self.max_tokens = number(reader.value()?),
            "max_completion_tokens" | "max_output_tokens" => self.max_completion_tokens = number(reader.value()?),
            "prompt" | "messages" | "input" => collect(reader, &mut self.pieces)?,
            "system" | "instructions" => collect(reader, &mut self.front)?,
            "tools" | "functions" | "documents" => self.front.push(Cow::Borrowed(reader.value()?)),
            _ => {
                reader.value()?;
            }
        }
        self.members.note(key, start..reader.end_of_value());
        Ok(())
    }
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}
