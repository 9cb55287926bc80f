//! Prompts that were tokenized before: whole requests, and texts up to a special token.
//!
//! A request that comes again is known by the bytes of its members that the prompt is made of: nothing is
//! read, rendered or tokenized for it, and its blocks are not hashed again either.
//!
//! A chat grows by its end, and tokenizers cut the text at special tokens before anything else: the ids of
//! `a<|im_end|>` followed by those of `b` are the ids of `a<|im_end|>b`, where nothing in the tokenizer looks
//! across (see [`super::files`], which knows when).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;
use scheduling::{BlockKey, PromptKeys};
use xxhash_rust::xxh3::Xxh3;

use crate::openai::PromptMembers;

/// Bytes that are kept for each model.
const KEPT: usize = 32 << 20;

/// What an entry takes beside its ids and keys, in bytes, roughly: its places in two maps, and the heads of
/// what it points to.
const ENTRY: usize = 256;

/// Lists of keys beside the ids of one request: for sizes of blocks and adapters. The oldest is replaced.
const KEYED: usize = 4;

/// The hash of a text or of a request; 128 bits, so that two never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    /// Of a text up to each of `ends`, which ascend: in one pass, however many they are.
    pub(super) fn of_text(text: &str, ends: &[usize]) -> Vec<Self> {
        let mut hasher = Xxh3::new();
        let mut from = 0;
        let key = |end: &usize| {
            hasher.update(text.get(from..*end).unwrap_or_default().as_bytes());
            from = *end;
            Self(hasher.digest128())
        };
        ends.iter().map(key).collect()
    }

    /// Of a request's members as they are written. What is written otherwise has another key, though it may
    /// mean the same. `day` is what the template sees of the time.
    pub(super) fn of_request(body: &[u8], members: &PromptMembers, day: Option<u64>) -> Self {
        // The seed: no request is a text.
        let mut hasher = Xxh3::with_seed(1);
        for (member, value) in members.of(body) {
            // Where a value ends is told before it: no two lists of members are the same bytes.
            hasher.update(&[member]);
            hasher.update(&value.len().to_le_bytes());
            hasher.update(value);
        }
        hasher.update(&day.map_or([u8::MAX; 8], u64::to_le_bytes));
        Self(hasher.digest128())
    }
}

/// For whom a prompt's blocks are hashed: what the engines' blocks are called by beside the ids.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// The sizes of blocks that engines store, in tokens.
    pub sizes: Vec<u32>,
    /// The adapter's name, where the model is one.
    pub lora: Option<String>,
}

/// What is remembered of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) ids: Arc<[u32]>,
    /// The request's `cache_salt`.
    pub(super) salt: Option<Arc<str>>,
    /// The keys of its blocks, newest last.
    pub(super) keys: Arc<[PromptKeys]>,
}

impl Known {
    /// Ids of which no keys are wanted.
    pub(super) fn bare(ids: Arc<[u32]>) -> Self {
        Self { ids, salt: None, keys: [].into() }
    }

    /// With the keys of these blocks, where it has not all of them. Takes as long as the prompt is long.
    pub(super) fn hashed(&self, blocks: &Blocks) -> Option<Self> {
        let (lora, salt) = (blocks.lora.as_deref(), self.salt.as_deref());
        let lacks = |size: &&u32| !self.keys.iter().any(|keys| keys.is_for(**size, lora, salt));
        let lacking: Vec<u32> = blocks.sizes.iter().filter(lacks).copied().take(KEYED).collect();
        if lacking.is_empty() {
            return None;
        }
        let kept = self.keys.len().min(KEYED - lacking.len());
        let made = lacking.iter().map(|size| PromptKeys::new(&self.ids, *size, lora, salt));
        let keys = self.keys.iter().skip(self.keys.len() - kept).cloned().chain(made).collect();
        Some(Self { ids: Arc::clone(&self.ids), salt: self.salt.clone(), keys })
    }

    fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(PromptKeys::len).sum();
        ENTRY + size_of_val(&*self.ids) + keys * size_of::<BlockKey>()
    }
}

/// The least recently used leaves first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    prompts: HashMap<Key, (u64, Known), FixedState>,
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

impl Cache {
    pub(super) fn get(&mut self, key: Key) -> Option<Known> {
        let (used, known) = self.prompts.get_mut(&key)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, key);
        Some(known.clone())
    }

    /// In place of what was there.
    pub(super) fn put(&mut self, key: Key, known: &Known) {
        if known.bytes() > KEPT / 8 {
            return;
        }
        self.clock += 1;
        self.bytes += known.bytes();
        if let Some((used, before)) = self.prompts.insert(key, (self.clock, known.clone())) {
            self.order.remove(&used);
            self.bytes -= before.bytes();
        }
        self.order.insert(self.clock, key);
        while self.bytes > KEPT {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.bytes -= self.prompts.remove(&oldest).map_or(0, |(_, known)| known.bytes());
        }
    }
}

#[cfg(test)]
mod tests;
