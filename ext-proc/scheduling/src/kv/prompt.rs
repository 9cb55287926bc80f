//! A request's prompt against the index: hashed once for each size of block in use.

use crate::endpoint::Slot;
use crate::kv::{BlockKey, KvIndex, block_keys};
use crate::request::Tokens;

/// A prompt's keys, for each size of block.
#[derive(Debug)]
pub(crate) struct KvPrompt {
    by_size: Vec<(u32, Vec<BlockKey>)>,
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

impl KvPrompt {
    /// The first `most` tokens of the prompt, in blocks of each of `sizes`; `None` where they fill none.
    pub(crate) fn new(prompt: &Tokens<'_>, most: usize, sizes: &[u32]) -> Option<Self> {
        let ids = prompt.ids.get(..most).unwrap_or(prompt.ids);
        let keys = |size: &u32| (*size, block_keys(ids, *size, prompt.lora, prompt.salt));
        let by_size: Vec<_> = sizes.iter().map(keys).collect();
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
