//! An OpenAI-shaped body, read once: `model`, the prompt's text, and little else.
//!
//! Text is borrowed where the JSON had no escapes, unknown fields are skipped without allocation,
//! and no tree is built. Shapes: chat completions, completions, embeddings, responses, and what
//! vLLM and SGLang accept besides.

mod prompt;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use scheduling::{Body, Prompt, RefusalKind};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use prompt::Collect;
pub(crate) use prompt::Text;

/// A body, and where its model stands.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// What the brain wants to know.
    pub body: Body<'a>,
    /// The bytes of `model`'s value, quotes included.
    pub model: Range<usize>,
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
    let bad = |error: serde_json::Error| RefusalKind::BadJson(error.to_string());
    let mut fields = Fields::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    TopLevel(&mut fields).deserialize(&mut json).map_err(bad)?;
    json.end().map_err(bad)?;

    if fields.models > 1 {
        return Err(RefusalKind::ModelTwice);
    }
    let raw = fields.model.ok_or(RefusalKind::ModelMissing)?.get();
    let Text(model) = serde_json::from_str(raw).map_err(|_| RefusalKind::ModelNotString)?;
    if model.is_empty() {
        return Err(RefusalKind::ModelNotString);
    }
    // A borrowed raw value lies inside `bytes`: the distance of their addresses is its place.
    let start = (raw.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);

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
        model: start..start + raw.len(),
    })
}

#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    models: usize,
    stream: bool,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    /// What chat templates put before the messages, wherever it stands in the body.
    front: Vec<Cow<'a, [u8]>>,
    pieces: Vec<Cow<'a, [u8]>>,
}

struct TopLevel<'f, 'a>(&'f mut Fields<'a>);

impl<'de> DeserializeSeed<'de> for TopLevel<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match key.as_ref() {
                "model" => {
                    fields.model = Some(map.next_value()?);
                    fields.models += 1;
                }
                // Raw, and read with good will: whether a number of any size or kind is acceptable is the engine's business.
                "stream" => fields.stream = map.next_value::<&RawValue>()?.get() == "true",
                "max_tokens" => fields.max_tokens = map.next_value::<&RawValue>()?.get().parse().ok(),
                "max_completion_tokens" | "max_output_tokens" => {
                    fields.max_completion_tokens = map.next_value::<&RawValue>()?.get().parse().ok();
                }
                "prompt" | "messages" | "input" => map.next_value_seed(Collect(&mut fields.pieces))?,
                "system" | "instructions" => map.next_value_seed(Collect(&mut fields.front))?,
                "tools" | "functions" | "documents" => {
                    let raw = map.next_value::<&RawValue>()?.get();
                    fields.front.push(Cow::Borrowed(raw.as_bytes()));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
