//! The structures under one interface: depths per worker, stores after what is held, removals.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use dynamo_kv_router::protocols::{
    BlockHashOptions, ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent, compute_block_hash_for_seq,
};
use dynamo_kv_router::{ConcurrentRadixTreeCompressed, ThreadPoolIndexer};
use kv_index::{ChainBlockMap, ChainIndex, ContentHash, SequenceHash, StoredBlock, compute_request_content_hashes};
use scheduling::{BlockKey, EngineHash, KvEvent, KvIndex, Medium, Slot};

use crate::{BLOCK, block_keys};

/// A request with all that either structure is asked with, and told.
#[derive(Debug)]
pub(crate) struct Prompt {
    tokens: Vec<u32>,
    /// What engines call the blocks: the same on every worker, as with a fixed seed.
    pub(crate) names: Vec<u64>,
    pub(crate) keys: Vec<BlockKey>,
    contents: Vec<ContentHash>,
    locals: Vec<LocalBlockHash>,
}

impl Prompt {
    pub(crate) fn new(tokens: Vec<u32>) -> Self {
        let names = block_keys(&tokens, BLOCK, Some("the engine's own"), None).iter().map(|key| key.0).collect();
        let keys = block_keys(&tokens, BLOCK, None, None);
        let contents = compute_request_content_hashes(&tokens, BLOCK as usize);
        let locals = locals(&tokens);
        Self { tokens, names, keys, contents, locals }
    }

    fn parent(&self, from: usize) -> Option<u64> {
        from.checked_sub(1).and_then(|before| self.names.get(before)).copied()
    }
}

fn locals(tokens: &[u32]) -> Vec<LocalBlockHash> {
    compute_block_hash_for_seq(tokens, BLOCK, BlockHashOptions::default())
}

pub(crate) trait Peer {
    /// Hashes the tokens once more, as for a look-up.
    fn hash(&mut self, prompt: &mut Prompt);
    /// Workers that hold anything of the prompt, ascending, and how many leading blocks.
    fn depths(&self, prompt: &Prompt) -> Vec<(u32, u32)>;
    /// The worker now holds all blocks of the prompt; those before `from` it had.
    fn store(&mut self, worker: usize, prompt: &Prompt, from: usize) {
        self.timed_store(worker, prompt, from);
    }
    /// The same, and how long it took without making the event.
    fn timed_store(&mut self, worker: usize, prompt: &Prompt, from: usize) -> Duration;
    /// The worker has evicted these.
    fn remove(&mut self, worker: usize, names: &[u64]);
    /// What it takes, by its own account; none where it keeps no such account.
    fn bytes(&self) -> Option<usize>;
}

/// This project's.
#[derive(Debug)]
pub(crate) struct Ours {
    index: KvIndex,
    slots: Vec<Slot>,
}

impl Ours {
    pub(crate) fn new(workers: usize) -> Self {
        Self { index: KvIndex::default(), slots: (0..workers).map(|worker| Slot(worker as u32)).collect() }
    }
}

impl Peer for Ours {
    fn hash(&mut self, prompt: &mut Prompt) {
        prompt.keys = black_box(block_keys(&prompt.tokens, BLOCK, None, None));
    }

    fn depths(&self, prompt: &Prompt) -> Vec<(u32, u32)> {
        let found = self.index.matches(&prompt.keys, &self.slots);
        let found = (0..).zip(found).filter(|(_, found)| found.blocks > 0);
        found.map(|(worker, found)| (worker, found.blocks)).collect()
    }

    fn timed_store(&mut self, worker: usize, prompt: &Prompt, from: usize) -> Duration {
        let names = prompt.names.get(from..).unwrap_or_default();
        let event = KvEvent::Stored {
            hashes: names.iter().map(|name| EngineHash(*name)).collect(),
            parent: prompt.parent(from).map(EngineHash),
            tokens: prompt
                .tokens
                .get(from * BLOCK as usize..prompt.names.len() * BLOCK as usize)
                .unwrap_or_default()
                .to_vec(),
            block_size: BLOCK,
            lora: None,
            salt: None,
            medium: Medium::Gpu,
        };
        let began = Instant::now();
        let applied = self.index.apply(Slot(worker as u32), 0, &[event]);
        let took = began.elapsed();
        assert_eq!(applied.stored, names.len(), "{applied:?}");
        took
    }

    fn remove(&mut self, worker: usize, names: &[u64]) {
        let hashes = names.iter().map(|name| EngineHash(*name)).collect();
        let applied = self.index.apply(Slot(worker as u32), 0, &[KvEvent::Removed { hashes, medium: None }]);
        assert_eq!(applied.removed, names.len(), "{applied:?}");
    }

    fn bytes(&self) -> Option<usize> {
        Some(self.index.usage().bytes)
    }
}

/// SMG's.
pub(crate) struct Chain {
    index: ChainIndex,
    maps: Vec<ChainBlockMap>,
    ids: Vec<u32>,
}

impl Chain {
    pub(crate) fn new(workers: usize) -> Result<Self> {
        let index = ChainIndex::with_max_workers(workers.max(64));
        let ids = (0..workers).map(|worker| index.intern_worker(&format!("worker-{worker}")));
        let ids = ids.collect::<Result<_, _>>()?;
        Ok(Self { index, maps: (0..workers).map(|_| ChainBlockMap::new()).collect(), ids })
    }
}

impl Peer for Chain {
    fn hash(&mut self, prompt: &mut Prompt) {
        prompt.contents = black_box(compute_request_content_hashes(&prompt.tokens, BLOCK as usize));
    }

    fn depths(&self, prompt: &Prompt) -> Vec<(u32, u32)> {
        let mut depths = Vec::new();
        self.index.score_into(
            &prompt.contents,
            |content| content.0,
            false,
            |worker, depth| depths.push((worker, depth)),
        );
        for (worker, _) in &mut depths {
            *worker = self.ids.iter().position(|id| id == worker).unwrap_or_default() as u32;
        }
        depths.sort_unstable();
        depths
    }

    fn timed_store(&mut self, worker: usize, prompt: &Prompt, from: usize) -> Duration {
        let blocks = prompt.names.iter().zip(&prompt.contents).skip(from);
        let block = |(name, content): (&u64, &ContentHash)| StoredBlock {
            seq_hash: SequenceHash(*name),
            content_hash: *content,
        };
        let blocks: Vec<StoredBlock> = blocks.map(block).collect();
        let (Some(id), Some(map)) = (self.ids.get(worker), self.maps.get_mut(worker)) else { return Duration::ZERO };
        let began = Instant::now();
        let stored = self.index.apply_stored(*id, &blocks, prompt.parent(from).map(SequenceHash), map);
        let took = began.elapsed();
        assert!(stored.is_ok(), "{stored:?}");
        took
    }

    fn remove(&mut self, worker: usize, names: &[u64]) {
        let names: Vec<SequenceHash> = names.iter().map(|name| SequenceHash(*name)).collect();
        if let (Some(id), Some(map)) = (self.ids.get(worker), self.maps.get_mut(worker)) {
            self.index.apply_removed(*id, &names, map);
        }
    }

    fn bytes(&self) -> Option<usize> {
        let stats = self.index.stats();
        // A slot of a lane's map is a key and a place.
        let maps: usize = self.maps.iter().map(|map| map.capacity() * 16).sum();
        Some(stats.arena_bytes - stats.arena_free_bytes + stats.header_bytes + maps)
    }
}

/// Dynamo's, as its router has it: look-ups on the caller's thread, changes on one of its own.
pub(crate) struct Dynamo {
    index: ThreadPoolIndexer<ConcurrentRadixTreeCompressed>,
    runtime: tokio::runtime::Runtime,
    events: u64,
}

impl Dynamo {
    pub(crate) fn new() -> Result<Self> {
        let index = ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), 1, BLOCK);
        Ok(Self { index, runtime: tokio::runtime::Builder::new_current_thread().build()?, events: 0 })
    }

    /// Gives it the event and waits until its thread is through with it: how long both took.
    fn tell(&mut self, worker: usize, data: KvCacheEventData) -> Duration {
        self.events += 1;
        let event = KvCacheEvent { event_id: self.events, data, dp_rank: 0 };
        let event = RouterEvent::new(worker as u64, event);
        let began = Instant::now();
        let taken = self.runtime.block_on(self.index.apply_event_and_wait(event));
        let took = began.elapsed();
        assert!(taken.is_ok(), "{taken:?}");
        took
    }
}

impl Peer for Dynamo {
    fn hash(&mut self, prompt: &mut Prompt) {
        prompt.locals = black_box(locals(&prompt.tokens));
    }

    fn depths(&self, prompt: &Prompt) -> Vec<(u32, u32)> {
        let found = self.index.backend().find_matches_impl(&prompt.locals, false);
        let mut depths: Vec<_> = found.scores.iter().map(|(worker, depth)| (worker.worker_id as u32, *depth)).collect();
        depths.sort_unstable();
        depths
    }

    fn timed_store(&mut self, worker: usize, prompt: &Prompt, from: usize) -> Duration {
        let blocks = prompt.names.iter().zip(&prompt.locals).skip(from);
        let block = |(name, local): (&u64, &LocalBlockHash)| KvCacheStoredBlockData {
            block_hash: ExternalSequenceBlockHash(*name),
            tokens_hash: *local,
            mm_extra_info: None,
        };
        let blocks: Vec<_> = blocks.map(block).collect();
        if blocks.is_empty() {
            return Duration::ZERO;
        }
        let parent_hash = prompt.parent(from).map(ExternalSequenceBlockHash);
        self.tell(worker, KvCacheEventData::Stored(KvCacheStoreData { parent_hash, start_position: None, blocks }))
    }

    fn remove(&mut self, worker: usize, names: &[u64]) {
        if !names.is_empty() {
            let block_hashes = names.iter().copied().map(ExternalSequenceBlockHash).collect();
            self.tell(worker, KvCacheEventData::Removed(KvCacheRemoveData { block_hashes }));
        }
    }

    fn bytes(&self) -> Option<usize> {
        None
    }
}
