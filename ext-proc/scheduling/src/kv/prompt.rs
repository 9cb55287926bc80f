//! A request's prompt against the index: hashed once for each size of block in use.

use std::borrow::Cow;
use std::sync::Arc;

use crate::endpoint::Slot;
use crate::kv::{BlockKey, KvIndex, block_keys};
use crate::request::Tokens;

/// The keys of a prompt's whole blocks of one size, together with what they were made for: to be kept
/// beside the ids of a prompt that comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptKeys {
    block_size: u32,
    lora: Option<Arc<str>>,
    salt: Option<Arc<str>>,
    keys: Arc<[BlockKey]>,
}

impl PromptKeys {
    /// The [`block_keys`] of the ids.
    #[must_use]
    pub fn new(ids: &[u32], block_size: u32, lora: Option<&str>, salt: Option<&str>) -> Self {
        let keys = block_keys(ids, block_size, lora, salt).into();
        Self { block_size, lora: lora.map(Arc::from), salt: salt.map(Arc::from), keys }
    }

    /// Whether the same ids have these keys in blocks of `block_size` tokens, for this adapter and salt.
    #[must_use]
    pub fn is_for(&self, block_size: u32, lora: Option<&str>, salt: Option<&str>) -> bool {
        self.block_size == block_size && self.lora.as_deref() == lora && self.salt.as_deref() == salt
    }

    /// Blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the ids fill no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// A prompt's keys, for each size of block.
#[derive(Debug)]
pub(crate) struct KvPrompt<'a> {
    by_size: Vec<(u32, Cow<'a, [BlockKey]>)>,
    /// Tokens in whole blocks of the finest size.
    pub(crate) tokens: u32,
}

/// What one endpoint holds of a prompt, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) tokens: u32,
    /// The same, each weighted by the place that has it.
    pub(crate) weighted: f32,
}

impl<'a> KvPrompt<'a> {
    /// The first `most` tokens of the prompt, in blocks of each of `sizes`; `None` where they fill none.
    pub(crate) fn new(prompt: &Tokens<'a>, most: usize, sizes: &[u32]) -> Option<Self> {
        let ids = prompt.ids.get(..most).unwrap_or(prompt.ids);
        let keys = |size: &u32| {
            let made = prompt.keys.iter().find(|made| made.is_for(*size, prompt.lora, prompt.salt));
            let keys = match made {
                // A prompt's keys begin with those of its beginning.
                Some(made) => Cow::Borrowed(made.keys.get(..most / *size as usize).unwrap_or(&made.keys)),
                None => Cow::Owned(block_keys(ids, *size, prompt.lora, prompt.salt)),
            };
            (*size, keys)
        };
        let by_size: Vec<_> = sizes.iter().filter(|size| **size > 0).map(keys).collect();
        let tokens = by_size.iter().map(|(size, keys)| tokens(*size, keys.len())).max().unwrap_or(0);
        (tokens > 0).then_some(Self { by_size, tokens })
    }

    /// What each of `slots` holds, in their order.
    pub(crate) fn held(&self, index: &KvIndex, slots: &[Slot]) -> Vec<Held> {
        let mut held = vec![Held::default(); slots.len()];
        for (size, keys) in &self.by_size {
            for (held, found) in held.iter_mut().zip(index.matches(keys, slots)) {
                let weighted = found.weighted * *size as f32;
                if weighted > held.weighted {
                    *held = Held { tokens: tokens(*size, found.blocks as usize), weighted };
                }
            }
        }
        held
    }
}

fn tokens(size: u32, blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_were_made_before_count_only_for_what_they_were_made_for() {
        let ids: Vec<u32> = (0..100).collect();
        let made = [PromptKeys::new(&ids, 16, Some("a"), Some("s")), PromptKeys::new(&ids, 32, None, None)];
        for lora in [None, Some("a"), Some("b"), Some("s")] {
            for salt in [None, Some("s"), Some("t"), Some("a")] {
                for most in [0, 15, 47, 64, 100, 1000] {
                    let sizes = [16, 32, 64];
                    let with = KvPrompt::new(&Tokens { ids: &ids, lora, salt, keys: &made }, most, &sizes);
                    let without = KvPrompt::new(&Tokens { ids: &ids, lora, salt, keys: &[] }, most, &sizes);
                    let with = with.map(|prompt| (prompt.by_size, prompt.tokens));
                    let without = without.map(|prompt| (prompt.by_size, prompt.tokens));
                    assert_eq!(with, without, "{lora:?} {salt:?} {most}");
                }
            }
        }
        assert!(made[0].is_for(16, Some("a"), Some("s")) && !made[0].is_for(16, Some("s"), Some("a")));
        assert_eq!((made[0].len(), made[1].len(), made[1].is_empty()), (6, 3, false));
    }

    #[test]
    fn keys_that_were_made_before_are_not_made_again() {
        let ids: Vec<u32> = (0..64).collect();
        // Of other ids: what is found below is what was handed over.
        let made = [PromptKeys::new(&[7; 64], 16, None, None)];
        let prompt = KvPrompt::new(&Tokens { ids: &ids, lora: None, salt: None, keys: &made }, 64, &[16]).unwrap();
        assert_eq!(prompt.by_size, [(16, Cow::Owned(block_keys(&[7; 64], 16, None, None)))]);
    }
}
