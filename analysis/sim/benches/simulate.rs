//! Simulated requests per second of wall time: Llama-3.1-8B in bf16 on H100s under vLLM's rules, lengths as in ShareGPT,
//! for one replica's traffic, ten and a hundred.

use std::convert::Infallible;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::scheduler::Scheduler;
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Silent, Timeouts, Workload, WorkloadConfig,
};
use llmlab_models::architecture::Architecture;
use llmlab_models::memory::{Budget, MemoryConfig};
use llmlab_models::{ModelSpec, WeightFormat, catalogue};
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_sim::cluster::{self, ClusterConfig, Pool, Routing};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::{Device, Options, Overhead, Roofline, RooflineExecutor, simulate};

/// Requests of one replica's run.
const REQUESTS: u64 = 400;
/// About three quarters of what one replica takes.
const RATE_RPS: f64 = 20.0;

/// Looks at records and lets them go.
struct Sink(u64);

impl RecordSink for Sink {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()> {
        self.0 += u64::from(record.output_tokens);
        Ok(())
    }
}

struct Replica {
    spec: ModelSpec,
    config: EngineConfig,
    cost: Roofline,
}

fn replica() -> Replica {
    let spec = llmlab_models::load_spec("spec:llama-3.1-8b").expect("it is in the catalogue");
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").expect("it is in the catalogue"))
        .expect("it has all figures");
    let format = |vector: bool| if vector { WeightFormat::F32 } else { WeightFormat::Bf16 };
    let Ok(layers) = Layers::new(&spec, spec.kv_bytes_per_token(2.0), |tensor| {
        Ok::<_, Infallible>(format(tensor.role.is_vector()))
    });
    let kv = spec.kv_bytes_per_token(2.0);
    let memory_bytes = device.memory_bytes as u64;
    let memory = MemoryConfig::vllm(&device.name, memory_bytes);
    let budget = Budget::of(&Architecture::of(&spec), &memory, memory_bytes, layers.stored_bytes);
    let blocks = budget.kv_bytes() / (16 * kv);
    let config = EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig { max_num_batched_tokens: 8192, ..VllmConfig::default() }),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks: blocks as u32 + 1,
        max_model_len: 8192,
    };
    Replica { cost: Roofline::new(layers, device), spec, config }
}

/// ShareGPT's prompts and answers: medians of about 70 and 180 tokens, long tails.
fn workload(seed: u64) -> Workload {
    workload_of(seed, REQUESTS, RATE_RPS)
}

fn workload_of(seed: u64, requests: u64, rate_rps: f64) -> Workload {
    llmlab_loadgen::generate(&WorkloadConfig {
        seed,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Lognormal { median: 70.0, p95: 900.0 },
            output: LengthDist::Lognormal { median: 180.0, p95: 600.0 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (4, 2048),
        output_range: (4, 1024),
        arrivals: Arrivals::Poisson { rate_rps },
        prompts: PromptStyle::TokenIds { first: 0, end: 100_000 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .expect("the configuration is valid")
}

fn run(replica: &Replica, load: &Workload) -> u64 {
    let scheduler =
        Scheduler::new(replica.config.clone()).expect("the configuration is valid").without_block_tables();
    let executor = RooflineExecutor::new(Box::new(replica.cost.clone()), 1, replica.spec.vocab_size);
    let mut engine = Engine::new(scheduler, executor);
    let mut sink = Sink(0);
    let options =
        Options { overhead: Overhead::served(DEFAULT_RUNTIME), ..Options::new(Timeouts::default()) };
    simulate(load, &mut engine, options, &mut sink, &Silent, &|| false).expect("nothing fails here");
    sink.0
}

/// The same replicas behind a router that looks at their load.
fn run_cluster(replica: &Replica, replicas: u32, load: &Workload) -> usize {
    let pool = Pool {
        vocab_size: replica.spec.vocab_size,
        overhead: Overhead::served(DEFAULT_RUNTIME),
        ..Pool::new("h100", replica.config.clone(), Arc::new(replica.cost.clone()), replicas)
    };
    let config = ClusterConfig {
        routing: Routing::LeastOutstanding,
        ..ClusterConfig::new(vec![pool], Timeouts::default())
    };
    cluster::simulate(&config, load).expect("nothing fails here").requests.len()
}

fn benches(c: &mut Criterion) {
    let replica = replica();
    let mut group = c.benchmark_group("simulate");
    group.sample_size(10);
    for replicas in [1u64, 10, 100] {
        group.throughput(Throughput::Elements(replicas * REQUESTS));
        group.bench_function(format!("h100 llama-3.1-8b vllm, {replicas} replicas"), |b| {
            let loads: Vec<Workload> = (0..replicas).map(workload).collect();
            b.iter(|| loads.iter().map(|load| run(&replica, load)).sum::<u64>());
        });
        group.bench_function(format!("h100 llama-3.1-8b vllm, a cluster of {replicas}"), |b| {
            let load = workload_of(1, replicas * REQUESTS, RATE_RPS * replicas as f64);
            b.iter(|| run_cluster(&replica, replicas as u32, &load));
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
