//! What prefill and decode get of the client's body.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::connectors::{Connector, TRANSFER_FIELDS};
use crate::splice::{Change, Members};

/// The requests that have a prefill which can run apart, by the end of their path.
pub const PATHS: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// The path to ask an engine for, when a request for `path` can be split. Gateways may put a prefix
/// before it, which they take away behind us.
#[must_use]
pub fn engine_path(path: &str) -> Option<&'static str> {
    PATHS.into_iter().find(|known| path.ends_with(known))
}

/// Why the prefill of a request cannot run apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsplittable {
    /// The path is not of [`PATHS`].
    #[error("only chat completions and completions have a prefill")]
    Path,
    /// The body is not an object, or not known to its end.
    #[error("the body is not a whole JSON object")]
    Body,
    /// Several prompts, or several answers to one.
    #[error("the connector transfers the blocks of one sequence only")]
    Sequences,
    /// The answer tells about the prompt's tokens, so who answers must compute them.
    #[error("the answer is about the prompt's own tokens")]
    PromptOutput,
}

impl Unsplittable {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Path, Self::Body, Self::Sequences, Self::PromptOutput];

    /// Its name as a metric's label.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Body => "body",
            Self::Sequences => "sequences",
            Self::PromptOutput => "prompt_output",
        }
    }
}

/// A body whose prefill can run apart from its decode.
#[derive(Debug)]
pub struct Split {
    members: Members,
    model: Option<Change>,
}

impl Split {
    /// Reads the client's `body`. `model` is the name to write over the body's.
    ///
    /// # Errors
    /// When `body` is not a JSON object.
    pub fn read(body: &Bytes, model: Option<&str>) -> Result<Self, Unsplittable> {
        let members = Members::read(body).map_err(|_| Unsplittable::Body)?;
        let model = model.and_then(|model| serde_json::to_vec(model).ok());
        Ok(Self { members, model: model.map(|model| Change::Replace("model", model)) })
    }

    /// Whether `connector` can transfer what this body asks for.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn fits(&self, connector: &dyn Connector) -> Result<(), Unsplittable> {
        let is = |key: &str, values: [&str; 2]| {
            self.members.get(key).is_none_or(|value| values.iter().any(|known| known.as_bytes() == value))
        };
        if !is("prompt_logprobs", ["null", "null"]) || !is("echo", ["null", "false"]) {
            return Err(Unsplittable::PromptOutput);
        }
        let one_answer =
            is("n", ["null", "1"]) && is("best_of", ["null", "1"]) && is("use_beam_search", ["null", "false"]);
        if connector.one_sequence_only() && !(one_answer && self.one_prompt()) {
            return Err(Unsplittable::Sequences);
        }
        Ok(())
    }

    /// Whether `prompt` is one: a text, a list of token ids, or a list of one of these.
    fn one_prompt(&self) -> bool {
        let Some(list) = self.members.get("prompt").and_then(|prompt| prompt.strip_prefix(b"[")) else { return true };
        // The first byte tells a list of token ids, which may be very long.
        if !list.trim_ascii_start().starts_with(b"\"") && !list.trim_ascii_start().starts_with(b"[") {
            return true;
        }
        let prompts = self.members.get("prompt").map(serde_json::from_slice::<Vec<&RawValue>>);
        prompts.is_some_and(|prompts| prompts.is_ok_and(|prompts| prompts.len() == 1))
    }

    /// The prefill's body: it makes one token and does not stream it. `transfer` are the connector's changes.
    #[must_use]
    pub fn prefill(&self, transfer: &[Change]) -> Vec<u8> {
        let one = || b"1".to_vec();
        let mut changes = vec![
            Change::Remove("stream"),
            Change::Remove("stream_options"),
            Change::Set("max_tokens", one()),
            Change::Replace("max_completion_tokens", one()),
        ];
        // vLLM refuses a minimum over the maximum.
        let least = self.members.get("min_tokens").and_then(|value| serde_json::from_slice::<f64>(value).ok());
        if least.is_some_and(|least| least > 1.0) {
            changes.push(Change::Replace("min_tokens", one()));
        }
        self.with(changes, transfer).unwrap_or_default()
    }

    /// Decode's body, with the connector's changes `transfer`; `None` when it is the client's as it is.
    /// Without any it is the body for an engine that does all by itself.
    #[must_use]
    pub fn decode(&self, transfer: &[Change]) -> Option<Vec<u8>> {
        self.with(Vec::new(), transfer)
    }

    fn with(&self, mut changes: Vec<Change>, transfer: &[Change]) -> Option<Vec<u8>> {
        changes.extend(self.model.clone());
        changes.extend_from_slice(transfer);
        for field in TRANSFER_FIELDS {
            if !transfer.iter().any(|change| change.key() == field) {
                changes.push(Change::Remove(field));
            }
        }
        self.members.changed(&changes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// Fields that prefill changes, that transfers own, and others; of any kind.
    const KEYS: [&str; 12] = [
        "model",
        "prompt",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "kv_transfer_params",
        "bootstrap_room",
        "n",
        "seed",
        "user",
    ];

    fn body() -> impl Strategy<Value = Map<String, Value>> {
        let value = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            prop::collection::vec(any::<u16>(), 0..4).prop_map(Value::from),
        ];
        prop::collection::hash_map(prop::sample::select(&KEYS[..]), value, 0..KEYS.len())
            .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    proptest! {
        #[test]
        fn prefill_changes_nothing_of_decodes_body(fields in body(), pretty: bool) {
            let bytes = if pretty { serde_json::to_vec_pretty(&fields) } else { serde_json::to_vec(&fields) }.unwrap();
            let transfer = [Change::Set("kv_transfer_params", br#"{ "n": 1.10 }"#.to_vec())];
            let bytes = Bytes::from(bytes);
            let split = Split::read(&bytes, None).unwrap();
            let (prefill, decode) = (split.prefill(&transfer), split.decode(&transfer).unwrap());

            // Decode: without what was spliced in, the client's bytes without transfer fields.
            let gone: Vec<Change> = TRANSFER_FIELDS.into_iter().map(Change::Remove).collect();
            let members = |bytes: &[u8]| Members::read(&Bytes::copy_from_slice(bytes)).unwrap();
            let bare = |bytes: &[u8]| members(bytes).changed(&gone).unwrap_or_else(|| bytes.to_vec());
            prop_assert_eq!(bare(&decode), bare(&bytes));
            let decode = members(&decode);
            prop_assert_eq!(decode.get("kv_transfer_params"), Some(br#"{ "n": 1.10 }"#.as_slice()));

            // Prefill: one token, not streamed, and otherwise the client's request.
            let mut expected = fields;
            for key in ["stream", "stream_options", "bootstrap_room"] {
                expected.remove(key);
            }
            expected.insert("max_tokens".to_owned(), 1.into());
            expected.insert("kv_transfer_params".to_owned(), serde_json::json!({"n": 1.1}));
            if let Some(most) = expected.get_mut("max_completion_tokens") {
                *most = 1.into();
            }
            if let Some(least) = expected.get_mut("min_tokens").filter(|least| least.as_u64().is_some_and(|it| it > 1)) {
                *least = 1.into();
            }
            prop_assert_eq!(serde_json::from_slice::<Value>(&prefill).unwrap(), Value::Object(expected));
        }
    }
}
