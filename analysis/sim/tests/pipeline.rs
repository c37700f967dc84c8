//! Batches in the stages of a pipeline, held against what can be worked out by hand.

mod common;

use std::time::Duration;

use common::cluster::pool;
use common::{Kept, fixed, patient, vllm, workload};
use llmlab_core::config::{EngineConfig, PolicyConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::executor::StageTime;
use llmlab_core::scheduler::Scheduler;
use llmlab_loadgen::{Arrivals, Silent, Workload};
use llmlab_models::{WeightFormat, catalogue};
use llmlab_results::record::RequestRecord;
use llmlab_sim::cluster::{ClusterConfig, Pool, simulate_with};
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::cost_model::{Sharding, Weights};
use llmlab_sim::{CostModel, Device, Facts, Options, Roofline, RooflineExecutor, SeqShape, simulate};

const MS: Duration = Duration::from_millis(1);

/// Each stage takes its time, whatever the step.
#[derive(Clone)]
struct Stages {
    busy_ms: Vec<u32>,
    to_next: Duration,
}

impl CostModel for Stages {
    fn step_time(&self, _: &[SeqShape]) -> Duration {
        MS * self.busy_ms.iter().sum::<u32>() + self.to_next * (self.busy_ms.len() as u32 - 1)
    }

    fn stages(&self) -> usize {
        self.busy_ms.len()
    }

    fn stage_times(&self, _: &[SeqShape], times: &mut Vec<StageTime>) {
        let last = self.busy_ms.len() - 1;
        times.extend(self.busy_ms.iter().enumerate().map(|(stage, busy)| StageTime {
            busy: MS * *busy,
            to_next: if stage == last { Duration::ZERO } else { self.to_next },
        }));
    }
}

/// The same steps with nothing beside them.
struct OneAfterTheOther<C>(C);

impl<C: CostModel> CostModel for OneAfterTheOther<C> {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        self.0.step_time(seqs)
    }
}

fn run(
    load: &Workload,
    config: &EngineConfig,
    cost: impl CostModel + 'static,
) -> (Facts, Vec<RequestRecord>) {
    let scheduler = Scheduler::new(config.clone()).unwrap().with_batches_in_flight(cost.stages()).unwrap();
    let mut engine = Engine::new(scheduler, RooflineExecutor::new(Box::new(cost), 1, 500));
    let mut sink = Kept::default();
    let options = Options::new(patient());
    let facts = simulate(load, &mut engine, options, &mut sink, &Silent, &|| false).unwrap();
    (facts, sink.0)
}

/// A step has room for one prompt of so many tokens, so that requests that come together start in batches of their own.
fn a_prompt_a_step(tokens: u32, max_num_seqs: u32) -> EngineConfig {
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs,
            max_num_batched_tokens: tokens,
            enable_prefix_caching: false,
            ..VllmConfig::default()
        }),
        ..vllm(max_num_seqs, 2000)
    }
}

fn together(requests: u64, output: u32) -> Workload {
    fixed(requests, Arrivals::Closed { users: requests as u32, think_time: Duration::ZERO }, 64, output)
}

#[test]
fn one_request_passes_the_stages_one_after_the_other() {
    let cost = Stages { busy_ms: vec![3, 5, 4], to_next: MS / 2 };
    let (facts, records) = run(&together(1, 5), &a_prompt_a_step(64, 8), cost);
    let at: Vec<u64> = records[0].events.iter().map(|event| event.at_ns / 1_000_000).collect();
    assert_eq!(at, [13, 26, 39, 52, 65]);
    assert_eq!(facts.steps, 5);
}

/// Steps a second are min(batches, stages) / sum of the stages, where these are equal.
#[test]
fn equal_stages_are_filled_as_far_as_there_are_batches() {
    for to_next in [Duration::ZERO, MS] {
        for batches in 1..=6 {
            let cost = Stages { busy_ms: vec![10; 4], to_next };
            let sum = cost.step_time(&[]).as_secs_f64();
            let (facts, records) = run(&together(batches, 400), &a_prompt_a_step(64, 16), cost);
            assert!(records.iter().all(|record| record.output_tokens == 400));
            let per_s = facts.steps as f64 / facts.elapsed.as_secs_f64();
            let expected = batches.min(4) as f64 / sum;
            assert!((per_s / expected - 1.0).abs() < 0.02, "{batches} batches: {per_s} steps/s, {expected}");
        }
    }
}

/// With as many batches as stages the slowest stage is always busy, and the others wait for it.
#[test]
fn the_slowest_stage_sets_the_pace() {
    let cost = Stages { busy_ms: vec![10, 30, 10, 10], to_next: Duration::ZERO };
    let (facts, _) = run(&together(4, 400), &a_prompt_a_step(64, 16), cost);
    let per_s = facts.steps as f64 / facts.elapsed.as_secs_f64();
    assert!((per_s * 0.030 - 1.0).abs() < 0.02, "{per_s}");
}

/// A prompt that is cut needs no token of the step before: its chunks follow each other through the stages.
#[test]
fn chunks_of_one_prompt_fill_the_stages() {
    let load = fixed(1, Arrivals::Constant { rate_rps: 1.0 }, 640, 1);
    let cost = Stages { busy_ms: vec![10; 4], to_next: Duration::ZERO };
    let (facts, records) = run(&load, &a_prompt_a_step(64, 16), cost);
    assert_eq!(facts.steps, 10);
    // Ten chunks enter 10 ms apart, and the last takes 40 ms.
    assert_eq!(records[0].done_ns, Some(130_000_000));
}

/// vLLM plans all that decode together: requests that start in one batch stay there, and the other stages are empty.
#[test]
fn who_starts_together_stays_together() {
    let cost = Stages { busy_ms: vec![10; 4], to_next: Duration::ZERO };
    let (facts, _) = run(&together(8, 100), &a_prompt_a_step(8 * 64, 16), cost);
    assert_eq!((facts.steps, facts.elapsed), (100, 4000 * MS));
}

fn llama(pipeline: u32) -> Roofline {
    let model = catalogue::architecture("llama-3.1-405b").unwrap();
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let sharding = Sharding { pipeline, ..Sharding::tensor(8) };
    Roofline::new(Layers::of(model, Weights::of(WeightFormat::Bf16), 2.0, sharding), device)
}

#[test]
fn stages_of_a_model_sum_to_its_step() {
    let decode = SeqShape { context: 900, new: 1, padding: 0, sample: true, drafts: 0 };
    let prompt = SeqShape { context: 0, new: 700, padding: 0, sample: true, drafts: 0 };
    for pipeline in [2, 4] {
        let cost = llama(pipeline);
        for seqs in [vec![decode], vec![decode; 64], vec![prompt, decode]] {
            let mut times = Vec::new();
            cost.stage_times(&seqs, &mut times);
            assert_eq!(times.len(), pipeline as usize);
            let sum: Duration = times.iter().map(|stage| stage.busy + stage.to_next).sum();
            assert!(sum.abs_diff(cost.step_time(&seqs)) <= Duration::from_nanos(8), "{sum:?}");
            assert!(times.iter().all(|stage| stage.busy * pipeline > sum * 9 / 10), "{times:?}");
        }
    }
}

/// Requests that come at their own times spread over batches, and the stages of a model are nearly as much faster as there are.
#[test]
fn many_requests_fill_the_stages_of_a_model() {
    let load = fixed(600, Arrivals::Closed { users: 200, think_time: Duration::ZERO }, 500, 60);
    let config = a_prompt_a_step(2048, 256);
    let config = EngineConfig { num_blocks: 10_000, ..config };
    let (filled, _) = run(&load, &config, llama(4));
    let (alone, _) = run(&load, &config, OneAfterTheOther(llama(4)));
    let faster = alone.elapsed.as_secs_f64() / filled.elapsed.as_secs_f64();
    assert!((2.8..4.0).contains(&faster), "{faster}");
}

/// A cluster of one replica writes the records of the server alone, with a pipeline too.
#[test]
fn a_cluster_of_one_pipeline_is_the_pipeline() {
    let cost = Stages { busy_ms: vec![4, 5, 6], to_next: MS / 4 };
    for arrivals in [Arrivals::Poisson { rate_rps: 60.0 }, Arrivals::Closed { users: 9, think_time: 5 * MS }]
    {
        let load = workload(200, arrivals);
        let engine = a_prompt_a_step(256, 16);
        let (_, mut alone) = run(&load, &engine, cost.clone());
        let like = pool(engine, common::cluster::GPU, 1);
        let config = ClusterConfig {
            seed: 1,
            ..ClusterConfig::new(vec![Pool { cost: std::sync::Arc::new(cost.clone()), ..like }], patient())
        };
        let mut kept = Kept::default();
        let outcome = simulate_with(&config, &load, None, Some(&mut kept)).unwrap();
        alone.sort_by_key(|record| record.index);
        kept.0.sort_by_key(|record| record.index);
        assert_eq!(alone, kept.0);
        assert!(outcome.replicas[0].utilisation <= 1.0);
    }
}
