//! JSON in one pass over its bytes, for bodies of which a few members matter.
//!
//! Structure is judged strictly, as RFC 8259 has it: commas, brackets, literals, numbers, nothing behind
//! the value. What stands between the quotes of a string is searched for its end and not read, at the
//! speed of the processor's vectors; whether it holds control characters, unknown escapes or bytes that
//! are no UTF-8 is for whoever reads the string. Where a string ends does not depend on any of that, so
//! all readers of a body agree on its members. Keys are read.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// How deep values may lie in each other; the limit of `serde_json`.
const DEEPEST: u32 = 127;

/// Not JSON. Why, is for a reader to say that is not in a hurry ([`complaint`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What is wrong with `text`, of which this reader said that it is not one JSON object.
#[must_use]
pub fn complaint(text: &[u8]) -> String {
    match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        Err(error) => error.to_string(),
        Ok(_) => "the body must be one JSON object".to_owned(),
    }
}

/// What stands between the quotes of a string.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    raw: &'a [u8],
    escapes: bool,
}

impl<'a> Quoted<'a> {
    /// The text; borrowed where it has no escapes. An escape that JSON does not know stays as it is.
    #[must_use]
    pub fn text(self) -> Cow<'a, [u8]> {
        if self.escapes { Cow::Owned(unescaped(self.raw)) } else { Cow::Borrowed(self.raw) }
    }
}

/// The kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `"…"`
    String,
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// A number, or what begins like one.
    Number,
    /// `true`, `false`, `null`, or nothing that JSON knows.
    Other,
}

/// A place in a text. Every method that reads a value leaves it behind that value.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    /// At the beginning of `text`.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Where the next value begins.
    pub fn place(&mut self) -> usize {
        self.next();
        self.at
    }

    /// Where the last value ended.
    #[must_use]
    pub fn end_of_value(&self) -> usize {
        self.at
    }

    /// The kind of the next value.
    pub fn kind(&mut self) -> Kind {
        match self.next() {
            Some(b'"') => Kind::String,
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => Kind::Other,
        }
    }

    /// Reads an object: `member` is called with each key, and must read the value or fail.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.list(b'{', b'}', |reader| {
            reader.next();
            let key = reader.key()?;
            reader.expect(b':')?;
            member(reader, &key)
        })
    }

    /// Reads an array: `item` is called for each value, and must read it or fail.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn array(&mut self, item: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.list(b'[', b']', item)
    }

    /// Reads a string.
    ///
    /// # Errors
    /// [`Malformed`], also where another kind of value is.
    pub fn string(&mut self) -> Result<Quoted<'a>, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escapes = false;
        loop {
            let rest = self.text.get(self.at..).ok_or(Malformed)?;
            self.at += memchr2(b'"', b'\\', rest).ok_or(Malformed)?;
            if self.text.get(self.at) == Some(&b'"') {
                let raw = self.text.get(start..self.at).ok_or(Malformed)?;
                self.at += 1;
                return Ok(Quoted { raw, escapes });
            }
            escapes = true;
            // The backslash and whatever it escapes: also a quote.
            self.at += 2;
        }
    }

    /// Reads a value of any kind; its bytes, as they are written.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.place();
        match self.kind() {
            Kind::String => self.string().map(|_| ())?,
            Kind::Object => self.object(|reader, _| reader.value().map(|_| ()))?,
            Kind::Array => self.array(|reader| reader.value().map(|_| ()))?,
            Kind::Number => self.number()?,
            Kind::Other => self.literal()?,
        }
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// Nothing but white space may follow.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn end(mut self) -> Result<(), Malformed> {
        if self.next().is_none() { Ok(()) } else { Err(Malformed) }
    }

    /// The next byte that is not white space.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, wanted: u8) -> Result<(), Malformed> {
        if self.next() != Some(wanted) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Malformed);
        }
        if self.next() != Some(close) {
            loop {
                item(self)?;
                match self.next() {
                    Some(b',') => self.at += 1,
                    Some(byte) if byte == close => break,
                    _ => return Err(Malformed),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// A key, read as strictly as can be: it says what a value means.
    fn key(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let start = self.at;
        let Quoted { raw, escapes } = self.string()?;
        if !escapes && !raw.iter().any(|byte| *byte < b' ') {
            return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| Malformed);
        }
        let quoted = self.text.get(start..self.at).ok_or(Malformed)?;
        serde_json::from_slice::<String>(quoted).map(Cow::Owned).map_err(|_| Malformed)
    }

    fn number(&mut self) -> Result<(), Malformed> {
        self.skip(b'-');
        if !self.skip(b'0') {
            self.digits()?;
        }
        if self.skip(b'.') {
            self.digits()?;
        }
        if self.skip(b'e') || self.skip(b'E') {
            let _ = self.skip(b'+') || self.skip(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Malformed) }
    }

    fn skip(&mut self, byte: u8) -> bool {
        let there = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(there);
        there
    }

    fn literal(&mut self) -> Result<(), Malformed> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let known = ["true", "false", "null"].into_iter().find(|known| rest.starts_with(known.as_bytes()));
        self.at += known.ok_or(Malformed)?.len();
        Ok(())
    }
}

/// `raw` with its escapes read.
fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escape)) = memchr(b'\\', rest).and_then(|at| rest.split_at_checked(at)) {
        text.extend_from_slice(plain);
        let length = match escape {
            [_, byte @ (b'"' | b'\\' | b'/'), ..] => push(&mut text, *byte),
            [_, b'n', ..] => push(&mut text, b'\n'),
            [_, b't', ..] => push(&mut text, b'\t'),
            [_, b'r', ..] => push(&mut text, b'\r'),
            [_, b'b', ..] => push(&mut text, 0x08),
            [_, b'f', ..] => push(&mut text, 0x0c),
            _ => match unicode(escape) {
                Some((character, length)) => {
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    length
                }
                None => {
                    text.push(b'\\');
                    1
                }
            },
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    text.extend_from_slice(rest);
    text
}

fn push(text: &mut Vec<u8>, byte: u8) -> usize {
    text.push(byte);
    2
}

/// The character of `\uXXXX`, or of two of them that are a surrogate pair, and how many bytes that are.
fn unicode(escape: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    };
    let first = unit(0)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 6));
    }
    let both = char::decode_utf16([u16::try_from(first).ok()?, u16::try_from(unit(6)?).ok()?]).next()?;
    Some((both.ok()?, 12))
}

#[cfg(test)]
mod tests;
