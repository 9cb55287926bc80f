//! The request's body: kept as it came, joined once, sent back in pieces that Envoy accepts.

use bytes::Bytes;

/// The most bytes in one `StreamedBodyResponse`. Envoy recommends at most 64 KiB; the Go endpoint
/// pickers send 62,000, so every gateway is known to take that.
pub const CHUNK_LIMIT: usize = 62_000;

/// A body as it comes in. One message is never copied; several are copied once.
#[derive(Debug, Default)]
pub struct Received {
    chunks: Vec<Bytes>,
    length: usize,
}

impl Received {
    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no byte came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds what came.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.length += bytes.len();
            self.chunks.push(bytes);
        }
    }

    /// Makes the body contiguous.
    pub fn join(&mut self) {
        if self.chunks.len() > 1 {
            let mut whole = Vec::with_capacity(self.length);
            // By value: each piece is freed as soon as it was copied.
            for chunk in std::mem::take(&mut self.chunks) {
                whole.extend_from_slice(&chunk);
            }
            self.chunks.push(whole.into());
        }
    }

    /// The whole body after [`Received::join`].
    #[must_use]
    pub fn whole(&self) -> &[u8] {
        self.chunks.first().map_or(&[], Bytes::as_ref)
    }

    /// The same, to keep.
    #[must_use]
    pub fn shared(&self) -> Bytes {
        self.chunks.first().cloned().unwrap_or_default()
    }

    /// Takes the whole body out.
    pub fn take(&mut self) -> Bytes {
        self.join();
        self.length = 0;
        self.chunks.pop().unwrap_or_default()
    }

    /// Forgets the body and gives its memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A body on its way to Envoy, piece by piece, each a part of the whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunks {
    body: Bytes,
    end: bool,
    done: bool,
}

impl Chunks {
    /// The pieces of `body`; the last carries end of stream if `end`. An empty body is one empty piece.
    #[must_use]
    pub fn new(body: Bytes, end: bool) -> Self {
        Self { body, end, done: false }
    }

    /// Whether all pieces were taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }
}

impl Iterator for Chunks {
    /// The bytes, and whether they are the last of the message.
    type Item = (Bytes, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let piece = self.body.split_to(self.body.len().min(CHUNK_LIMIT));
        self.done = self.body.is_empty();
        Some((piece, self.end && self.done))
    }
}
