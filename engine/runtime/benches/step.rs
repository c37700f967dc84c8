//! Steps of `synthetic:llama-15m` on both executors: decodes at several batch sizes over a context of 128 tokens, and
//! the prefill of one prompt. Throughput is in new tokens.
//!
//! `LLMLAB_BENCH_THREADS` sets the threads (default: all), `LLMLAB_BENCH_MODEL` another model source. The decode step
//! is repeated at one position, so the context does not grow while it is measured.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llmlab_core::executor::Executor;
use llmlab_core::request::RequestId;
use llmlab_core::step::{BlockId, SeqStep, StepPlan};
use llmlab_kernels::attention::KvFormat;
use llmlab_models::LoadedModel;
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::{CandleExecutor, CpuExecutor, RuntimeConfig};

const BLOCK_SIZE: u32 = 16;
const CONTEXT: u32 = 128;
const BLOCKS_PER_SEQ: u32 = 32;
const MAX_BATCH: u32 = 32;

fn model() -> LoadedModel {
    let source = std::env::var("LLMLAB_BENCH_MODEL").unwrap_or_else(|_| "synthetic:llama-15m".into());
    llmlab_models::load(&source, 1).unwrap()
}

fn config(weights: WeightRecipe) -> RuntimeConfig {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = std::env::var("LLMLAB_BENCH_THREADS").map_or(all, |n| n.parse().unwrap());
    RuntimeConfig {
        weights,
        kv: KvFormat::Bf16,
        threads,
        num_blocks: MAX_BATCH * BLOCKS_PER_SEQ + 1,
        block_size: BLOCK_SIZE,
        max_model_len: 1024,
    }
}

fn seq(index: u32, context: u32, tokens: u32) -> SeqStep {
    let blocks = 1 + index * BLOCKS_PER_SEQ..1 + (index + 1) * BLOCKS_PER_SEQ;
    SeqStep::new(
        RequestId(u64::from(index)),
        context,
        (0..tokens).map(|i| (i * 37 + index) % 256).collect(),
        blocks.map(BlockId).take((context + tokens).div_ceil(BLOCK_SIZE) as usize).collect(),
    )
}

fn plan(seqs: Vec<SeqStep>) -> StepPlan {
    StepPlan { step: 1, seqs, preempted: Vec::new(), admitted: Vec::new() }
}

fn steps(c: &mut Criterion, name: &str, mut executor: impl Executor) {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    executor.execute(&plan((0..MAX_BATCH).map(|i| seq(i, 0, CONTEXT)).collect())).unwrap();
    for batch in [1, 8, 32] {
        let plan = plan((0..batch).map(|i| seq(i, CONTEXT, 1)).collect());
        group.throughput(Throughput::Elements(u64::from(batch)));
        group.bench_function(BenchmarkId::new("decode", batch), |b| {
            b.iter(|| black_box(executor.execute(&plan).unwrap()));
        });
    }
    let plan = plan(vec![seq(0, 0, 512)]);
    group.throughput(Throughput::Elements(512));
    group.bench_function(BenchmarkId::new("prefill", 512), |b| {
        b.iter(|| black_box(executor.execute(&plan).unwrap()));
    });
    group.finish();
}

fn all(c: &mut Criterion) {
    let model = model();
    let f32 = WeightRecipe::Uniform(WeightFormat::F32);
    let formats = [WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4_0].map(WeightRecipe::Uniform);
    for weights in formats.into_iter().chain([f32, WeightRecipe::Q4KM]) {
        steps(c, &format!("cpu_{weights}"), CpuExecutor::new(&model, &config(weights)).unwrap());
    }
    steps(c, "candle_f32", CandleExecutor::new(&model, &config(f32)).unwrap());
}

criterion_group!(benches, all);
criterion_main!(benches);
