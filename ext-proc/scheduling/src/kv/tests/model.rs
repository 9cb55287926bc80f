//! The index as one would write it with no thought of speed: a list of what each rank holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

pub(super) const SLOTS: [Slot; 3] = [Slot(0), Slot(1), Slot(2)];
/// How every prompt begins, so that the rest lies on both sides of the end of a row of the table.
const BEGINNING: [u32; 5] = [0; 5];
/// What follows are at most so many blocks of one token out of two.
const DEPTH: u32 = 4;

/// A block: the adapter, and the tokens up to its end.
type Block = (Option<&'static str>, Vec<u32>);

#[derive(Debug)]
pub(super) enum Step {
    Apply(Slot, u32, Vec<KvEvent>),
    Forget(Slot, Option<u32>),
}

#[derive(Debug, Default)]
struct Rank {
    names: BTreeMap<u64, Block>,
    copies: BTreeMap<(Block, Medium), u32>,
}

impl Rank {
    fn medium(&self, block: &Block) -> Option<Medium> {
        Medium::ALL.into_iter().find(|medium| self.copies.contains_key(&(block.clone(), *medium)))
    }

    /// Held, or before one that is.
    fn is_known(&self, block: &Block) -> bool {
        self.copies.keys().any(|((lora, tokens), _)| *lora == block.0 && tokens.starts_with(&block.1))
    }

    fn forget_unknown(&mut self) {
        let mut names = std::mem::take(&mut self.names);
        names.retain(|_, block| self.is_known(block));
        self.names = names;
    }

    fn apply(&mut self, event: &KvEvent, applied: &mut Applied) {
        match event {
            KvEvent::Stored { hashes, parent, tokens, lora, medium, .. } => {
                let root = (lora.as_deref().map(|_| "a"), Vec::new());
                let known = parent.map_or(Some(root), |parent| self.names.get(&parent.0).cloned());
                let Some((lora, mut prefix)) = known else {
                    applied.unknown_parent += hashes.len();
                    return;
                };
                for (done, (name, token)) in hashes.iter().zip(tokens).enumerate() {
                    prefix.push(*token);
                    let block = (lora, prefix.clone());
                    if self.names.get(&name.0).is_some_and(|other| *other != block) {
                        applied.malformed += hashes.len() - done;
                        return;
                    }
                    if self.is_known(&block) {
                        applied.duplicates += 1
                    } else {
                        applied.stored += 1
                    }
                    self.names.insert(name.0, block.clone());
                    *self.copies.entry((block, *medium)).or_default() += 1;
                }
            }
            KvEvent::Removed { hashes, medium } => {
                for name in hashes {
                    let block = self.names.get(&name.0).cloned();
                    let copies = block.and_then(|block| {
                        let medium = medium.or_else(|| self.medium(&block))?;
                        self.copies.contains_key(&(block.clone(), medium)).then_some((block, medium))
                    });
                    let Some(copies) = copies else {
                        applied.unknown_removed += 1;
                        continue;
                    };
                    applied.removed += 1;
                    let left = self.copies[&copies] - 1;
                    self.copies.insert(copies.clone(), left);
                    if left == 0 {
                        self.copies.remove(&copies);
                        self.forget_unknown();
                    }
                }
            }
            KvEvent::Cleared => {
                *self = Self::default();
                applied.cleared += 1;
            }
        }
    }

    /// Blocks, and a hundred times their weight.
    fn matches(&self, prompt: &[u32], lora: Option<&'static str>) -> (u32, u32) {
        let media = (1..=prompt.len()).map_while(|end| self.medium(&(lora, prompt[..end].to_vec())));
        media.fold((0, 0), |(blocks, sum), medium| (blocks + 1, sum + (medium.weight() * 100.0).round() as u32))
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    ranks: BTreeMap<(Slot, u32), Rank>,
}

impl Model {
    pub(super) fn apply(&mut self, slot: Slot, rank: u32, events: &[KvEvent]) -> Applied {
        let mut applied = Applied::default();
        let rank = self.ranks.entry((slot, rank)).or_default();
        events.iter().for_each(|event| rank.apply(event, &mut applied));
        applied
    }

    pub(super) fn forget(&mut self, slot: Slot, rank: Option<u32>) {
        self.ranks.retain(|owner, _| owner.0 != slot || rank.is_some_and(|rank| rank != owner.1));
    }

    pub(super) fn matches(&self, prompt: &[u32], lora: Option<&'static str>) -> Vec<KvMatch> {
        let of = |slot: &Slot| {
            let ranks = self.ranks.iter().filter(|((owner, _), _)| owner == slot);
            let all = ranks.map(|((_, rank), held)| (held.matches(prompt, lora), *rank));
            let best =
                all.filter(|((blocks, _), _)| *blocks > 0).min_by_key(|((_, sum), rank)| (u32::MAX - sum, *rank));
            best.map_or(KvMatch::default(), |((blocks, sum), rank)| KvMatch {
                blocks,
                weighted: sum as f32 / 100.0,
                rank,
            })
        };
        SLOTS.iter().map(of).collect()
    }

    /// Blocks held, and those before them that are not.
    pub(super) fn blocks(&self) -> usize {
        let of = |rank: &Rank| {
            let held = rank.copies.keys();
            let all =
                held.flat_map(|((lora, tokens), _)| (1..=tokens.len()).map(|end| (*lora, tokens[..end].to_vec())));
            all.collect::<std::collections::BTreeSet<_>>().len()
        };
        self.ranks.values().map(of).sum()
    }
}

/// Every prompt there is, with and without the adapter.
pub(super) fn prompts() -> impl Iterator<Item = (Vec<u32>, Option<&'static str>)> {
    let prompts = (0..1_u32 << DEPTH).map(|bits| begun((0..DEPTH).map(|bit| bits >> bit & 1)));
    prompts.flat_map(|prompt| [(prompt.clone(), None), (prompt, Some("a"))])
}

/// The name of a block: mostly its own, sometimes a second one, sometimes another block's.
fn name(lora: bool, tokens: &[u32], variant: u8) -> u64 {
    let bits = tokens.iter().fold(1_u64, |bits, token| bits << 1 | u64::from(*token));
    let own = bits << 1 | u64::from(lora);
    match variant {
        0 => own + 1000,
        1 => own % 7,
        _ => own + 100,
    }
}

fn any_medium() -> impl Strategy<Value = Medium> {
    prop_oneof![4 => Just(Medium::Gpu), 2 => Just(Medium::Cpu), 1 => Just(Medium::Disk), 1 => Just(Medium::Other)]
}

fn any_prompt() -> impl Strategy<Value = Vec<u32>> {
    vec(0_u32..2, 1..=DEPTH as usize).prop_map(begun)
}

fn begun(rest: impl IntoIterator<Item = u32>) -> Vec<u32> {
    BEGINNING.into_iter().chain(rest).collect()
}

/// A prompt, or its beginning.
fn any_block() -> impl Strategy<Value = Vec<u32>> {
    (any_prompt(), 0_usize..9)
        .prop_map(|(prompt, cut)| if cut == 0 { prompt } else { prompt[..cut.min(prompt.len())].to_vec() })
}

fn any_event() -> impl Strategy<Value = KvEvent> {
    let stored =
        (any_prompt(), prop_oneof![2 => Just(0), 1 => 4_usize..9], any::<bool>(), any_medium(), 0_u8..16, 0_u8..8);
    let stored = stored.prop_map(|(prompt, from, lora, medium, variant, parents)| {
        // The adapter of a continuation is its beginning's, whatever the event says.
        let from = from.min(prompt.len() - 1);
        let names = (from..prompt.len()).map(|end| EngineHash(name(lora, &prompt[..=end], variant)));
        KvEvent::Stored {
            hashes: names.collect(),
            parent: (from > 0).then(|| EngineHash(name(lora, &prompt[..from], parents))),
            tokens: prompt[from..].to_vec(),
            block_size: 1,
            lora: lora.then(|| Arc::from("a")),
            salt: None,
            medium,
        }
    });
    let removed = (vec((any_block(), any::<bool>(), 0_u8..16), 1..4), option::of(any_medium()));
    let removed = removed.prop_map(|(blocks, medium)| KvEvent::Removed {
        hashes: blocks.iter().map(|(prompt, lora, variant)| EngineHash(name(*lora, prompt, *variant))).collect(),
        medium,
    });
    prop_oneof![12 => stored, 10 => removed, 1 => Just(KvEvent::Cleared)]
}

pub(super) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = || (0..SLOTS.len()).prop_map(|index| SLOTS[index]);
    let apply =
        (slot(), 0_u32..2, vec(any_event(), 1..6)).prop_map(|(slot, rank, events)| Step::Apply(slot, rank, events));
    let forget = (slot(), option::of(0_u32..2)).prop_map(|(slot, rank)| Step::Forget(slot, rank));
    vec(prop_oneof![15 => apply, 1 => forget], 1..40)
}
