//! The index of KV blocks under a trace in Mooncake's format, beside the crates `kv-index` (SMG's
//! `ChainIndex`) and `dynamo-kv-router` (Dynamo's `ConcurrentRadixTreeCompressed` behind its
//! `ThreadPoolIndexer`): `cargo bench-kv-index --trace FILE` (options: `--help`; without a file, a seeded
//! trace of the same shape).
//!
//! Each request is looked up, and its worker then stores what it lacks and evicts what does not fit:
//! the same requests, workers, blocks and evictions for all, and the depths that they find have to be
//! equal. Updates are complete when the call that is timed returns: Dynamo's are made by a thread of its
//! own, which is waited for. Preparing a request is not timed, except for the hashing, which has a column
//! of its own: `KvIndex` hashes the tokens of a store itself and the others are given hashes, so that a
//! store is shown without hashing and with it.
//!
//! What it is about is memory, and most of it is in no cache of the processor. On a shared machine with
//! two virtual processors, pages of 4 KB and other work, a loop that does nothing else takes 210 ns for a row of
//! 128 bytes that the next one depends on, and 50 ns for each of thirty-two that do not wait for each
//! other: a look-up is some three steps of up to twelve rows, so that one microsecond is about the least
//! that it takes there. Of a store, the line where a block's name belongs takes 12 ns, a seventh of a
//! row 7 ns, and to write the 32 bytes that are kept of a block 15 to 20 ns while memory is still being
//! given out: about 35 ns a block before anything is computed.

mod fleet;
mod peers;
mod trace;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use scheduling::block_keys;

use fleet::Fleet;
use peers::{Chain, Dynamo, Ours, Peer, Prompt};

/// The picker's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Args {
    /// A trace: JSON lines with `input_length` and `hash_ids` of blocks of 512 tokens.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Requests to replay at most.
    #[arg(long, default_value_t = 12_031)]
    requests: usize,
    /// Workers, each with a cache of its own.
    #[arg(long, default_value_t = 64)]
    workers: usize,
    /// Blocks of 16 tokens that a worker's cache holds.
    #[arg(long, default_value_t = 65_536)]
    capacity: usize,
    /// Seed of the trace that is made.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Tokens in a block, as vLLM's default.
const BLOCK: u32 = 16;

/// What one structure took for the whole trace.
#[derive(Debug, Default)]
struct Measured {
    lookups: Vec<Duration>,
    /// Depths found, folded: equal for equal answers.
    answers: u64,
    hashing: (Duration, usize),
    storing: (Duration, usize),
    removing: (Duration, usize),
    bytes: Option<usize>,
    held: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let requests = match &args.trace {
        Some(path) => trace::read(path, args.requests)?,
        None => trace::generate(args.requests, args.seed),
    };
    let blocks: usize = requests.iter().map(trace::Request::blocks).sum();
    ensure!(blocks > 0, "the trace has no request of at least {BLOCK} tokens");
    let source = args.trace.as_ref().map_or("a made trace".into(), |path| path.display().to_string());
    let (requests_count, workers) = (requests.len(), args.workers);
    println!(
        "{source}: {requests_count} requests, {} blocks of {BLOCK} tokens each; {workers} workers",
        blocks / requests_count
    );

    let workers_of = choose_workers(&requests, &args);
    let ours = replay(&mut Ours::new(args.workers), &requests, &workers_of, &args);
    let chain = replay(&mut Chain::new(args.workers)?, &requests, &workers_of, &args);
    let dynamo = replay(&mut Dynamo::new()?, &requests, &workers_of, &args);
    println!(
        "{:<24} {:>22} {:>9} {:>9} {:>13} {:>9} {:>11}",
        "", "lookup µs mean/p50/p99", "hash", "store", "hash + store", "remove", "bytes"
    );
    println!(
        "{:<24} {:>22} {:>9} {:>9} {:>13} {:>9} {:>11}",
        "", "", "ns/block", "ns/block", "ns/block", "ns/block", "per block"
    );
    let own = each(ours.storing) - each(ours.hashing);
    println!("{:<24} {}", "scheduling::KvIndex", row(&ours, own, each(ours.storing)));
    for (name, peer) in [("kv-index ChainIndex", &chain), ("dynamo-kv-router", &dynamo)] {
        println!("{name:<24} {}", row(peer, each(peer.storing), each(peer.hashing) + each(peer.storing)));
    }
    println!("held at the end: {} blocks over all workers", ours.held);
    let same = [&chain, &dynamo].iter().all(|peer| peer.answers == ours.answers);
    ensure!(same, "they found different depths");
    println!("all found the same depth for every request and worker");
    Ok(())
}

/// Where a router would send each request: to whoever holds most of it, when that is more than half;
/// else to the next in turn.
fn choose_workers(requests: &[trace::Request], args: &Args) -> Vec<usize> {
    let mut index = Ours::new(args.workers);
    let mut fleet = Fleet::new(args.workers, args.capacity);
    let choose = |(turn, request): (usize, &trace::Request)| {
        let prompt = Prompt::new(request.tokens());
        let depths = index.depths(&prompt);
        let best = depths.iter().max_by_key(|(worker, depth)| (*depth, std::cmp::Reverse(*worker)));
        let warm = best.filter(|(_, depth)| *depth as usize * 2 > prompt.keys.len());
        let worker = warm.map_or(turn % args.workers, |(worker, _)| *worker as usize);
        let change = fleet.serve(worker, &prompt.names);
        index.store(worker, &prompt, change.from);
        index.remove(worker, &change.evicted);
        worker
    };
    requests.iter().enumerate().map(choose).collect()
}

fn replay(peer: &mut impl Peer, requests: &[trace::Request], workers: &[usize], args: &Args) -> Measured {
    let mut measured = Measured::default();
    let mut fleet = Fleet::new(args.workers, args.capacity);
    for (request, worker) in requests.iter().zip(workers) {
        let mut prompt = Prompt::new(request.tokens());
        let began = Instant::now();
        peer.hash(&mut prompt);
        measured.hashing.0 += began.elapsed();
        measured.hashing.1 += prompt.keys.len();

        let began = Instant::now();
        let depths = peer.depths(&prompt);
        measured.lookups.push(began.elapsed());
        for (worker, depth) in depths {
            measured.answers =
                measured.answers.rotate_left(1).wrapping_add((u64::from(worker) << 32 | u64::from(depth)) * 0x9E37);
        }

        let change = fleet.serve(*worker, &prompt.names);
        let began = Instant::now();
        peer.remove(*worker, &change.evicted);
        measured.removing.0 += began.elapsed();
        measured.removing.1 += change.evicted.len();

        measured.storing.0 += peer.timed_store(*worker, &prompt, change.from);
        measured.storing.1 += prompt.names.len() - change.from;
    }
    measured.bytes = peer.bytes();
    measured.held = fleet.held();
    measured
}

/// Nanoseconds for each.
fn each((time, count): (Duration, usize)) -> f64 {
    time.as_secs_f64() * 1e9 / count.max(1) as f64
}

fn row(measured: &Measured, store: f64, both: f64) -> String {
    let mut lookups = measured.lookups.clone();
    lookups.sort_unstable();
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    let at = |share: f64| lookups.get((lookups.len() as f64 * share) as usize).map_or(0.0, |lookup| micros(*lookup));
    let mean = micros(lookups.iter().sum::<Duration>()) / lookups.len() as f64;
    let lookup = format!("{mean:.2} / {:.2} / {:.2}", at(0.5), at(0.99));
    let bytes = |bytes: usize| format!("{:.0}", bytes as f64 / measured.held.max(1) as f64);
    let bytes = measured.bytes.map_or("-".into(), bytes);
    let (hash, remove) = (each(measured.hashing), each(measured.removing));
    format!("{lookup:>22} {hash:>9.1} {store:>9.1} {both:>13.1} {remove:>9.1} {bytes:>11}")
}
