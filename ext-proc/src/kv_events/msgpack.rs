//! MessagePack, read piece by piece out of borrowed bytes: no tree, and no allocation by announced lengths.

use rmp::Marker;

/// How deep arrays and maps may lie in each other where they are skipped.
const DEPTH: usize = 16;

/// One piece of a document. Arrays and maps are announced by their length; their items follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Nil,
    Bool,
    /// Negative numbers only.
    Negative(i64),
    Number(u64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Array(usize),
    /// Pairs.
    Map(usize),
}

/// Why bytes are no document, or not the one that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("a text in it is not UTF-8")]
    NotUtf8,
    #[error("it is nested more than {DEPTH} deep")]
    Deep,
    #[error("it has a byte that begins nothing")]
    Reserved,
}

/// What is left of a document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// Bytes that are left: no more items than that can follow, whatever a length says.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn next(&mut self) -> Result<Piece<'a>, Malformed> {
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Piece::Nil,
            Marker::True | Marker::False => Piece::Bool,
            Marker::FixPos(value) => Piece::Number(value.into()),
            Marker::FixNeg(value) => Piece::Negative(value.into()),
            Marker::U8 => Piece::Number(self.number(1)?),
            Marker::U16 => Piece::Number(self.number(2)?),
            Marker::U32 => Piece::Number(self.number(4)?),
            Marker::U64 => Piece::Number(self.number(8)?),
            Marker::I8 => integer(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => integer(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => integer(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => integer(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Piece::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Piece::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => self.text(length.into())?,
            Marker::Str8 => self.sized(1, Self::text)?,
            Marker::Str16 => self.sized(2, Self::text)?,
            Marker::Str32 => self.sized(4, Self::text)?,
            Marker::Bin8 => self.sized(1, Self::bytes)?,
            Marker::Bin16 => self.sized(2, Self::bytes)?,
            Marker::Bin32 => self.sized(4, Self::bytes)?,
            Marker::FixArray(length) => Piece::Array(length.into()),
            Marker::Array16 => self.sized(2, |_, length| Ok(Piece::Array(length)))?,
            Marker::Array32 => self.sized(4, |_, length| Ok(Piece::Array(length)))?,
            Marker::FixMap(length) => Piece::Map(length.into()),
            Marker::Map16 => self.sized(2, |_, length| Ok(Piece::Map(length)))?,
            Marker::Map32 => self.sized(4, |_, length| Ok(Piece::Map(length)))?,
            // An extension's kind is one more byte. Nobody sends one: its bytes are enough.
            Marker::FixExt1 => self.bytes(2)?,
            Marker::FixExt2 => self.bytes(3)?,
            Marker::FixExt4 => self.bytes(5)?,
            Marker::FixExt8 => self.bytes(9)?,
            Marker::FixExt16 => self.bytes(17)?,
            Marker::Ext8 => self.sized(1, |reader, length| reader.bytes(length.saturating_add(1)))?,
            Marker::Ext16 => self.sized(2, |reader, length| reader.bytes(length.saturating_add(1)))?,
            Marker::Ext32 => self.sized(4, |reader, length| reader.bytes(length.saturating_add(1)))?,
            Marker::Reserved => return Err(Malformed::Reserved),
        })
    }

    /// Skips one item with all that lies in it.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        let piece = self.next()?;
        self.skip_rest(piece)
    }

    /// Skips what follows the announcement `piece`.
    pub(super) fn skip_rest(&mut self, piece: Piece<'a>) -> Result<(), Malformed> {
        let items = |piece| match piece {
            Piece::Array(length) => length,
            Piece::Map(length) => length.saturating_mul(2),
            _ => 0,
        };
        // How many items are still to come at each depth.
        let mut open = [0_usize; DEPTH];
        let mut depth = 0;
        let mut entered = items(piece);
        loop {
            if entered > 0 {
                *open.get_mut(depth).ok_or(Malformed::Deep)? = entered;
                depth += 1;
            }
            let Some(last) = depth.checked_sub(1).and_then(|last| open.get_mut(last)) else { return Ok(()) };
            if *last == 0 {
                depth -= 1;
                entered = 0;
                continue;
            }
            *last -= 1;
            entered = items(self.next()?);
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, Malformed> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn sized(
        &mut self,
        bytes: usize,
        then: impl FnOnce(&mut Self, usize) -> Result<Piece<'a>, Malformed>,
    ) -> Result<Piece<'a>, Malformed> {
        let length = usize::try_from(self.number(bytes)?).map_err(|_| Malformed::Short)?;
        then(self, length)
    }

    fn text(&mut self, length: usize) -> Result<Piece<'a>, Malformed> {
        std::str::from_utf8(self.take(length)?).map(Piece::Text).map_err(|_| Malformed::NotUtf8)
    }

    fn bytes(&mut self, length: usize) -> Result<Piece<'a>, Malformed> {
        self.take(length).map(Piece::Bytes)
    }
}

fn integer(value: i64) -> Piece<'static> {
    u64::try_from(value).map_or(Piece::Negative(value), Piece::Number)
}
