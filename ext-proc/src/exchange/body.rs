//! The request's body: kept as it came, joined once, sent back in pieces that Envoy accepts.

/// The most bytes in one `StreamedBodyResponse`. Envoy recommends at most 64 KiB; the Go endpoint
/// pickers send 62,000, so every gateway is known to take that.
pub const CHUNK_LIMIT: usize = 62_000;

/// A body as it comes in. One message is never copied; several are copied once.
#[derive(Debug, Default)]
pub struct Received {
    chunks: Vec<Vec<u8>>,
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
    pub fn push(&mut self, bytes: Vec<u8>) {
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
            self.chunks.push(whole);
        }
    }

    /// The whole body after [`Received::join`].
    #[must_use]
    pub fn whole(&self) -> &[u8] {
        self.chunks.first().map_or(&[], Vec::as_slice)
    }

    /// Takes the whole body out.
    pub fn take(&mut self) -> Vec<u8> {
        self.join();
        self.length = 0;
        self.chunks.pop().unwrap_or_default()
    }

    /// Forgets the body and gives its memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A body on its way to Envoy, piece by piece, so that a large one is not held twice.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunks {
    body: Vec<u8>,
    sent: usize,
    end: bool,
    done: bool,
}

impl Chunks {
    /// The pieces of `body`; the last carries end of stream if `end`. An empty body is one empty piece.
    #[must_use]
    pub fn new(body: Vec<u8>, end: bool) -> Self {
        Self { body, sent: 0, end, done: false }
    }

    /// Whether all pieces were taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }
}

impl Iterator for Chunks {
    /// The bytes, and whether they are the last of the message.
    type Item = (Vec<u8>, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.sent == 0 && self.body.len() <= CHUNK_LIMIT {
            self.done = true;
            return Some((std::mem::take(&mut self.body), self.end));
        }
        let until = self.body.len().min(self.sent.saturating_add(CHUNK_LIMIT));
        let piece = self.body.get(self.sent..until).unwrap_or_default().to_vec();
        self.sent = until;
        self.done = until == self.body.len();
        if self.done {
            self.body = Vec::new();
        }
        Some((piece, self.end && self.done))
    }
}
