//! Makes Istio's `:authority` one that the HTTP/2 server accepts.
//!
//! Istio names the picker's cluster `outbound|9002||llama-epp.default.svc.cluster.local`, and Envoy sends
//! a cluster's name as the `:authority` of its gRPC calls. `|` may not stand in a URI (RFC 3986 3.2), so
//! our HTTP/2 server ends every such stream with a protocol error before anybody can ask about it.
//! Here each `|` becomes `+`, in place: both have eleven bits in HPACK's Huffman code (RFC 7541,
//! appendix B), so neither a length nor anybody's dynamic table changes.

use std::ops::Range;

use tokio::io::ReadBuf;

/// What a client sends before its first frame (RFC 9113 3.4).
const PREFACE: usize = 24;
/// Bytes before a frame's payload (RFC 9113 4.1).
const FRAME_HEADER: usize = 9;
/// The frame type that begins a request.
const HEADERS: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Payloads that are looked into: all that a server with default settings accepts.
const LONGEST: usize = 16_384;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// Follows the bytes that a client sends on one HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Rewriter {
    /// Bytes that pass before the next frame begins.
    skip: usize,
    /// The beginning of a frame whose end has not come; before it, what is whole and not yet read.
    held: Vec<u8>,
    whole: Range<usize>,
}

impl Rewriter {
    pub(crate) fn new() -> Self {
        Self { skip: PREFACE, held: Vec::new(), whole: 0..0 }
    }

    /// Gives out what was held back and is whole now. Returns whether there was anything.
    pub(crate) fn deliver(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.whole.is_empty() {
            return false;
        }
        let end = self.whole.end.min(self.whole.start + buffer.remaining());
        buffer.put_slice(self.held.get(self.whole.start..end).unwrap_or_default());
        self.whole.start = end;
        if self.whole.is_empty() {
            self.held.drain(..end);
            self.whole = 0..0;
        }
        true
    }

    /// Takes in bytes from the connection. Returns how many of them may be read on; the rest is held.
    /// Call it only when [`Rewriter::deliver`] has nothing.
    pub(crate) fn pass(&mut self, fresh: &mut [u8]) -> usize {
        if self.held.is_empty() {
            let whole = self.scan(fresh);
            self.held.extend_from_slice(fresh.get(whole..).unwrap_or_default());
            return whole;
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(fresh);
        self.whole = 0..self.scan(&mut held);
        self.held = held;
        0
    }

    /// Rewrites all whole frames. Returns where the first that is not whole begins.
    fn scan(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            (at, self.skip) = (at + skipped, self.skip - skipped);
            let Some([high, middle, low, kind, flags, ..]) =
                bytes.get(at..).and_then(<[u8]>::first_chunk::<FRAME_HEADER>).copied()
            else {
                return at;
            };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind != HEADERS || length > LONGEST {
                self.skip = FRAME_HEADER + length;
                continue;
            }
            let payload = at + FRAME_HEADER;
            let Some(fields) = bytes.get_mut(payload..payload + length) else { return at };
            let before = usize::from(flags & PADDED != 0) + 5 * usize::from(flags & PRIORITY != 0);
            if let Some(fields) = fields.get_mut(before..) {
                // Malformed fields are the server's to refuse.
                let _ = rewrite(fields);
            }
            at = payload + length;
        }
    }
}

/// Walks a field block (RFC 7541 6) as far as it goes.
fn rewrite(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        let (index_bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(block, &mut at, index_bits)?;
        if !literal {
            continue;
        }
        if index == 0 {
            string(block, &mut at)?;
        }
        let (huffman, value) = string(block, &mut at)?;
        if index == AUTHORITY {
            let value = block.get_mut(value)?;
            if huffman { in_huffman(value) } else { in_text(value) }
        }
    }
}

/// An integer whose first byte has `bits` bits of it (RFC 7541 5.1).
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let mask = (1_usize << bits) - 1;
    let mut next = || {
        let byte = block.get(*at).copied();
        *at += 1;
        byte.map(usize::from)
    };
    let mut value = next()? & mask;
    if value < mask {
        return Some(value);
    }
    // Three bytes are 2 MiB: more than a frame holds.
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string literal (RFC 7541 5.2): whether it is in Huffman code, and where it is.
fn string(block: &[u8], at: &mut usize) -> Option<(bool, Range<usize>)> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let start = *at;
    *at = start.checked_add(length)?;
    (*at <= block.len()).then_some((huffman, start..*at))
}

fn in_text(value: &mut [u8]) {
    for byte in value.iter_mut().filter(|byte| **byte == b'|') {
        *byte = b'+';
    }
}

/// The code is canonical: how long the next code is follows from its value alone. Codes of up to eleven
/// bits are all that a host name has; longer ones, and the padding, end the walk.
fn in_huffman(value: &mut [u8]) {
    /// The length of a group of codes, and the greatest of them.
    const GROUPS: [(usize, u32); 6] = [(5, 0x9), (6, 0x2d), (7, 0x7b), (8, 0xfd), (10, 0x3fc), (11, 0x7fc)];
    const PIPE: u32 = 0x7fc;
    let mut at = 0;
    'codes: loop {
        for (length, greatest) in GROUPS {
            let Some(code) = bits(value, at, length) else { return };
            if code > greatest {
                continue;
            }
            if code == PIPE && length == 11 {
                // To 0x7fb, `+`: the last three bits, 100, become 011.
                (at + 8..at + 11).for_each(|bit| flip(value, bit));
            }
            at += length;
            continue 'codes;
        }
        return;
    }
}

fn bits(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    (at..at + length).try_fold(0, |code, bit| {
        let byte = bytes.get(bit / 8)?;
        Some(code << 1 | u32::from(byte >> (7 - bit % 8) & 1))
    })
}

fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 0x80 >> (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISTIO: &str = "outbound|9002||llama-epp.default.svc.cluster.local";
    const CLEAN: &str = "outbound+9002++llama-epp.default.svc.cluster.local";

    /// The codes of RFC 7541, appendix B, that the test's strings need: character, code, bits.
    const CODES: &[(char, u32, usize)] = &[
        ('0', 0x0, 5),
        ('1', 0x1, 5),
        ('2', 0x2, 5),
        ('a', 0x3, 5),
        ('c', 0x4, 5),
        ('e', 0x5, 5),
        ('o', 0x7, 5),
        ('s', 0x8, 5),
        ('t', 0x9, 5),
        ('-', 0x16, 6),
        ('.', 0x17, 6),
        ('9', 0x1f, 6),
        ('b', 0x23, 6),
        ('d', 0x24, 6),
        ('f', 0x25, 6),
        ('l', 0x28, 6),
        ('m', 0x29, 6),
        ('n', 0x2a, 6),
        ('p', 0x2b, 6),
        ('r', 0x2c, 6),
        ('u', 0x2d, 6),
        ('v', 0x77, 7),
        ('+', 0x7fb, 11),
        ('|', 0x7fc, 11),
    ];

    fn huffman(text: &str) -> Vec<u8> {
        let bits = text.chars().flat_map(|char| {
            let (_, code, length) = *CODES.iter().find(|(known, ..)| *known == char).unwrap();
            (0..length).rev().map(move |bit| code >> bit & 1 == 1)
        });
        let mut bits: Vec<bool> = bits.collect();
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
    }

    /// `:method POST`, then `:authority` as a literal that is indexed, then a header with a literal name.
    fn fields(huffman_flag: u8, authority: &[u8]) -> Vec<u8> {
        let length = u8::try_from(authority.len()).unwrap();
        [&[0x83, 0x41, huffman_flag | length], authority, &[0x40, 1, b'|', 1, b'|']].concat()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What a client sends: preface, settings, a request of each kind with data that looks like one.
    fn connection(authority: &str) -> Vec<u8> {
        let plain = fields(0, authority.as_bytes());
        let coded = fields(0x80, &huffman(authority));
        let padded = [&[2, 0, 0, 0, 0, 9], &coded[..], &[0, 0]].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[]),
            frame(HEADERS, 4, &plain),
            frame(0, 0, &fields(0, ISTIO.as_bytes())),
            frame(HEADERS, 4, &coded),
            frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
        ]
        .concat()
    }

    /// Reads `sent`, which comes in pieces of `piece` bytes, with a buffer of `room` bytes.
    fn read(sent: &[u8], piece: usize, room: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::new();
        let mut read = Vec::new();
        for piece in sent.chunks(piece) {
            for fresh in piece.chunks(room) {
                let mut fresh = fresh.to_vec();
                let whole = rewriter.pass(&mut fresh);
                read.extend_from_slice(&fresh[..whole]);
                let mut space = vec![0; room];
                let mut buffer = ReadBuf::new(&mut space);
                while rewriter.deliver(&mut buffer) {
                    read.extend_from_slice(buffer.filled());
                    buffer.clear();
                }
            }
        }
        read
    }

    #[test]
    fn pipes_in_an_authority_become_pluses_and_nothing_else_changes() {
        let (sent, expected) = (connection(ISTIO), connection(CLEAN));
        assert_ne!(sent, expected);
        for piece in 1..=sent.len() {
            for room in [1, 7, 4096] {
                assert_eq!(read(&sent, piece, room), expected, "pieces of {piece}, room for {room}");
            }
        }
    }

    #[test]
    fn an_authority_without_pipes_passes_unchanged() {
        assert_eq!(read(&connection(CLEAN), 5, 4096), connection(CLEAN));
    }

    #[test]
    fn malformed_fields_pass_unchanged() {
        for malformed in [&[0xff; 20][..], &[0x41, 0xff], &[0x41], &[0x40], &[]] {
            let sent = [&[0; PREFACE][..], &frame(HEADERS, 4, malformed), &frame(HEADERS, PADDED, malformed)].concat();
            assert_eq!(read(&sent, 4096, 4096), sent);
        }
    }
}
