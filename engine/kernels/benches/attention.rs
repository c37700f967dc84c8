//! Prints how much of this machine attention uses: bytes of keys and values per second against read bandwidth for decodes,
//! operations per second against the bf16 (f32 for f32 and f16 caches) peak for prompts.
//!
//! `cargo bench -p llmlab-kernels --bench attention -- [--threads N] [--isa NAME] [--ms N] [--only FORMAT] [--shape TEXT] [--warm]`
//!
//! The layers of the cache are visited in turn, so that a decode finds its keys and values in memory. Of a prompt only the
//! causal half is counted. Machine speed drifts on shared hosts, so peaks and calls are measured in turns, each keeps its
//! best turn, and every row shows its own peak. `--warm` keeps to one layer, which shows what the arithmetic alone takes.

use std::time::{Duration, Instant};

use llmlab_kernels::attention::{
    AttentionParams, AttentionScratch, AttentionSeq, KvCache, KvFormat, paged_attention,
};
use llmlab_kernels::ops::RowsRef;
use llmlab_kernels::{Isa, ThreadPool, probe};

/// Query heads, KV heads, head size: of a 1.1B model with grouped queries, of an 8B one, and without grouping.
const HEADS: [(usize, usize, usize); 3] = [(32, 4, 64), (32, 8, 128), (12, 12, 64)];
/// Sequences and positions of each.
const DECODES: [(usize, usize); 5] = [(1, 512), (1, 8192), (32, 128), (32, 512), (32, 2048)];
const PROMPTS: [usize; 3] = [128, 512, 2048];
const BLOCK: usize = 16;
/// Keys and values of all layers together at least, so that none is in cache when its turn comes.
const COLD_BYTES: usize = 256 << 20;
const TURNS: usize = 3;

struct Bench {
    pool: ThreadPool,
    threads: usize,
    isa: Isa,
    budget: Duration,
    shape: String,
    warm: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).map(String::as_str)
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = option("--threads").map_or(cores, |n| n.parse().expect("--threads takes a number"));
    let isa = option("--isa").map_or(Isa::detect(), |name| name.parse().expect("--isa"));
    let budget =
        Duration::from_millis(option("--ms").map_or(60, |n| n.parse().expect("--ms takes milliseconds")));
    let only: Option<KvFormat> = option("--only").map(|name| name.parse().expect("--only"));
    // Such as `--shape 32/4x64` or `--shape "prompt 512"`.
    let shape = option("--shape").unwrap_or("").to_owned();
    let warm = arguments.iter().any(|a| a == "--warm");
    let bench = Bench { pool: ThreadPool::new(threads), threads, isa, budget, shape, warm };

    println!("{isa}, {threads} threads; GB/s and Gop/s of the call, of the machine, and the share");
    println!("kv    heads    shape                us      rate      peak   share");
    for format in KvFormat::ALL.into_iter().filter(|format| only.is_none_or(|only| only == *format)) {
        for heads in HEADS {
            for (sequences, positions) in DECODES {
                bench.row(format, heads, sequences, positions, 1);
            }
            for positions in PROMPTS {
                bench.row(format, heads, 1, positions, positions);
            }
        }
    }
}

impl Bench {
    /// `sequences` of `positions` each, whose last `rows` are computed.
    fn row(
        &self,
        format: KvFormat,
        (heads, kv_heads, head_dim): (usize, usize, usize),
        sequences: usize,
        positions: usize,
        rows: usize,
    ) {
        let name =
            if rows == 1 { format!("{sequences} x {positions}") } else { format!("prompt {positions}") };
        let name = format!("{heads:>2}/{kv_heads}x{head_dim:<3} {name:<12}");
        if !name.contains(&self.shape) {
            return;
        }
        let per_sequence = positions.div_ceil(BLOCK);
        let num_blocks = sequences * per_sequence;
        let layer_bytes = 2 * sequences * positions * kv_heads * format.bytes_per_row(head_dim);
        let layers = if rows == 1 && !self.warm { (COLD_BYTES / layer_bytes).clamp(1, 4096) } else { 1 };
        let mut cache = KvCache::with_isa(format, layers, num_blocks, BLOCK, kv_heads, head_dim, self.isa)
            .expect("cache");
        let values = |n: usize, step: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * step) % 1999) as f32 / 1000.0 - 1.0).collect()
        };
        // A multiplier prime to the number of blocks scatters each sequence over the whole pool.
        let multiplier =
            (num_blocks * 5 / 8..).find(|m| gcd(*m, num_blocks) == 1).expect("1 is prime to all");
        let table: Vec<u32> = (0..num_blocks).map(|i| (i * multiplier % num_blocks) as u32).collect();
        let width = kv_heads * head_dim;
        let (k, v) = (values(positions * width, 7919), values(positions * width, 104_729));
        for layer in 0..layers {
            for blocks in table.chunks(per_sequence) {
                let slots: Vec<u32> =
                    (0..positions).map(|p| blocks[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32).collect();
                let (k, v) = (RowsRef::packed(&k, width), RowsRef::packed(&v, width));
                cache.write(&self.pool, layer, &slots, k, v);
            }
        }
        let q = values(sequences * rows * heads * head_dim, 31);
        let mut out = vec![0.0; q.len()];
        let seqs: Vec<AttentionSeq> = table
            .chunks(per_sequence)
            .enumerate()
            .map(|(i, blocks)| AttentionSeq {
                q_start: i * rows,
                q_len: rows,
                context: positions - rows,
                blocks,
            })
            .collect();
        let params = AttentionParams::plain(1.0 / (head_dim as f32).sqrt());
        let mut scratch = AttentionScratch::default();
        let mut layer = 0;
        let mut call = || {
            let q = RowsRef::packed(&q, heads * head_dim);
            paged_attention(&self.pool, &cache, layer, &seqs, q, heads, params, &mut out, &mut scratch);
            layer = (layer + 1) % layers;
        };
        // Two operations per multiply-add, once for scores and once for values.
        let pairs = rows * (2 * positions - rows + 1) / 2;
        let amount = if rows == 1 { layer_bytes as f64 } else { (4 * pairs * heads * head_dim) as f64 };
        let (mut best_s, mut peak) = (f64::MAX, 0f64);
        for _ in 0..TURNS {
            peak = peak.max(match (rows, format) {
                (1, _) => probe::read_bandwidth(self.threads),
                (_, KvFormat::F32 | KvFormat::F16) => probe::f32_flops_with(self.threads, self.isa),
                _ => probe::bf16_flops_with(self.threads, self.isa),
            });
            best_s = best_s.min(self.best_s(&mut call));
        }
        println!(
            "{:<5} {name:<22} {:>9.1} {:>9.1} {:>9.1} {:>5.0} %",
            format.to_string(),
            best_s * 1e6,
            amount / best_s / 1e9,
            peak / 1e9,
            100.0 * amount / best_s / peak,
        );
    }

    /// The best time of a call; short ones are timed several together. Other processes only ever make a call slower, and
    /// the shorter a measurement, the likelier it is that one of them escapes.
    #[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
    fn best_s(&self, call: &mut impl FnMut()) -> f64 {
        let timed = |calls: u32, call: &mut dyn FnMut()| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed().as_secs_f64() / f64::from(calls)
        };
        let calls = (200e-6 / timed(3, call)).ceil() as u32;
        let (begin, mut best) = (Instant::now(), f64::MAX);
        while begin.elapsed() < self.budget {
            best = best.min(timed(calls.max(1), call));
        }
        best
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
