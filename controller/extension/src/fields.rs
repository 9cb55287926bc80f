//! A message of Envoy's as its fields, most of them not understood. What is not touched stays as it was, byte by byte
//! (Protocol Buffers, "Encoding": a message is a list of fields, and one that is not known can be kept).

use prost::Message;
use prost::bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// What was sent is not a message.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("what should be a message of Envoy's cannot be read: {0}")]
pub struct Malformed(String);

impl Malformed {
    pub(crate) fn because(error: &impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// The fields, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<Field>);

#[derive(Clone, Debug)]
struct Field {
    number: u32,
    wire: WireType,
    /// Without the key and the length.
    payload: Bytes,
}

impl Fields {
    /// Splits a message.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn parse(mut message: Bytes) -> Result<Self, Malformed> {
        let mut fields = Vec::new();
        while message.has_remaining() {
            let (number, wire) = decode_key(&mut message)?;
            let length = match wire {
                WireType::Varint => message.iter().take(10).position(|byte| *byte < 0x80).map(|last| last + 1),
                WireType::SixtyFourBit => Some(8),
                WireType::ThirtyTwoBit => Some(4),
                WireType::LengthDelimited => usize::try_from(decode_varint(&mut message)?).ok(),
                WireType::StartGroup | WireType::EndGroup => None,
            };
            let length = length.filter(|length| *length <= message.remaining());
            let length = length.ok_or_else(|| Malformed(format!("field {number} is cut off")))?;
            fields.push(Field { number, wire, payload: message.split_to(length) });
        }
        Ok(Self(fields))
    }

    /// Puts the message together.
    pub(crate) fn encode(&self) -> Bytes {
        let mut message = BytesMut::new();
        for field in &self.0 {
            encode_key(field.number, field.wire, &mut message);
            if field.wire == WireType::LengthDelimited {
                encode_varint(u64::try_from(field.payload.len()).unwrap_or(u64::MAX), &mut message);
            }
            message.extend_from_slice(&field.payload);
        }
        message.freeze()
    }

    /// Messages, strings or bytes of this number.
    pub(crate) fn all(&self, number: u32) -> impl Iterator<Item = &Bytes> {
        let fields = self.0.iter().filter(move |field| field.number == number);
        fields.filter(|field| field.wire == WireType::LengthDelimited).map(|field| &field.payload)
    }

    /// The message, string or bytes of this number; the last, where there are several.
    pub(crate) fn last(&self, number: u32) -> Option<&Bytes> {
        self.all(number).last()
    }

    /// The string of this number; empty when there is none.
    pub(crate) fn text(&self, number: u32) -> &str {
        self.last(number).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Removes all fields of these numbers.
    pub(crate) fn remove(&mut self, numbers: &[u32]) {
        self.0.retain(|field| !numbers.contains(&field.number));
    }

    /// Appends a message, a string or bytes.
    pub(crate) fn push(&mut self, number: u32, payload: Bytes) {
        self.0.push(Field { number, wire: WireType::LengthDelimited, payload });
    }

    /// Appends all fields of a message that is ours.
    ///
    /// # Errors
    /// None, as long as `message` is one.
    pub(crate) fn merge(&mut self, message: &impl Message) -> Result<(), Malformed> {
        self.0.extend(Self::parse(message.encode_to_vec().into())?.0);
        Ok(())
    }

    /// Puts messages in front of the first of this number that `is_here`, or at the end.
    pub(crate) fn insert_before(&mut self, number: u32, is_here: impl Fn(&Bytes) -> bool, new: Vec<Bytes>) {
        let here = self.0.iter().position(|field| field.number == number && is_here(&field.payload));
        let at = here.unwrap_or(self.0.len());
        let new = new.into_iter().map(|payload| Field { number, wire: WireType::LengthDelimited, payload });
        self.0.splice(at..at, new);
    }

    /// Replaces each message of this number for which `change` has another. Returns whether there was one.
    ///
    /// # Errors
    /// The first of `change`.
    pub(crate) fn change(
        &mut self,
        number: u32,
        mut change: impl FnMut(&Bytes) -> Result<Option<Bytes>, Malformed>,
    ) -> Result<bool, Malformed> {
        let mut changed = false;
        for field in &mut self.0 {
            if field.number == number
                && field.wire == WireType::LengthDelimited
                && let Some(other) = change(&field.payload)?
            {
                field.payload = other;
                changed = true;
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields 1 (varint 300), 2 ("ab"), 9 (32 bits), 10 (64 bits), 2 ("c").
    const MESSAGE: &[u8] = b"\x08\xac\x02\x12\x02ab\x4d\x01\x02\x03\x04\x51\x01\x02\x03\x04\x05\x06\x07\x08\x12\x01c";

    #[test]
    fn what_is_not_touched_stays_byte_by_byte() {
        let mut fields = Fields::parse(MESSAGE.into()).unwrap();
        assert_eq!(fields.encode(), MESSAGE);
        assert_eq!(fields.text(2), "c");
        fields.insert_before(2, |one| *one == "c", vec!["b".into()]);
        fields.push(3, "d".into());
        fields.remove(&[9]);
        let changed = fields.change(2, |text| Ok((text == "ab").then(|| "a".into()))).unwrap();
        assert!(changed);
        let expected = b"\x08\xac\x02\x12\x01a\x51\x01\x02\x03\x04\x05\x06\x07\x08\x12\x01b\x12\x01c\x1a\x01d";
        assert_eq!(fields.encode(), &expected[..]);
    }

    #[test]
    fn what_is_cut_off_or_no_message_is_refused() {
        for end in [1, 2, 4, 6, 8, 14] {
            let cut = Fields::parse(Bytes::from_static(&MESSAGE[..end])).map(|fields| fields.encode());
            assert!(cut.is_err(), "{end}: {cut:?}");
        }
        assert!(Fields::parse(Bytes::from_static(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f")).is_err());
        assert!(Fields::parse(Bytes::from_static(b"\x0b")).is_err(), "a group");
    }
}
