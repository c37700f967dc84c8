//! Prints how near each product is to what this machine could do: for every format, shape and batch the share of the roofline,
//! that is the larger of (packed bytes / read bandwidth) and (operations / arithmetic peak), over the time it took.
//!
//! `cargo bench -p llmlab-kernels --bench roofline -- [--threads N] [--isa NAME] [--ms N] [--format NAME,..] [--batch N,..]
//! [--shape ROWSxCOLS,..] [--busy]`
//!
//! Machine speed drifts on shared hosts, so peaks are measured before and after the products of a row of the table, and every
//! row shows them. Every figure is the best of its runs. `--busy` is for machines with other work: one thread, timed by the
//! processor time it got. A share above 100 % means that weights were partly still in the last-level cache, or that the
//! machine was busier while its peak was measured.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use llmlab_kernels::{Activations, Isa, PackedMatrix, StoredMatrix, ThreadPool, WeightFormat, matmul, probe};
use llmlab_quant::{Fp8Matrix, Grouped, Int8Channel, quantize_matrix};

/// `[rows, cols]` of the 1.1B model: attention output, gate or up, down, and the vocabulary.
const SHAPES: [(usize, usize); 4] = [(2048, 2048), (5632, 2048), (2048, 5632), (32000, 2048)];

const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 512];

/// Weights must be found in memory, not in cache, so copies of a matrix are used in turn up to this size.
const COLD_BYTES: usize = 128 << 20;

/// Rows that are really rounded; larger matrices repeat them.
const DISTINCT_ROWS: usize = 128;

struct Options {
    threads: usize,
    isa: Isa,
    budget: Duration,
    formats: Vec<WeightFormat>,
    batches: Vec<usize>,
    shapes: Vec<(usize, usize)>,
    busy: bool,
}

impl Options {
    fn parse() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let option = |name: &str| {
            arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).map(String::as_str)
        };
        let numbers = |name: &str, default: &[usize]| match option(name) {
            Some(list) => list.split(',').map(|n| n.parse().expect("a list of numbers")).collect(),
            None => default.to_vec(),
        };
        let busy = arguments.iter().any(|a| a == "--busy");
        let cores = if busy { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
        Options {
            threads: option("--threads").map_or(cores, |n| n.parse().expect("--threads takes a number")),
            isa: option("--isa").map_or(Isa::detect(), |name| name.parse().expect("--isa")),
            budget: Duration::from_millis(numbers("--ms", &[60])[0] as u64),
            formats: match option("--format") {
                Some(list) => list.split(',').map(|name| name.parse().expect("--format")).collect(),
                None => WeightFormat::ALL.to_vec(),
            },
            batches: numbers("--batch", &BATCHES),
            shapes: match option("--shape") {
                Some(list) => list.split(',').map(shape).collect(),
                None => SHAPES.to_vec(),
            },
            busy,
        }
    }
}

fn shape(text: &str) -> (usize, usize) {
    let (rows, cols) = text.split_once('x').expect("--shape takes ROWSxCOLS");
    (rows.parse().expect("rows"), cols.parse().expect("columns"))
}

fn main() {
    let options = Options::parse();
    let Options { threads, isa, .. } = options;
    let pool = ThreadPool::new(threads);
    println!(
        "{isa}, {threads} threads; share of the roofline per batch, m = memory bound, c = compute bound"
    );
    print!("format      rows x cols      GB/s  Gop/s  bytes/GGUF |");
    options.batches.iter().for_each(|batch| print!("{batch:>8}"));
    println!(" | GB/s at {0}, Gop/s at {1}", options.batches[0], options.batches[options.batches.len() - 1]);
    for &format in &options.formats {
        for &(rows, cols) in &options.shapes {
            row(&options, &pool, format, rows, cols);
        }
    }
}

/// One row of the table.
fn row(options: &Options, pool: &ThreadPool, format: WeightFormat, rows: usize, cols: usize) {
    let stored = repeated(format, rows, cols);
    let pack = || PackedMatrix::from_stored(pool, rows, cols, &stored, options.isa).expect("whole blocks");
    let first = pack();
    let copies = (COLD_BYTES / first.bytes()).clamp(1, 64);
    let matrices: Vec<PackedMatrix> = std::iter::once(first).chain((0..copies).map(|_| pack())).collect();
    let bytes = matrices[0].bytes() as f64;

    let peaks = || (probe::read_bandwidth(options.threads), peak(format, options));
    let before = peaks();
    let times: Vec<f64> =
        options.batches.iter().map(|&batch| best_s(options, pool, &matrices, batch)).collect();
    let after = peaks();
    let (bandwidth, peak) = (before.0.max(after.0), before.1.max(after.1));

    let exact = (rows * format.row_bytes(cols)) as f64;
    let shape = format!("{rows} x {cols}");
    print!("{format:<10} {shape:>12} {:>9.1} {:>6.0} {:>11.3} |", bandwidth / 1e9, peak / 1e9, bytes / exact);
    for (&batch, &time) in options.batches.iter().zip(&times) {
        let operations = (2 * batch * rows * cols) as f64;
        let (memory, compute) = (bytes / bandwidth, operations / peak);
        let bound = if memory > compute { 'm' } else { 'c' };
        print!("{:>6.1}%{bound}", 100.0 * memory.max(compute) / time);
    }
    let last = options.batches[options.batches.len() - 1];
    let fastest = (2 * last * rows * cols) as f64 / times[times.len() - 1];
    println!(" | {:>6.1} {:>7.0}", bytes / times[0] / 1e9, fastest / 1e9);
}

fn peak(format: WeightFormat, options: &Options) -> f64 {
    match format {
        WeightFormat::F32 | WeightFormat::F16 => probe::f32_flops_with(options.threads, options.isa),
        WeightFormat::Bf16 | WeightFormat::Fp8 => probe::bf16_flops_with(options.threads, options.isa),
        _ => probe::int8_ops_with(options.threads, options.isa),
    }
}

/// Seconds of the best product in the time budget, matrices taken in turn; at least three runs.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn best_s(options: &Options, pool: &ThreadPool, matrices: &[PackedMatrix], tokens: usize) -> f64 {
    let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
    let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 31) % 211) as f32 / 100.0 - 1.0).collect();
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Activations::new();
    let mut best = f64::MAX;
    let start = Instant::now();
    for round in 0.. {
        if round >= 3 && start.elapsed() >= options.budget {
            break;
        }
        let begin = (Instant::now(), processor_s());
        matmul(pool, &matrices[round % matrices.len()], &x, tokens, &mut out, &mut scratch);
        let elapsed = if options.busy { processor_s() - begin.1 } else { begin.0.elapsed().as_secs_f64() };
        best = best.min(elapsed);
    }
    best
}

/// Processor time of this thread.
fn processor_s() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a timespec of this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A matrix whose rows repeat: rounding every row of a vocabulary in every format would take minutes.
fn repeated(format: WeightFormat, rows: usize, cols: usize) -> StoredMatrix<'static> {
    let distinct = rows.min(DISTINCT_ROWS);
    let weights: Vec<f32> = (0..distinct * cols).map(|i| ((i * 7919) % 1999) as f32 / 1000.0 - 1.0).collect();
    fn cycle<T: Copy>(values: &[T], distinct: usize, rows: usize) -> Vec<T> {
        values.iter().copied().cycle().take(values.len() / distinct * rows).collect()
    }
    match quantize_matrix(format, distinct, cols, &weights).expect("finite weights in whole blocks") {
        StoredMatrix::Floats(values) => StoredMatrix::Floats(Cow::Owned(cycle(&values, distinct, rows))),
        StoredMatrix::Blocks { format, bytes } => {
            StoredMatrix::Blocks { format, bytes: Cow::Owned(cycle(&bytes, distinct, rows)) }
        }
        StoredMatrix::Grouped(grouped) => StoredMatrix::Grouped(Grouped {
            q: cycle(&grouped.q, distinct, rows),
            scales: cycle(&grouped.scales, distinct, rows),
            zeros: cycle(&grouped.zeros, distinct, rows),
            ..grouped
        }),
        StoredMatrix::Int8(channel) => StoredMatrix::Int8(Int8Channel {
            q: cycle(&channel.q, distinct, rows),
            scales: cycle(&channel.scales, distinct, rows),
        }),
        StoredMatrix::Fp8(matrix) => StoredMatrix::Fp8(Fp8Matrix {
            q: cycle(&matrix.q, distinct, rows),
            scales: cycle(&matrix.scales, distinct, rows),
            ..matrix
        }),
    }
}
