//! One batch of KV events as vLLM and SGLang write it: MessagePack `[time, [event, …], rank?]`.
//!
//! An event is an array, its type first and trailing fields left out at will (vLLM before 0.24), or a
//! map with a `type`. A block's hash is a number (signed or not) or bytes, of which the last eight
//! count. `extra_keys` holds, for each block, what else made its hash: the adapter's name, the cache
//! salt (first block only), an image; bare or tagged with its kind.
//!
//! What cannot be believed is left out, and counted: a block that is not known to be held costs a
//! prefill, one that is wrongly believed to be costs trust. Only what could leave a block believed
//! that has left makes the whole batch an error.

use std::sync::Arc;

use scheduling::kv::{EngineHash, KvEvent, Medium};

use super::msgpack::{Malformed, Piece, Reader};

/// Events in one batch: an engine step of thousands of tokens evicts hundreds of blocks.
const MOST_EVENTS: usize = 1 << 16;

/// The groups of layers whose blocks stand for the whole prefix before them. A sliding window's, or
/// a state space's, may be there when the prefix is not.
const WHOLE_PREFIX: [&str; 3] = ["full_attention", "mla_attention", "sink_full_attention"];

/// What an engine did in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The engine's clock, in seconds since 1970.
    pub at: f64,
    /// The data-parallel rank, where the engine says it.
    pub rank: Option<u32>,
    /// In order.
    pub events: Vec<KvEvent>,
    /// What was left out.
    pub skipped: Skipped,
}

/// Events of a batch that were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Of a type that this picker does not know.
    pub unknown: u32,
    /// Of layers that do not hold whole prefixes.
    pub partial: u32,
    /// Stored blocks that cannot be told from others: an adapter without a name, an image, parts that do not fit together.
    pub ambiguous: u32,
}

/// Why a batch cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the MessagePack that was expected.
    #[error("the batch is not MessagePack: {0}")]
    Malformed(&'static str),
    /// Another shape.
    #[error("{0} is not what vLLM and SGLang send")]
    Shape(&'static str),
    /// Too much at once.
    #[error("the batch has more than {MOST_EVENTS} events")]
    Events,
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(match malformed {
            Malformed::Short => "it ends too early",
            Malformed::NotUtf8 => "a text in it is not UTF-8",
            Malformed::Deep => "it is nested too deep",
            Malformed::Reserved => "it has a byte that begins nothing",
        })
    }
}

/// Reads the batches of one rank of one engine, in order.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// Groups of layers, by bit, that were seen to hold no whole prefixes: a removal names only the
    /// group, and the same hash may live on in another.
    partial_groups: u128,
}

impl Decoder {
    /// Reads one batch.
    ///
    /// # Errors
    /// [`DecodeError`]; then nothing is known of what happened in that step.
    pub fn decode(&mut self, payload: &[u8]) -> Result<Batch, DecodeError> {
        let mut reader = Reader(payload);
        let Piece::Array(fields @ 2..) = reader.next()? else { return Err(DecodeError::Shape("the batch")) };
        let at = match reader.next()? {
            Piece::Float(at) => at,
            Piece::Number(at) => at as f64,
            _ => return Err(DecodeError::Shape("the batch's time")),
        };
        let Piece::Array(count) = reader.next()? else { return Err(DecodeError::Shape("the list of events")) };
        if count > MOST_EVENTS {
            return Err(DecodeError::Events);
        }
        let mut batch = Batch { at, events: Vec::with_capacity(count.min(reader.left())), ..Batch::default() };
        for _ in 0..count {
            self.event(&mut reader, &mut batch)?;
        }
        for field in 2..fields {
            match (field, reader.next()?) {
                (2, Piece::Number(rank)) => batch.rank = u32::try_from(rank).ok(),
                (_, other) => reader.skip_rest(other)?,
            }
        }
        Ok(batch)
    }

    fn event(&mut self, reader: &mut Reader<'_>, batch: &mut Batch) -> Result<(), DecodeError> {
        let fields = match reader.next()? {
            Piece::Array(length @ 1..) => Fields::array(reader, length)?,
            Piece::Map(pairs) => Fields::map(reader, pairs)?,
            _ => return Err(DecodeError::Shape("an event")),
        };
        let partial = fields.kind.is_some_and(|kind| !WHOLE_PREFIX.contains(&kind));
        let group = fields.group.and_then(|group| 1_u128.checked_shl(group)).unwrap_or_default();
        match fields.tag {
            Some("BlockStored") if partial => {
                self.partial_groups |= group;
                batch.skipped.partial += 1;
            }
            Some("BlockStored") => match fields.stored() {
                Some(event) => batch.events.push(event),
                None => batch.skipped.ambiguous += 1,
            },
            Some("BlockRemoved") if self.partial_groups & group != 0 => batch.skipped.partial += 1,
            Some("BlockRemoved") => {
                let hashes = hashes(fields.hashes.ok_or(DecodeError::Shape("a BlockRemoved without hashes"))?)?;
                batch.events.push(KvEvent::Removed { hashes, medium: fields.medium.map(medium) });
            }
            Some("AllBlocksCleared") => batch.events.push(KvEvent::Cleared),
            Some(_) => batch.skipped.unknown += 1,
            None => return Err(DecodeError::Shape("an event without a type")),
        }
        Ok(())
    }
}

/// An event's fields, still unread where they are lists.
#[derive(Default)]
struct Fields<'a> {
    tag: Option<&'a str>,
    hashes: Option<Reader<'a>>,
    parent: Option<Reader<'a>>,
    tokens: Option<Reader<'a>>,
    block_size: Option<u64>,
    /// Whether there is a number or a name of an adapter.
    adapter: bool,
    lora: Option<&'a str>,
    medium: Option<&'a str>,
    extra_keys: Option<Reader<'a>>,
    salt: Option<&'a str>,
    group: Option<u32>,
    kind: Option<&'a str>,
}

/// The fields behind the type, in the order of the array form.
const STORED: [&str; 10] = [
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
];
const REMOVED: [&str; 3] = ["block_hashes", "medium", "group_idx"];

impl<'a> Fields<'a> {
    fn array(reader: &mut Reader<'a>, length: usize) -> Result<Self, DecodeError> {
        let Piece::Text(tag) = reader.next()? else { return Err(DecodeError::Shape("the type of an event")) };
        let names: &[&str] = match tag {
            "BlockStored" => &STORED,
            "BlockRemoved" => &REMOVED,
            _ => &[],
        };
        let mut fields = Self { tag: Some(tag), ..Self::default() };
        for place in 0..length - 1 {
            fields.set(names.get(place).copied().unwrap_or_default(), reader)?;
        }
        Ok(fields)
    }

    fn map(reader: &mut Reader<'a>, pairs: usize) -> Result<Self, DecodeError> {
        let mut fields = Self::default();
        for _ in 0..pairs {
            match reader.next()? {
                Piece::Text("type") => match reader.next()? {
                    Piece::Text(tag) => fields.tag = Some(tag),
                    _ => return Err(DecodeError::Shape("the type of an event")),
                },
                Piece::Text(name) => fields.set(name, reader)?,
                other => {
                    reader.skip_rest(other)?;
                    reader.skip()?;
                }
            }
        }
        Ok(fields)
    }

    fn set(&mut self, name: &str, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let value = *reader;
        let piece = reader.next()?;
        reader.skip_rest(piece)?;
        let there = Some(value).filter(|_| piece != Piece::Nil);
        match (name, piece) {
            ("block_hashes", _) => self.hashes = there,
            ("parent_block_hash", _) => self.parent = there,
            ("token_ids", _) => self.tokens = there,
            ("block_size", Piece::Number(size)) => self.block_size = Some(size),
            ("lora_id", _) => self.adapter |= there.is_some(),
            ("lora_name", Piece::Text(name)) => {
                self.adapter = true;
                self.lora = Some(name);
            }
            ("medium", Piece::Text(medium)) => self.medium = Some(medium),
            ("extra_keys", _) => self.extra_keys = there,
            ("cache_salt", Piece::Text(salt)) => self.salt = Some(salt),
            ("group_idx", Piece::Number(group)) => self.group = u32::try_from(group).ok(),
            ("kv_cache_spec_kind", Piece::Text(kind)) => self.kind = Some(kind),
            _ => {}
        }
        Ok(())
    }

    /// The event, as far as its blocks can be told from all others; `None` where not even the first can.
    fn stored(&self) -> Option<KvEvent> {
        if self.adapter && self.lora.is_none() {
            return None;
        }
        let mut hashes = hashes(self.hashes?).ok()?;
        let parent = self.parent.map(|mut parent| hash(&mut parent)).transpose().ok()?;
        let mut tokens = tokens(self.tokens?)?;
        let size = usize::try_from(self.block_size?).ok()?;
        if size == 0 || hashes.len().checked_mul(size)? != tokens.len() {
            return None;
        }
        let Keys { salt, blocks } = self.keys(hashes.len())?;
        hashes.truncate(blocks);
        tokens.truncate(blocks * size);
        Some(KvEvent::Stored {
            hashes,
            parent,
            tokens,
            block_size: u32::try_from(size).ok()?,
            lora: self.lora.map(Arc::from),
            salt: salt.map(Arc::from),
            medium: self.medium.map_or(Medium::Gpu, medium),
        })
    }

    /// What `extra_keys` says of the first blocks.
    fn keys(&self, blocks: usize) -> Option<Keys<'a>> {
        let mut keys = Keys { salt: self.salt, blocks };
        let Some(mut reader) = self.extra_keys else { return Some(keys) };
        let Piece::Array(listed) = reader.next().ok()? else { return None };
        for block in 0..listed.min(blocks) {
            let known = match reader.next().ok()? {
                Piece::Nil => true,
                Piece::Array(items) => {
                    let mut known = true;
                    for _ in 0..items {
                        known &= self.key(&mut reader, block == 0 && self.parent.is_none(), &mut keys.salt)?;
                    }
                    known
                }
                _ => return None,
            };
            if !known {
                keys.blocks = block;
                break;
            }
        }
        (keys.blocks > 0).then_some(keys)
    }

    /// One key of a block, which is read in any case; whether it is an adapter's name or a salt.
    fn key(&self, reader: &mut Reader<'a>, first: bool, salt: &mut Option<&'a str>) -> Option<bool> {
        let mut is_salt = |text: &'a str| {
            let new = first && salt.is_none_or(|salt| salt == text);
            if new {
                *salt = Some(text);
            }
            new
        };
        Some(match reader.next().ok()? {
            Piece::Text(text) if Some(text) == self.lora => true,
            // A bare text is a salt, or the name of an image that then passes for one: no request will have it.
            Piece::Text(text) => is_salt(text),
            Piece::Array(parts @ 1..) => {
                let tag = reader.next().ok()?;
                if let Piece::Array(_) | Piece::Map(_) = tag {
                    return None;
                }
                let mut value = None;
                for part in 1..parts {
                    match reader.next().ok()? {
                        Piece::Text(text) if part == 1 => value = Some(text),
                        other => reader.skip_rest(other).ok()?,
                    }
                }
                match (tag, value) {
                    (Piece::Text("lora"), Some(name)) => Some(name) == self.lora,
                    (Piece::Text("cache_salt"), Some(text)) => is_salt(text),
                    _ => false,
                }
            }
            other => {
                reader.skip_rest(other).ok()?;
                false
            }
        })
    }
}

/// What is known of the blocks of one event.
struct Keys<'a> {
    salt: Option<&'a str>,
    /// How many blocks have no other keys.
    blocks: usize,
}

fn medium(name: &str) -> Medium {
    let starts = |word: &str| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    match () {
        () if starts("GPU") => Medium::Gpu,
        () if starts("CPU") => Medium::Cpu,
        () if starts("DISK") || starts("STORAGE") || starts("FILE") => Medium::Disk,
        () => Medium::Other,
    }
}

fn hashes(mut list: Reader<'_>) -> Result<Vec<EngineHash>, DecodeError> {
    let Piece::Array(count) = list.next()? else { return Err(DecodeError::Shape("a list of block hashes")) };
    let mut hashes = Vec::with_capacity(count.min(list.left()));
    for _ in 0..count {
        hashes.push(hash(&mut list)?);
    }
    Ok(hashes)
}

fn hash(reader: &mut Reader<'_>) -> Result<EngineHash, DecodeError> {
    Ok(EngineHash(match reader.next()? {
        Piece::Number(hash) => hash,
        Piece::Negative(hash) => hash.cast_unsigned(),
        Piece::Bytes(bytes) => match bytes.last_chunk() {
            Some(last) => u64::from_be_bytes(*last),
            None => return Err(DecodeError::Shape("a block hash of less than eight bytes")),
        },
        _ => return Err(DecodeError::Shape("a block hash")),
    }))
}

fn tokens(mut list: Reader<'_>) -> Option<Vec<u32>> {
    let Piece::Array(count) = list.next().ok()? else { return None };
    let mut tokens = Vec::with_capacity(count.min(list.left()));
    for _ in 0..count {
        let Piece::Number(token) = list.next().ok()? else { return None };
        tokens.push(u32::try_from(token).ok()?);
    }
    Some(tokens)
}

#[cfg(test)]
mod tests;
