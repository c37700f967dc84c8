//! The short form of a closed loop beside the scheduler itself in virtual time, with the same cost model.

use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::scheduler::Scheduler;
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, Silent, Timeouts, WorkloadConfig,
};
use llmlab_models::{WeightFormat, catalogue};
use llmlab_planner::{Admission, ClosedLoop, Deployment};
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::{Calibration, Sharding, Weights};
use llmlab_sim::{Device, Options, Overhead, RooflineExecutor, simulate};

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

/// Blocks of 16 tokens that hold everybody.
const MANY: u32 = 26_000;

/// Seconds to the first token and a further token, in the waves between the first and the last.
fn scheduled(users: u32, input: u32, output: u32, blocks: u32, overhead: Overhead) -> (f64, f64) {
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
        num_blocks: blocks,
        max_model_len: 8192,
    };
    let cost = deployment().roofline(Calibration::shipped());
    let mut engine =
        Engine::new(Scheduler::new(config).unwrap(), RooflineExecutor::new(Box::new(cost), 1, 128_256));
    let mut kept = Kept(Vec::new());
    let long = Duration::from_secs(100_000);
    let patient = Timeouts { connect: long, first_token: long, inter_token: long, total: long };
    let options = Options { overhead, ..Options::new(patient) };
    simulate(&workload, &mut engine, options, &mut kept, &Silent, &|| false).unwrap();
    let between = |record: &&RequestRecord| (u64::from(users)..u64::from(5 * users)).contains(&record.index);
    let (mut ttft_s, mut tpot_s, mut requests) = (0.0, 0.0, 0.0);
    for record in kept.0.iter().filter(between) {
        let first = record.first_token_ns().unwrap();
        ttft_s += (first - record.scheduled_ns) as f64 / 1e9;
        tpot_s += (record.last_token_ns().unwrap() - first) as f64 / 1e9 / f64::from(output - 1);
        requests += 1.0;
    }
    (ttft_s / requests, tpot_s / requests)
}

fn short(users: u32, input: u32, output: u32, blocks: u32, admission: Admission) -> (f64, f64) {
    let asked = ClosedLoop {
        users,
        input_tokens: input,
        output_tokens: output,
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        kv_tokens: u64::from(blocks - 1) * 16,
        admission,
        requests_per_user: 100,
        serial_s: 0.0,
        serial_token_s: 0.0,
        request_s: 0.0,
        admission_s: 0.0,
        token_s: 0.0,
    };
    let figures = asked.run(&deployment().roofline(Calibration::shipped())).unwrap();
    (figures.ttft_s, figures.tpot_s)
}

/// The waves of a loop that all users enter at once stay together for long in the one, and are spread in the other; where
/// prompts weigh much against answers that is a tenth of the time a token.
#[test]
fn the_short_form_agrees_with_the_scheduler() {
    for (users, input, output) in [(1, 500, 64), (8, 1024, 256), (32, 1024, 512), (64, 256, 256)] {
        let (_, scheduled) = scheduled(users, input, output, MANY, Overhead::NONE);
        let (_, short) = short(users, input, output, MANY, Admission::Prompt);
        let error = short / scheduled - 1.0;
        println!(
            "{users} users, {input} in, {output} out: {scheduled:.5} s, short {short:.5} s, {error:+.3}"
        );
        assert!(error.abs() < 0.15, "{users} users, {input} in, {output} out: {scheduled} and {short}");
    }
}

/// With what the fit has for vLLM's server: the work of its host, which is the greater part where a small model has many users.
#[test]
fn the_short_form_agrees_with_the_scheduler_behind_a_server() {
    let host = Calibration::shipped().runtime(DEFAULT_RUNTIME);
    for (users, input, output) in [(1, 500, 64), (16, 1024, 256), (64, 256, 256), (200, 128, 256)] {
        let kv_tokens = u64::from(MANY - 1) * 16;
        let asked = ClosedLoop {
            max_num_seqs: 256,
            kv_tokens,
            ..deployment().closed_loop(host, users, input, output, true)
        };
        let short = asked.run(&deployment().roofline(Calibration::shipped())).unwrap();
        let (ttft_s, tpot_s) = scheduled(users, input, output, MANY, Overhead::served(DEFAULT_RUNTIME));
        let (_, bare_s) = scheduled(users, input, output, MANY, Overhead::NONE);
        println!(
            "{users} users, {input} in, {output} out: TTFT {ttft_s:.4} s, short {:.4}; TPOT {tpot_s:.5} s, short {:.5}, without a host {bare_s:.5}",
            short.ttft_s, short.tpot_s
        );
        let error = short.tpot_s / tpot_s - 1.0;
        assert!(error.abs() < 0.15, "{users} users, {input} in, {output} out: {error:+.3}");
        assert!(users < 200 || tpot_s > 1.1 * bare_s, "{tpot_s} {bare_s}");
    }
}

/// Where answers outgrow the cache, the scheduler lets prompts in and takes room back later: few wait for their first token, and
/// all for their others.
#[test]
fn a_cache_that_answers_outgrow_costs_what_it_costs_the_scheduler() {
    for (users, input, output, blocks) in [(16, 256, 512, 400), (24, 128, 1024, 900), (32, 1024, 256, 1000)] {
        let (ttft_s, tpot_s) = scheduled(users, input, output, blocks, Overhead::NONE);
        let prompt = short(users, input, output, blocks, Admission::Prompt);
        let whole = short(users, input, output, blocks, Admission::WholeAnswer);
        let answer = |(ttft_s, tpot_s): (f64, f64)| ttft_s + tpot_s * f64::from(output - 1);
        println!(
            "{users} users, {input} in, {output} out: {ttft_s:.3} s and {tpot_s:.5} s, {prompt:?}, {whole:?}"
        );
        let error = answer(prompt) / answer((ttft_s, tpot_s)) - 1.0;
        assert!(error.abs() < 0.2, "{users} users, {input} in, {output} out: {error:+.3}");
        assert!((prompt.0 - ttft_s).abs() < (whole.0 - ttft_s).abs(), "{ttft_s} {prompt:?} {whole:?}");
    }
}

/// Tokens that leave one after another bound the throughput, however fast the steps are.
#[test]
fn a_slow_front_end_bounds_the_throughput() {
    let cost = deployment().roofline(Calibration::shipped());
    let with = |serial_s: f64, serial_token_s: f64| {
        let asked = ClosedLoop {
            users: 64,
            input_tokens: 128,
            output_tokens: 256,
            max_num_seqs: 256,
            max_num_batched_tokens: 8192,
            kv_tokens: 400_000,
            admission: Admission::Prompt,
            requests_per_user: 10,
            serial_s,
            serial_token_s,
            request_s: 0.0,
            admission_s: 0.0,
            token_s: 0.0,
        };
        asked.run(&cost).unwrap()
    };
    let (free, slow) = (with(0.0, 0.0), with(0.0, 1e-3));
    assert!(free.output_tokens_per_s > 3000.0, "{free:?}");
    assert!((slow.output_tokens_per_s / 1000.0 - 1.0).abs() < 0.02, "{slow:?}");
    let requests = with(0.1, 0.0);
    assert!((requests.output_tokens_per_s / 2560.0 - 1.0).abs() < 0.02, "{requests:?}");
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
        admission: Admission::Prompt,
        requests_per_user: 10,
        serial_s: 0.0,
        serial_token_s: 0.0,
        request_s: 0.0,
        admission_s: 0.0,
        token_s: 0.0,
    };
    assert_eq!(asked(1099).run(&cost), None);
    let (all, four) = (asked(100_000).run(&cost).unwrap(), asked(4400).run(&cost).unwrap());
    assert!(four.running <= 4.0 && all.running > 8.0, "{four:?} {all:?}");
    assert!(four.ttft_s > 2.0 * all.ttft_s && four.tpot_s < all.tpot_s, "{four:?} {all:?}");
}
