//! Prints how much of this machine the products use: packed bytes per second against read bandwidth for one token,
//! operations per second against the arithmetic peak for a prompt of 512.
//!
//! `cargo bench -p llmlab-kernels --bench roofline -- [--threads N] [--isa NAME] [--ms N]`
//!
//! Machine speed drifts on shared hosts, so peaks and products are measured in turns, each keeps its best turn, and every
//! row shows its own peaks. A share above 100 % means that weights were partly still in the last-level cache, or that the
//! machine was busier while its peak was measured.

use std::time::{Duration, Instant};

use llmlab_kernels::{Activations, Isa, PackedMatrix, ThreadPool, WeightFormat, matmul, probe};

const FORMATS: [WeightFormat; 4] =
    [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4_0];

/// `[rows, cols]` of the 1.1B model: attention output, gate or up, down, and the vocabulary.
const SHAPES: [(usize, usize); 4] = [(2048, 2048), (5632, 2048), (2048, 5632), (32000, 2048)];

/// One token must find its weights in memory, not in cache, so copies of a matrix are used in turn up to this size.
const COLD_BYTES: usize = 192 << 20;

const PROMPT: usize = 512;

const TURNS: usize = 3;

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
    let pool = ThreadPool::new(threads);

    println!("{isa}, {threads} threads");
    println!(
        "format  rows x cols     | 1 token      us    GB/s  of read GB/s   share | {PROMPT} tokens   ms   Gop/s  of peak Gop/s   share"
    );
    for format in FORMATS {
        for (rows, cols) in SHAPES {
            let weights: Vec<f32> =
                (0..rows * cols).map(|i| ((i * 7919) % 1999) as f32 / 1000.0 - 1.0).collect();
            let pack =
                || PackedMatrix::pack_parallel(&pool, format, rows, cols, &weights, isa).expect("pack");
            let first = pack();
            let copies = (COLD_BYTES / first.bytes()).clamp(0, 64);
            let matrices: Vec<PackedMatrix> =
                std::iter::once(first).chain((0..copies).map(|_| pack())).collect();

            let (mut bandwidth, mut peak) = (0f64, 0f64);
            let (mut decode_s, mut prefill_s) = (f64::MAX, f64::MAX);
            for _ in 0..TURNS {
                bandwidth = bandwidth.max(probe::read_bandwidth(threads));
                decode_s = decode_s.min(best_s(budget, &pool, &matrices, 1));
                peak = peak.max(match format {
                    WeightFormat::F32 => probe::f32_flops_with(threads, isa),
                    WeightFormat::Bf16 => probe::bf16_flops_with(threads, isa),
                    _ => probe::int8_ops_with(threads, isa),
                });
                prefill_s = prefill_s.min(best_s(budget, &pool, &matrices[..1], PROMPT));
            }
            let bytes_per_s = matrices[0].bytes() as f64 / decode_s;
            let operations_per_s = (2 * PROMPT * rows * cols) as f64 / prefill_s;
            println!(
                "{format:<6} {:>14} | {:>17.1} {:>7.1} {:>13.1} {:>6.0}% | {:>15.2} {:>7.0} {:>14.0} {:>6.0}%",
                format!("{rows} x {cols}"),
                decode_s * 1e6,
                bytes_per_s / 1e9,
                bandwidth / 1e9,
                100.0 * bytes_per_s / bandwidth,
                prefill_s * 1e3,
                operations_per_s / 1e9,
                peak / 1e9,
                100.0 * operations_per_s / peak,
            );
        }
    }
}

/// Seconds of the best product in the time budget, matrices taken in turn; at least three runs.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn best_s(budget: Duration, pool: &ThreadPool, matrices: &[PackedMatrix], tokens: usize) -> f64 {
    let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
    let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 31) % 211) as f32 / 100.0 - 1.0).collect();
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Activations::new();
    let mut best = Duration::MAX;
    let start = Instant::now();
    for round in 0.. {
        if round >= 3 && start.elapsed() >= budget {
            break;
        }
        let begin = Instant::now();
        matmul(pool, &matrices[round % matrices.len()], &x, tokens, &mut out, &mut scratch);
        best = best.min(begin.elapsed());
    }
    best.as_secs_f64()
}
