//! Prompts that were tokenized before, whole or up to a special token.
//!
//! A chat grows by its end, and tokenizers cut the text at special tokens before anything else: the ids of
//! `a<|im_end|>` followed by those of `b` are the ids of `a<|im_end|>b`, where nothing in the tokenizer looks
//! across (see [`super::files`], which knows when).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;
use xxhash_rust::xxh3::xxh3_128;

/// Ids that are kept, four bytes each: 32 MiB for each model.
const KEPT: usize = 8 << 20;

/// The hash of a text; 128 bits, so that two texts never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    pub(super) fn of(text: &str, special_tokens: bool) -> Self {
        Self(xxh3_128(text.as_bytes()) ^ u128::from(special_tokens))
    }
}

/// The least recently used leaves first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    texts: HashMap<Key, (u64, Arc<[u32]>), FixedState>,
    order: BTreeMap<u64, Key>,
    clock: u64,
    ids: usize,
}

impl Cache {
    pub(super) fn get(&mut self, key: Key) -> Option<Arc<[u32]>> {
        let (used, ids) = self.texts.get_mut(&key)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, key);
        Some(Arc::clone(ids))
    }

    pub(super) fn put(&mut self, key: Key, ids: &Arc<[u32]>) {
        if ids.len() > KEPT / 8 || self.get(key).is_some() {
            return;
        }
        self.clock += 1;
        self.ids += ids.len();
        self.texts.insert(key, (self.clock, Arc::clone(ids)));
        self.order.insert(self.clock, key);
        while self.ids > KEPT {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.ids -= self.texts.remove(&oldest).map_or(0, |(_, ids)| ids.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_text_leaves_first() {
        let mut cache = Cache::default();
        let ids: Arc<[u32]> = vec![7; KEPT / 8].into();
        let key = |number: usize| Key::of(&number.to_string(), false);
        (0..8).for_each(|number| cache.put(key(number), &ids));
        assert!(cache.get(key(0)).is_some());
        cache.put(key(8), &ids);
        assert!(cache.get(key(1)).is_none() && cache.get(key(0)).is_some() && cache.get(key(8)).is_some());
        assert_eq!(cache.ids, KEPT);
        cache.put(key(9), &vec![7; KEPT / 8 + 1].into());
        assert!(cache.get(key(9)).is_none(), "one text never takes everything");
        assert_ne!(Key::of("a", false), Key::of("a", true));
    }
}
