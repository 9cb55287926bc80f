//! Requests as Mooncake's traces have them: ids of blocks of 512 tokens, equal where the prompt is equal
//! up to there.

use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

use crate::BLOCK;

/// Tokens in a block of the trace.
const TRACE_BLOCK: u32 = 512;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    input_length: u32,
    hash_ids: Vec<u32>,
}

impl Request {
    /// Whole blocks of the prompt.
    pub(crate) fn blocks(&self) -> usize {
        (self.length() / BLOCK) as usize
    }

    fn length(&self) -> u32 {
        self.input_length.min(self.hash_ids.len() as u32 * TRACE_BLOCK)
    }

    /// Token ids that are equal where the ids of the trace are.
    pub(crate) fn tokens(&self) -> Vec<u32> {
        let all = self.hash_ids.iter().flat_map(|id| (0..TRACE_BLOCK).map(move |at| id * TRACE_BLOCK + at));
        all.take(self.length() as usize).collect()
    }
}

pub(crate) fn read(path: &Path, most: usize) -> Result<Vec<Request>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let lines = BufReader::new(file).lines().take(most).enumerate();
    let request = |(number, line): (usize, std::io::Result<String>)| {
        let place = || format!("{}:{}", path.display(), number + 1);
        serde_json::from_str(&line.with_context(place)?).with_context(place)
    };
    lines.map(request).collect()
}

/// Conversations of which most begin with one system prompt, and that grow turn by turn: about as long
/// and as much alike as in Mooncake's conversation trace (24 blocks of 512, three eighths seen before).
pub(crate) fn generate(requests: usize, seed: u64) -> Vec<Request> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut conversations: Vec<Vec<u32>> = Vec::new();
    let mut next = 1;
    let mut all = Vec::with_capacity(requests);
    while all.len() < requests {
        let known = conversations.len();
        let place = if known == 0 || rng.random_bool(0.6) {
            conversations.push(if rng.random_bool(0.9) { vec![0] } else { Vec::new() });
            known
        } else {
            // Mostly one of the last hundred.
            known - rng.random_range(1..=known.min(100))
        };
        let Some(ids) = conversations.get_mut(place) else { continue };
        // Many short ones, few long ones; a further turn is short.
        let begun = 4.0 * (1.0 / rng.random_range(0.01..1.0_f64)).powf(0.9);
        let count = if place == known { begun as u32 + 1 } else { rng.random_range(1..8) };
        ids.extend(next..next + count);
        next += count;
        let input_length = ids.len() as u32 * TRACE_BLOCK - rng.random_range(0..TRACE_BLOCK);
        all.push(Request { input_length, hash_ids: ids.clone() });
    }
    all
}
