//! The short form of a closed loop beside the scheduler itself in virtual time, with the same cost model.

use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::scheduler::Scheduler;
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Silent, Timeouts, WorkloadConfig,
};
use llmlab_models::{WeightFormat, catalogue};
use llmlab_planner::{ClosedLoop, Deployment};
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_sim::cost_model::{Calibration, Sharding, Weights};
use llmlab_sim::{Device, Options, RooflineExecutor, simulate};

struct Kept(Vec<RequestRecord>);

impl RecordSink for Kept {
    fn record(&mut self, record: &RequestRecord) -> std::io::Result<()> {
        self.0.push(record.clone());
        Ok(())
    }
}

fn deployment() -> Deployment {
    Deployment {
        model: catalogue::architecture("llama-3.1-8b").unwrap(),
        device: Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap(),
        weights: Weights::of(WeightFormat::Bf16),
        kv_value_bytes: 2.0,
        sharding: Sharding::SINGLE,
        runtime: "vllm".into(),
    }
}

/// Seconds a token, in the waves between the first and the last.
fn scheduled_tpot_s(users: u32, input: u32, output: u32) -> f64 {
    let workload = llmlab_loadgen::generate(&WorkloadConfig {
        seed: 11,
        requests: u64::from(users) * 6,
        lengths: Lengths::Independent {
            input: LengthDist::Fixed { tokens: input },
            output: LengthDist::Fixed { tokens: output },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 8000),
        output_range: (1, 2000),
        arrivals: Arrivals::Closed { users, think_time: Duration::ZERO },
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::one(16),
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .unwrap();
    let config = EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: 256,
            max_num_batched_tokens: 8192,
            enable_prefix_caching: false,
            ..VllmConfig::default()
        }),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks: 26_000,
        max_model_len: 8192,
    };
    let cost = deployment().roofline(Calibration::shipped());
    let mut engine =
        Engine::new(Scheduler::new(config).unwrap(), RooflineExecutor::new(Box::new(cost), 1, 128_256));
    let mut kept = Kept(Vec::new());
    let long = Duration::from_secs(100_000);
    let patient = Timeouts { connect: long, first_token: long, inter_token: long, total: long };
    simulate(&workload, &mut engine, Options::new(patient), &mut kept, &Silent, &|| false).unwrap();
    let between = |record: &&RequestRecord| (u64::from(users)..u64::from(5 * users)).contains(&record.index);
    let each = kept.0.iter().filter(between).map(|record| {
        let span = record.last_token_ns().unwrap() - record.first_token_ns().unwrap();
        span as f64 / 1e9 / f64::from(output - 1)
    });
    let each: Vec<f64> = each.collect();
    each.iter().sum::<f64>() / each.len() as f64
}

fn short_tpot_s(users: u32, input: u32, output: u32) -> f64 {
    let asked = ClosedLoop {
        users,
        input_tokens: input,
        output_tokens: output,
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        kv_tokens: 25_999 * 16,
        requests_per_user: 10,
        serial_s: 0.0,
        request_s: 0.0,
        admission_s: 0.0,
        token_s: 0.0,
    };
    asked.run(&deployment().roofline(Calibration::shipped())).unwrap().tpot_s
}

/// The waves of a loop that all users enter at once stay together for long in the one, and are spread in the other; where
/// prompts weigh much against answers that is a tenth of the time a token.
#[test]
fn the_short_form_agrees_with_the_scheduler() {
    for (users, input, output) in [(1, 500, 64), (8, 1024, 256), (32, 1024, 512), (64, 256, 256)] {
        let (scheduled, short) = (scheduled_tpot_s(users, input, output), short_tpot_s(users, input, output));
        let error = short / scheduled - 1.0;
        println!(
            "{users} users, {input} in, {output} out: {scheduled:.5} s, short {short:.5} s, {error:+.3}"
        );
        assert!(error.abs() < 0.15, "{users} users, {input} in, {output} out: {scheduled} and {short}");
    }
}

#[test]
fn a_cache_without_room_has_no_answer_and_a_small_one_makes_requests_wait() {
    let cost = deployment().roofline(Calibration::shipped());
    let asked = |kv_tokens| ClosedLoop {
        users: 16,
        input_tokens: 1000,
        output_tokens: 100,
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        kv_tokens,
        requests_per_user: 10,
        serial_s: 0.0,
        request_s: 0.0,
        admission_s: 0.0,
        token_s: 0.0,
    };
    assert_eq!(asked(1099).run(&cost), None);
    let (all, four) = (asked(100_000).run(&cost).unwrap(), asked(4400).run(&cost).unwrap());
    assert!(four.running <= 4.0 && all.running > 8.0, "{four:?} {all:?}");
    assert!(four.ttft_s > 2.0 * all.ttft_s && four.tpot_s < all.tpot_s, "{four:?} {all:?}");
}
