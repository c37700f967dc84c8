//! Replay parity: the recorded times and tokens of a real executor lead the scheduler to the same plans, to the block.

mod common;

use common::{Kept, patient, scheduler, vllm, workload};
use llmlab_core::config::{EngineConfig, PolicyConfig, StaticConfig, TgiConfig};
use llmlab_core::engine::Engine;
use llmlab_core::executor::Executor;
use llmlab_kernels::attention::KvFormat;
use llmlab_loadgen::{Arrivals, Silent};
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::{CpuExecutor, RuntimeConfig};
use llmlab_sim::replay::RecordedStep;
use llmlab_sim::{Options, Overhead, Recorder, Recording, ReplayExecutor, simulate};
use std::time::Duration;

const OVERHEAD: Overhead = Overhead {
    request_s: 1e-4,
    prompt_token_s: 1e-6,
    step_s: 1e-5,
    step_token_s: 1e-6,
    delivery_s: 2e-5,
    ..Overhead::NONE
};

fn cpu(config: &EngineConfig) -> CpuExecutor {
    let model = llmlab_models::load("synthetic:llama-15m", 3).unwrap();
    let config = RuntimeConfig {
        weights: WeightRecipe::Uniform(WeightFormat::Q8_0),
        kv: KvFormat::Bf16,
        threads: 1,
        num_blocks: config.num_blocks,
        block_size: config.block_size,
        max_model_len: config.max_model_len,
    };
    CpuExecutor::new(&model, &config).unwrap()
}

/// Runs the workload on `executor`; also the records as bytes.
fn run<E: Executor>(config: &EngineConfig, arrivals: &Arrivals, executor: E) -> (E, Result<Vec<u8>, String>) {
    let load = workload(30, arrivals.clone());
    let mut engine = Engine::new(scheduler(config), executor);
    let mut sink = Kept::default();
    let options = Options { overhead: OVERHEAD, ..Options::new(patient()) };
    let ran = simulate(&load, &mut engine, options, &mut sink, &Silent, &|| false);
    let bytes = serde_json::to_vec(&sink.0).unwrap();
    (engine.executor, ran.map(|_| bytes).map_err(|error| error.to_string()))
}

fn recorded(config: &EngineConfig, arrivals: &Arrivals) -> (Recording, Vec<u8>) {
    let (recorder, records) = run(config, arrivals, Recorder::new(cpu(config)));
    (recorder.into_recording(), records.unwrap())
}

#[test]
fn a_replay_plans_the_recorded_steps() {
    let policies = [
        // Few blocks: preemption and eviction take part.
        vllm(8, 40),
        EngineConfig { policy: PolicyConfig::Tgi(TgiConfig::new(600)), ..vllm(8, 40) },
        EngineConfig {
            policy: PolicyConfig::Static(StaticConfig {
                batch_size: 4,
                max_queue_delay: Duration::from_millis(3),
            }),
            ..vllm(8, 120)
        },
    ];
    for config in policies {
        for arrivals in [
            Arrivals::Poisson { rate_rps: 200.0 },
            Arrivals::Closed { users: 6, think_time: Duration::from_micros(300) },
        ] {
            let (recording, records) = recorded(&config, &arrivals);
            assert!(recording.steps.len() > 30, "{config:?}");
            if matches!(config.policy, PolicyConfig::Vllm(_)) {
                let preempts = |step: &RecordedStep| !step.plan.preempted.is_empty();
                assert!(recording.steps.iter().any(preempts), "too many blocks to show anything");
            }
            let (replay, again) = run(&config, &arrivals, ReplayExecutor::new(recording));
            assert_eq!(replay.remaining(), 0);
            assert_eq!(again.unwrap(), records, "{config:?} {arrivals:?}");
        }
    }
}

/// The test above can fail: another policy is found out, and the message says where.
#[test]
fn a_replay_under_another_rule_is_refused() {
    let arrivals = Arrivals::Closed { users: 6, think_time: Duration::ZERO };
    let (recording, _) = recorded(&vllm(8, 100), &arrivals);
    let (_, ran) = run(&vllm(2, 100), &arrivals, ReplayExecutor::new(recording));
    let error = ran.unwrap_err();
    assert!(error.contains("is not the recorded one"), "{error}");
}
