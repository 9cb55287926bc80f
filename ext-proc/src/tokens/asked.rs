//! What of a body decides about the prompt's tokens, as vLLM reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Why;

/// A request, as far as its tokens go.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) prompt: Prompt,
    pub(super) salt: Option<Arc<str>>,
    /// `/tokenize` knows all fields that the body has and that matter.
    pub(super) engine_agrees: bool,
}

#[derive(Debug)]
pub(super) enum Prompt {
    Ids(Vec<u32>),
    Text { text: String, special_tokens: bool },
    Chat(Chat),
}

/// What goes into a chat template.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) messages: Vec<Value>,
    pub(super) tools: Option<Vec<Value>>,
    /// For the template, by name; the request's own.
    pub(super) arguments: BTreeMap<String, Value>,
    pub(super) add_generation_prompt: bool,
    pub(super) continue_final_message: bool,
    pub(super) special_tokens: bool,
}

/// Its fields are [`PROMPT_MEMBERS`](crate::openai::PROMPT_MEMBERS): a prompt that comes again is known by those.
#[derive(Deserialize)]
struct Body {
    prompt: Option<TextOrIds>,
    messages: Option<Vec<Value>>,
    tools: Option<Vec<Value>>,
    documents: Option<Value>,
    chat_template: Option<IgnoredAny>,
    chat_template_kwargs: Option<BTreeMap<String, Value>>,
    reasoning_effort: Option<Value>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    add_special_tokens: Option<bool>,
    truncate_prompt_tokens: Option<IgnoredAny>,
    prompt_embeds: Option<IgnoredAny>,
    cache_salt: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrIds {
    Text(String),
    Ids(Vec<u32>),
    Other(IgnoredAny),
}

impl Asked {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Why> {
        let body: Body = serde_json::from_slice(body).map_err(|_| Why::NoPrompt)?;
        for (is_there, field) in [
            (body.chat_template.is_some(), "chat_template"),
            (body.truncate_prompt_tokens.is_some(), "truncate_prompt_tokens"),
            (body.prompt_embeds.is_some(), "prompt_embeds"),
        ] {
            if is_there {
                return Err(Why::Unknowable(field));
            }
        }
        let engine_agrees = body.documents.is_none() && body.reasoning_effort.is_none();
        let prompt = match (body.messages, body.prompt) {
            (Some(messages), _) => {
                let mut arguments = body.chat_template_kwargs.unwrap_or_default();
                let named = [("documents", body.documents), ("reasoning_effort", body.reasoning_effort)];
                arguments.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
                Prompt::Chat(Chat {
                    messages,
                    tools: body.tools,
                    arguments,
                    add_generation_prompt: body.add_generation_prompt.unwrap_or(true),
                    continue_final_message: body.continue_final_message.unwrap_or(false),
                    special_tokens: body.add_special_tokens.unwrap_or(false),
                })
            }
            (None, Some(TextOrIds::Text(text))) => {
                Prompt::Text { text, special_tokens: body.add_special_tokens.unwrap_or(true) }
            }
            (None, Some(TextOrIds::Ids(ids))) if !ids.is_empty() => Prompt::Ids(ids),
            (None, Some(TextOrIds::Ids(_) | TextOrIds::Other(_))) => return Err(Why::Several),
            (None, None) => return Err(Why::NoPrompt),
        };
        // An empty salt is none, as in vLLM, which refuses it.
        Ok(Self { prompt, salt: body.cache_salt.filter(|salt| !salt.is_empty()), engine_agrees })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::{Deserializer, Error as _, Visitor};
    use serde::forward_to_deserialize_any;

    use super::*;
    use crate::openai::PROMPT_MEMBERS;

    /// Fails with the names of the fields that are asked for.
    struct Names;

    impl<'de> Deserializer<'de> for Names {
        type Error = serde::de::value::Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            let mut fields = fields.to_vec();
            fields.sort_unstable();
            Err(Self::Error::custom(fields.join(" ")))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("not a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    #[test]
    fn a_request_is_known_by_every_field_that_is_read_of_it() {
        let mut members = PROMPT_MEMBERS.to_vec();
        members.sort_unstable();
        let read = Body::deserialize(Names).map(|_| ()).unwrap_err();
        assert_eq!(read.to_string(), members.join(" "));
    }
}
