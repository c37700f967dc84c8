//! Prints how near each product is to what this machine could do: for every format, shape and batch the share of the roofline,
//! that is the larger of (packed bytes / read bandwidth) and (operations / arithmetic peak), over the time it took.
//!
//! `cargo bench -p llmlab-kernels --bench roofline -- [--threads N] [--isa NAME] [--ms N] [--format NAME,..] [--batch N,..]
//! [--shape ROWSxCOLS,..] [--busy] [--warm]`
//!
//! Machine speed drifts on shared hosts, within milliseconds where memory is concerned. So every product stands between two
//! rounds of reading memory; a memory-bound share is the median of those ratios, a compute-bound one the best product over
//! the peak measured before and after the row. `--busy` is for machines with other work: one thread, timed by the processor
//! time it got. `--warm` repeats one matrix with nothing in between: what a kernel computes when memory costs nothing.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use llmlab_kernels::probe::Reader;
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
    warm: bool,
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
            budget: Duration::from_millis(numbers("--ms", &[200])[0] as u64),
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
            warm: arguments.iter().any(|a| a == "--warm"),
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
    let copies = if options.warm { 0 } else { (COLD_BYTES / first.bytes()).clamp(1, 64) };
    let matrices: Vec<PackedMatrix> = std::iter::once(first).chain((0..copies).map(|_| pack())).collect();
    let bytes = matrices[0].bytes() as f64;

    let mut reader = Reader::new(pool);
    let before = peak(format, options);
    let timings: Vec<Timing> =
        options.batches.iter().map(|&batch| time(options, pool, &mut reader, &matrices, batch)).collect();
    let peak = before.max(peak(format, options));
    let mut reads: Vec<f64> = timings.iter().flat_map(|timing| timing.reads.iter().copied()).collect();
    reads.sort_by(f64::total_cmp);
    let bandwidth = reads[reads.len() / 2];

    let exact = (rows * format.row_bytes(cols)) as f64;
    let shape = format!("{rows} x {cols}");
    print!("{format:<10} {shape:>12} {:>9.1} {:>6.0} {:>11.3} |", bandwidth / 1e9, peak / 1e9, bytes / exact);
    for (&batch, timing) in options.batches.iter().zip(&timings) {
        let operations = (2 * batch * rows * cols) as f64;
        let (memory, compute) = (bytes * timing.median_share(), operations / peak / timing.best_s());
        let (share, bound) = if memory > compute { (memory, 'm') } else { (compute, 'c') };
        print!("{:>6.1}%{bound}", 100.0 * share);
    }
    let last = options.batches[options.batches.len() - 1];
    let fastest = (2 * last * rows * cols) as f64 / timings[timings.len() - 1].best_s();
    println!(" | {:>6.1} {:>7.0}", bytes / timings[0].median_s() / 1e9, fastest / 1e9);
}

fn peak(format: WeightFormat, options: &Options) -> f64 {
    match format {
        WeightFormat::F32 | WeightFormat::F16 => probe::f32_flops_with(options.threads, options.isa),
        WeightFormat::Bf16 | WeightFormat::Fp8 => probe::bf16_flops_with(options.threads, options.isa),
        _ => probe::int8_ops_with(options.threads, options.isa),
    }
}

/// Products of one batch, each beside the memory bandwidth around it.
struct Timing {
    /// Seconds of a product.
    products: Vec<f64>,
    /// Bytes per second of the two rounds of reading around each.
    reads: Vec<f64>,
}

impl Timing {
    fn best_s(&self) -> f64 {
        self.products.iter().copied().fold(f64::MAX, f64::min)
    }

    fn median_s(&self) -> f64 {
        median(self.products.clone())
    }

    /// Median of 1 / (time x bandwidth): share of the bandwidth per byte that a product must read.
    fn median_share(&self) -> f64 {
        median(self.products.iter().zip(&self.reads).map(|(s, read)| 1.0 / (s * read)).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Products in the time budget, matrices taken in turn; at least three.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn time(
    options: &Options,
    pool: &ThreadPool,
    reader: &mut Reader,
    matrices: &[PackedMatrix],
    tokens: usize,
) -> Timing {
    let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
    let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 31) % 211) as f32 / 100.0 - 1.0).collect();
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Activations::new();
    let seconds = |work: &mut dyn FnMut()| {
        let begin = (Instant::now(), processor_s());
        work();
        if options.busy { processor_s() - begin.1 } else { begin.0.elapsed().as_secs_f64() }
    };
    let mut read = || Reader::ROUND_BYTES as f64 / seconds(&mut || reader.round(pool));
    let mut timing = Timing { products: Vec::new(), reads: Vec::new() };
    let start = Instant::now();
    let mut before = read();
    for round in 0.. {
        if round >= 3 && start.elapsed() >= options.budget {
            break;
        }
        let matrix = &matrices[round % matrices.len()];
        timing.products.push(seconds(&mut || matmul(pool, matrix, &x, tokens, &mut out, &mut scratch)));
        let after = if options.warm { before } else { read() };
        timing.reads.push((before + after) / 2.0);
        before = after;
    }
    timing
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
