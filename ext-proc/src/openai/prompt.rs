//! The prompt's text out of whatever shape it has: a string, token ids, messages, parts, items.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON string, borrowed if it had no escapes.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsText;

        impl<'de> Visitor<'de> for AsText {
            type Value = Cow<'de, str>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }

        deserializer.deserialize_str(AsText).map(Text)
    }
}

/// Appends the text of any prompt-like value, in order.
pub(super) struct Collect<'p, 'a>(pub(super) &'p mut Vec<Cow<'a, [u8]>>);

impl<'a> Collect<'_, 'a> {
    fn push(self, text: Cow<'a, str>) {
        if !text.is_empty() {
            self.0.push(match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            });
        }
    }
}

impl<'de> DeserializeSeed<'de> for Collect<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a prompt")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.push(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.push(Cow::Owned(text.to_owned()));
        Ok(())
    }

    // A token id: four bytes, because Kthena estimates a token as four bytes of text. They join the
    // piece before: ten thousand ids must not be ten thousand pieces, and pieces have no borders.
    fn visit_u64<E: Error>(self, token: u64) -> Result<(), E> {
        let [a, b, c, d, ..] = token.to_le_bytes();
        match self.0.last_mut() {
            Some(Cow::Owned(piece)) => piece.extend_from_slice(&[a, b, c, d]),
            _ => self.0.push(Cow::Owned(vec![a, b, c, d])),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Collect(self.0))?.is_some() {}
        Ok(())
    }

    /// A message, a part or an item. Its role and text are prompt, and so is whatever else it has
    /// (images, tool calls, names), byte for byte; only what no chat template shows is left out.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match key.as_ref() {
                "role" | "content" | "text" | "input" | "output" => map.next_value_seed(Collect(self.0))?,
                "type" | "id" | "status" | "detail" | "cache_control" => {
                    map.next_value::<IgnoredAny>()?;
                }
                _ => {
                    let raw = map.next_value::<&RawValue>()?.get();
                    if raw != "null" {
                        self.0.push(Cow::Borrowed(raw.as_bytes()));
                    }
                }
            }
        }
        Ok(())
    }
}
