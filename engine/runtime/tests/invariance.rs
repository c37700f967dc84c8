//! Greedy tokens are a function of the prompt alone (invariant 8), and so are the logits, to the bit.

mod common;

use std::time::Duration;

use common::serving::{requests, serve};
use common::{FORMATS, MAX_MODEL_LEN, config, cpu, plan, prompt, seq};
use llmlab_core::config::{
    CapacitySchedulerPolicy, DynamicConfig, EngineConfig, FastgenConfig, KvStrategy, LlamacppConfig,
    OrcaConfig, PolicyConfig, SarathiConfig, SchedulePolicy, SglangConfig, StaticConfig, TgiConfig,
    TrtllmConfig, VllmConfig,
};
use llmlab_core::request::RequestId;
use llmlab_kernels::attention::KvFormat;
use llmlab_quant::WeightFormat;
use llmlab_runtime::CandleExecutor;

fn engine_config(policy: PolicyConfig, kv: KvStrategy, block_size: u32, tokens: u32) -> EngineConfig {
    let num_blocks = tokens.div_ceil(block_size) + 1;
    EngineConfig { policy, kv, block_size, num_blocks, max_model_len: MAX_MODEL_LEN }
}

fn vllm(budget: u32, chunking: bool, caching: bool) -> PolicyConfig {
    PolicyConfig::Vllm(VllmConfig {
        max_num_batched_tokens: budget,
        max_num_seqs: 5,
        enable_chunked_prefill: chunking,
        enable_prefix_caching: caching,
        ..VllmConfig::default()
    })
}

fn alone() -> EngineConfig {
    let policy = VllmConfig { max_num_seqs: 1, enable_prefix_caching: false, ..VllmConfig::default() };
    engine_config(PolicyConfig::Vllm(policy), KvStrategy::Paged, 16, 1024)
}

/// Every policy, budget, block size and KV strategy that goes together.
fn everything() -> Vec<EngineConfig> {
    let mut all = Vec::new();
    for block_size in [1, 4, 16, 32] {
        for (budget, chunking, caching) in
            [(7, true, false), (16, true, true), (64, true, true), (2048, false, false), (2048, false, true)]
        {
            all.push(engine_config(vllm(budget, chunking, caching), KvStrategy::Paged, block_size, 1024));
        }
        // Legs of four tokens: a request comes back with what it generated as prompt.
        for use_prefix_caching in [false, true] {
            let tgi = TgiConfig { use_prefix_caching, leg_tokens: 4, ..TgiConfig::new(600) };
            all.push(engine_config(PolicyConfig::Tgi(tgi), KvStrategy::Paged, block_size, 1024));
        }
    }
    for kv in [KvStrategy::Paged, KvStrategy::Reserve, KvStrategy::Contiguous] {
        let batch = StaticConfig { batch_size: 3, max_queue_delay: Duration::from_millis(2) };
        all.push(engine_config(PolicyConfig::Static(batch), kv, 16, 1024));
        let batch = DynamicConfig {
            max_batch_size: 4,
            preferred_batch_size: vec![2],
            max_queue_delay: Duration::from_millis(2),
            ..DynamicConfig::default()
        };
        all.push(engine_config(PolicyConfig::Dynamic(batch), kv, 4, 1024));
        all.push(engine_config(vllm(32, true, false), kv, 16, 1024));
    }
    let small_prefills =
        TgiConfig { max_batch_prefill_tokens: 20, waiting_served_ratio: 0.0, ..TgiConfig::new(400) };
    all.push(engine_config(PolicyConfig::Tgi(small_prefills), KvStrategy::Paged, 16, 1024));
    let padded = TgiConfig {
        requires_padding: true,
        prefill_chunking: false,
        use_prefix_caching: false,
        ..TgiConfig::new(600)
    };
    all.push(engine_config(PolicyConfig::Tgi(padded), KvStrategy::Paged, 16, 1024));
    for policy in with_memory_of_their_own() {
        all.push(engine_config(policy, KvStrategy::Paged, 4, 1024));
    }
    all
}

/// Policies that share, keep and take back blocks in their own ways, with budgets small enough to cut prompts.
fn with_memory_of_their_own() -> [PolicyConfig; 7] {
    [
        PolicyConfig::Orca(OrcaConfig { max_num_seqs: 3 }),
        PolicyConfig::Sarathi(SarathiConfig { chunk_size: 24, ..SarathiConfig::default() }),
        PolicyConfig::Fastgen(FastgenConfig { max_ragged_batch_size: 24, ..FastgenConfig::default() }),
        PolicyConfig::Trtllm(TrtllmConfig {
            capacity_scheduler_policy: CapacitySchedulerPolicy::MaxUtilization,
            enable_chunked_context: true,
            max_num_tokens: 24,
            ..TrtllmConfig::default()
        }),
        PolicyConfig::Llamacpp(LlamacppConfig {
            n_parallel: 3,
            n_batch: 24,
            n_ubatch: 9,
            ..LlamacppConfig::default()
        }),
        PolicyConfig::Sglang(SglangConfig { chunked_prefill_size: 24, ..SglangConfig::default() }),
        PolicyConfig::Sglang(SglangConfig {
            schedule_policy: SchedulePolicy::Lpm,
            chunked_prefill_size: 24,
            enable_mixed_chunk: true,
            ..SglangConfig::default()
        }),
    ]
}

fn runtime(engine: &EngineConfig, weights: WeightFormat, threads: usize) -> llmlab_runtime::RuntimeConfig {
    config(weights, KvFormat::Bf16, threads, engine.num_blocks, engine.block_size)
}

fn check_format(weights: WeightFormat) {
    let reference = serve(&alone(), cpu(&runtime(&alone(), weights, 1))).0;
    assert_eq!(reference.len(), requests().len());
    let (third, fifth) = (&reference[&RequestId(3)], &reference[&RequestId(5)]);
    assert!(third.iter().zip(fifth).all(|(a, b)| a == b), "one prompt, two answers");
    let distinct: std::collections::BTreeSet<_> = reference.values().flatten().collect();
    assert!(distinct.len() > 5, "tokens too alike to tell a difference: {distinct:?}");
    let (mut hits, mut padding) = (0, 0);
    for (index, engine) in everything().iter().enumerate() {
        let threads = 1 + index % 2;
        let (tokens, stats) = serve(engine, cpu(&runtime(engine, weights, threads)));
        assert_eq!(tokens, reference, "{weights}, {threads} threads, {engine:?}");
        hits += stats.prefix_hit_tokens_total;
        padding += stats.prefill_padding_total + stats.decode_padding_total;
    }
    assert!(hits > 0 && padding > 0, "prefix caching and padding were never exercised: {hits} {padding}");
}

#[test]
fn greedy_tokens_do_not_depend_on_scheduling_f32() {
    check_format(WeightFormat::F32);
}

#[test]
fn greedy_tokens_do_not_depend_on_scheduling_bf16() {
    check_format(WeightFormat::Bf16);
}

#[test]
fn greedy_tokens_do_not_depend_on_scheduling_q8_0() {
    check_format(WeightFormat::Q8_0);
}

#[test]
fn greedy_tokens_do_not_depend_on_scheduling_q4_0() {
    check_format(WeightFormat::Q4_0);
}

/// A pool too small for the batch: requests are thrown out and computed again.
#[test]
fn preemption_changes_no_token() {
    let reference = serve(&alone(), cpu(&runtime(&alone(), WeightFormat::Q8_0, 1))).0;
    let engine = engine_config(vllm(64, true, false), KvStrategy::Paged, 4, 128);
    let (tokens, stats) = serve(&engine, cpu(&runtime(&engine, WeightFormat::Q8_0, 2)));
    assert!(stats.preemptions_total > 0, "{stats:?}");
    assert_eq!(tokens, reference);
}

/// The baseline serves the same policies; its logits differ in the last bits, so tokens are compared where the choice is
/// not that close: with f32 weights and these prompts, everywhere.
#[test]
fn candle_serves_the_same_tokens() {
    let f32_cache = |engine: &EngineConfig| llmlab_runtime::RuntimeConfig {
        kv: KvFormat::F32,
        ..runtime(engine, WeightFormat::F32, 1)
    };
    let reference = serve(&alone(), cpu(&f32_cache(&alone()))).0;
    let spec = common::tiny_spec();
    for engine in [alone(), engine_config(vllm(64, true, false), KvStrategy::Paged, 4, 128)] {
        let source = common::tiny_weights(&spec);
        let candle = CandleExecutor::from_weights(&spec, &source, &f32_cache(&engine)).unwrap();
        assert_eq!(serve(&engine, candle).0, reference, "{engine:?}");
    }
}

/// Stronger than equal tokens: equal logits, for any cut of the prompt, company, block size and thread count.
#[test]
fn logits_are_the_same_bits_however_the_prompt_is_cut() {
    let tokens = prompt(100, 9);
    for weights in FORMATS {
        let whole = cpu(&config(weights, KvFormat::Bf16, 1, 16, 16))
            .logits(&plan(1, vec![seq(1, 0, &tokens, &[1, 2, 3, 4, 5, 6, 7])]))
            .unwrap()
            .remove(0);
        for (chunk, block_size, threads) in [(7, 16, 1), (64, 4, 2), (1, 32, 1), (33, 1, 2)] {
            let blocks = 100u32.div_ceil(block_size);
            let mut executor = cpu(&config(weights, KvFormat::Bf16, threads, 2 * blocks + 2, block_size));
            let table: Vec<u32> = (1..=blocks).rev().collect();
            let mut last = Vec::new();
            for (step, start) in (0..100usize).step_by(chunk).enumerate() {
                let part = &tokens[start..100.min(start + chunk)];
                let company =
                    seq(2, 0, &prompt(3 + step % 5, 8), &(blocks + 1..=2 * blocks).collect::<Vec<_>>());
                let mut seqs = vec![company, seq(1, start as u32, part, &table)];
                seqs[0].padding = (step % 3) as u32;
                last = executor.logits(&plan(step as u64 + 1, seqs)).unwrap().remove(1);
            }
            let same = last.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{weights}: chunks of {chunk}, blocks of {block_size}, {threads} threads");
        }
    }
}
