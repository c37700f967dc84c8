//! Criterion view of the products of a 1.1B model: bytes per second for one token, multiply-adds per second for a prompt.
//!
//! `cargo bench -p llmlab-kernels --bench matmul`; the shares of the machine's peaks are printed by the `roofline` bench.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llmlab_kernels::{Activations, Isa, PackedMatrix, ThreadPool, WeightFormat, matmul};

const FORMATS: [WeightFormat; 6] = [
    WeightFormat::Bf16,
    WeightFormat::Q8_0,
    WeightFormat::Q4_0,
    WeightFormat::Q4K,
    WeightFormat::Q6K,
    WeightFormat::Int8,
];

const SHAPES: [(usize, usize); 3] = [(2048, 2048), (5632, 2048), (2048, 5632)];

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = ThreadPool::new(threads);
    let mut scratch = Activations::new();
    for tokens in [1, 512] {
        let mut group = c.benchmark_group(format!("matmul/{tokens}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(400));
        for format in FORMATS {
            for (rows, cols) in SHAPES {
                let weights: Vec<f32> = (0..rows * cols).map(|i| (i % 1999) as f32 / 1000.0 - 1.0).collect();
                let w = PackedMatrix::pack_parallel(&pool, format, rows, cols, &weights, Isa::detect())
                    .expect("shapes are whole blocks");
                let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 211) as f32 / 100.0 - 1.0).collect();
                let mut out = vec![0.0; tokens * rows];
                group.throughput(match tokens {
                    1 => Throughput::Bytes(w.bytes() as u64),
                    _ => Throughput::Elements((tokens * rows * cols) as u64),
                });
                group.bench_function(BenchmarkId::new(format.to_string(), format!("{rows}x{cols}")), |b| {
                    b.iter(|| matmul(&pool, &w, &x, tokens, &mut out, &mut scratch));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
