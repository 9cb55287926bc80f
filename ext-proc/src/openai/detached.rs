//! A body that was read, kept apart from its bytes: for whoever has to wait in between.

use std::borrow::Cow;
use std::ops::Range;

use scheduling::{Body, Prompt};

use super::{Parsed, PromptMembers, model};

/// What was read, without the bytes.
#[derive(Debug)]
pub struct Detached {
    name: String,
    model: Range<usize>,
    stream: bool,
    max_tokens: Option<u64>,
    pieces: Vec<Piece>,
    members: PromptMembers,
    /// Of the bytes.
    length: usize,
}

#[derive(Debug)]
enum Piece {
    /// In the bytes.
    Place(Range<usize>),
    /// Had escapes.
    Text(Vec<u8>),
}

impl Parsed<'_> {
    /// Lets go of `bytes`, of which this was read.
    #[must_use]
    pub fn detach(self, bytes: &[u8]) -> Detached {
        let Self { body: Body { model: name, stream, max_tokens, prompt }, model, members } = self;
        let piece = |piece| match piece {
            // A borrowed piece lies inside `bytes`: the distance of their addresses is its place.
            Cow::Borrowed(piece) => {
                let piece: &[u8] = piece;
                let start = (piece.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
                Piece::Place(start..start.wrapping_add(piece.len()))
            }
            Cow::Owned(text) => Piece::Text(text),
        };
        let pieces = prompt.pieces.into_iter().map(piece).collect();
        Detached { name: name.into_owned(), model, stream, max_tokens, pieces, members, length: bytes.len() }
    }
}

impl Detached {
    /// Where the prompt's members stand.
    #[must_use]
    pub fn members(&self) -> &PromptMembers {
        &self.members
    }

    /// Whether `bytes` may be those that this was read of: as many, and with the same model at the same place. Where
    /// they are not the same after all, [`Detached::attach`] says other text of the prompt than there is, which makes
    /// a pick worse and nothing wrong: the model and its place, by which bytes are changed, are right.
    #[must_use]
    pub fn fits(&self, bytes: &[u8]) -> bool {
        let named = |value| model(value).is_ok_and(|name| name == self.name);
        bytes.len() == self.length && bytes.get(self.model.clone()).is_some_and(named)
    }

    /// Bytes of memory that this takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let text = |piece: &Piece| match piece {
            Piece::Place(_) => 0,
            Piece::Text(text) => text.len(),
        };
        let pieces = self.pieces.len() * size_of::<Piece>() + self.pieces.iter().map(text).sum::<usize>();
        size_of::<Self>() + self.name.len() + pieces + self.members.bytes()
    }

    /// What was read of `bytes`, once more.
    #[must_use]
    pub fn attach<'a>(&'a self, bytes: &'a [u8]) -> Parsed<'a> {
        let piece = |piece: &'a Piece| {
            Cow::Borrowed(match piece {
                Piece::Place(place) => bytes.get(place.clone()).unwrap_or_default(),
                Piece::Text(text) => text,
            })
        };
        let prompt = Prompt { pieces: self.pieces.iter().map(piece).collect() };
        let model = Cow::Borrowed(self.name.as_str());
        let body = Body { model, stream: self.stream, max_tokens: self.max_tokens, prompt };
        Parsed { body, model: self.model.clone(), members: self.members.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn what_was_detached_reads_the_same_again() {
        let bytes = br#"{"prompt":["one",[1,2],"t\two"],"model":"m","stream":true,"max_tokens":7,"tools":[{"a":1}]}"#;
        let moved = bytes.to_vec();
        let (detached, expected) = (parse(bytes).unwrap().detach(bytes), parse(bytes).unwrap());
        let again = detached.attach(&moved);
        assert_eq!(again.model, expected.model);
        assert_eq!(again.body.model, "m");
        assert!(again.body.stream);
        assert_eq!(again.body.max_tokens, Some(7));
        assert_eq!(again.body.prompt.pieces, expected.body.prompt.pieces);
        assert_eq!(again.body.prompt.pieces.len(), 4, "tools, text, ids, text: {:?}", again.body.prompt.pieces);
    }

    #[test]
    fn bytes_fit_with_their_length_and_their_model() {
        let bytes = br#"{"model":"m\u0031","prompt":"x"}"#;
        let detached = parse(bytes).unwrap().detach(bytes);
        assert!(detached.fits(bytes));
        assert!(detached.fits(br#"{"model":"m\u0031","prompt":"y"}"#), "nobody can tell without reading all");
        for other in [
            &br#"{"model":"m\u0032","prompt":"x"}"#[..],
            br#"{"prompt":"x","model":"m\u0031"}"#,
            br#"{"model":"m\u0031","prompt":"xy"}"#,
            br#"{"model":"m\u0031","#,
            b"",
        ] {
            assert!(!detached.fits(other), "{}", String::from_utf8_lossy(other));
        }
    }
}
