//! The prompt's text out of whatever shape it has: a string, token ids, messages, parts, items.

use std::borrow::Cow;

use super::number;
use crate::json::{Kind, Malformed, Reader};

/// Appends the text of any prompt-like value, in order.
pub(super) fn collect<'a>(reader: &mut Reader<'a>, pieces: &mut Vec<Cow<'a, [u8]>>) -> Result<(), Malformed> {
    match reader.kind() {
        Kind::String => {
            let text = reader.string()?.text();
            if !text.is_empty() {
                pieces.push(text);
            }
            Ok(())
        }
        Kind::Array => reader.array(|reader| collect(reader, pieces)),
        Kind::Object => reader.object(|reader, key| member(reader, key, pieces)),
        Kind::Number => {
            if let Some(token) = number(reader.value()?) {
                push_token(token, pieces);
            }
            Ok(())
        }
        Kind::Other => reader.value().map(|_| ()),
    }
}

/// A token id: four bytes, because Kthena estimates a token as four bytes of text. They join the
/// piece before: ten thousand ids must not be ten thousand pieces, and pieces have no borders.
fn push_token(token: u64, pieces: &mut Vec<Cow<'_, [u8]>>) {
    let [a, b, c, d, ..] = token.to_le_bytes();
    match pieces.last_mut() {
        Some(Cow::Owned(piece)) => piece.extend_from_slice(&[a, b, c, d]),
        _ => pieces.push(Cow::Owned(vec![a, b, c, d])),
    }
}

/// Of a message, a part or an item. Its role and text are prompt, and so is whatever else it has
/// (images, tool calls, names), byte for byte; only what no chat template shows is left out.
fn member<'a>(reader: &mut Reader<'a>, key: &str, pieces: &mut Vec<Cow<'a, [u8]>>) -> Result<(), Malformed> {
    match key {
        "role" | "content" | "text" | "input" | "output" => collect(reader, pieces),
        "type" | "id" | "status" | "detail" | "cache_control" => reader.value().map(|_| ()),
        _ => {
            let raw = reader.value()?;
            if raw != b"null" {
                pieces.push(Cow::Borrowed(raw));
            }
            Ok(())
        }
    }
}
