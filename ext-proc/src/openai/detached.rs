//! A body that was read, kept apart from its bytes: for whoever has to wait in between.

use std::borrow::Cow;
use std::ops::Range;

use scheduling::{Body, Prompt};

use super::{Parsed, PromptMembers};

/// What was read, without the bytes.
#[derive(Debug)]
pub struct Detached {
    name: String,
    model: Range<usize>,
    stream: bool,
    max_tokens: Option<u64>,
    pieces: Vec<Piece>,
    members: PromptMembers,
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
        Detached { name: name.into_owned(), model, stream, max_tokens, pieces, members }
    }
}

impl Detached {
    /// Where the prompt's members stand.
    #[must_use]
    pub fn members(&self) -> &PromptMembers {
        &self.members
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
}
