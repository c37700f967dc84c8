//! Every policy with random knobs, KV strategies and sizes that go together.

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::config::{
    CapacitySchedulerPolicy, ContextChunkingPolicy, DynamicConfig, EngineConfig, FastgenConfig, KvStrategy,
    LlamacppConfig, OrcaConfig, OwnPolicy, PolicyConfig, SarathiConfig, SchedulePolicy, SglangConfig,
    SpeculativeConfig, SpeculativeMethod, StaticConfig, TgiConfig, TimeoutAction, TrtllmConfig, VllmConfig,
};
use proptest::prelude::*;

use crate::shortest_prompt_first;

/// The pool always holds one request of the longest kind, so that every strategy is a valid choice.
fn sizes() -> impl Strategy<Value = (KvStrategy, u32, u32, u32)> {
    let kv = prop::sample::select(vec![KvStrategy::Paged, KvStrategy::Reserve, KvStrategy::Contiguous]);
    (kv, 1..6u32, 20..44u32, 0..20u32).prop_map(|(kv, block_size, max_model_len, spare)| {
        (kv, block_size, max_model_len.div_ceil(block_size) + 1 + spare, max_model_len)
    })
}

fn engine(policy: PolicyConfig, sizes: (KvStrategy, u32, u32, u32)) -> EngineConfig {
    let (kv, block_size, num_blocks, max_model_len) = sizes;
    EngineConfig { policy, kv, block_size, num_blocks, max_model_len }
}

/// What a pipeline is planned with.
pub fn vllm_in_flight() -> impl Strategy<Value = EngineConfig> {
    vllm().prop_map(|mut config| {
        if let PolicyConfig::Vllm(knobs) = &mut config.policy {
            (knobs.async_scheduling, knobs.speculative_config) = (false, None);
        }
        config
    })
}

pub fn vllm() -> impl Strategy<Value = EngineConfig> {
    let knobs = (1..6u32, 1..24u32, any::<[bool; 4]>(), 0..6u32, 1..4u32, 0..3u32);
    (knobs, any::<bool>(), speculation(), sizes()).prop_map(
        |(
            (seqs, budget, [chunked, caching, isl, priority], cap, interval, keep),
            ahead,
            speculation,
            sizes,
        )| {
            // A step must hold at least one sequence with its drafts.
            let drafts = speculation.map_or(0, |s| 1 + s.num_speculative_tokens);
            let by_lookup = speculation.is_some_and(|s| s.method == SpeculativeMethod::Ngram);
            engine(
                PolicyConfig::Vllm(VllmConfig {
                    max_num_seqs: seqs,
                    max_num_batched_tokens: if chunked { budget + drafts } else { budget + drafts + sizes.3 },
                    enable_chunked_prefill: chunked,
                    enable_prefix_caching: caching && sizes.0 != KvStrategy::Contiguous,
                    long_prefill_token_threshold: cap,
                    prefill_schedule_interval: interval,
                    scheduler_reserve_full_isl: isl,
                    watermark: f64::from(keep) / 10.0,
                    priority,
                    max_loras: 1,
                    async_scheduling: ahead && !by_lookup,
                    speculative_config: speculation,
                    upstream_defects: false,
                }),
                sizes,
            )
        },
    )
}

fn speculation() -> impl Strategy<Value = Option<SpeculativeConfig>> {
    let methods = vec![
        SpeculativeMethod::Ngram,
        SpeculativeMethod::Eagle,
        SpeculativeMethod::EagleDropLastBlock,
        SpeculativeMethod::DraftModel,
    ];
    let config = (prop::sample::select(methods), 1..5u32, 0..3u32).prop_map(|(method, drafts, lookup)| {
        SpeculativeConfig {
            method,
            num_speculative_tokens: drafts,
            prompt_lookup_min: 1,
            prompt_lookup_max: lookup,
        }
    });
    prop::option::of(config)
}

pub fn tgi(upstream_defects: bool) -> impl Strategy<Value = EngineConfig> {
    let limits = (1..40u32, 0..30u32, prop::option::of(16..30u32), 0..3u32, 1..8u32);
    let loop_ = (0.0..2.0f64, 0..5u32, prop::option::of(1..5u32));
    let mode = (any::<[bool; 2]>(), prop::bool::weighted(0.2));
    (limits, loop_, mode, sizes()).prop_map(
        move |(
            (prefill, spare, input, speculate, leg),
            (ratio, patience, most),
            ([chunking, caching], padding),
            sizes,
        )| {
            engine(
                PolicyConfig::Tgi(TgiConfig {
                    max_batch_prefill_tokens: prefill,
                    max_batch_total_tokens: 2 * sizes.1 + spare * 4,
                    waiting_served_ratio: ratio,
                    max_waiting_tokens: patience,
                    max_batch_size: most,
                    max_input_tokens: input,
                    prefill_chunking: chunking && !padding,
                    use_prefix_caching: caching && !padding,
                    requires_padding: padding,
                    window_size: None,
                    speculate,
                    leg_tokens: leg,
                    upstream_defects,
                }),
                sizes,
            )
        },
    )
}

pub fn static_batch() -> impl Strategy<Value = EngineConfig> {
    (1..6u32, 0..8u64, sizes()).prop_map(|(batch_size, delay, sizes)| {
        let max_queue_delay = Duration::from_millis(delay);
        engine(PolicyConfig::Static(StaticConfig { batch_size, max_queue_delay }), sizes)
    })
}

pub fn dynamic_batch() -> impl Strategy<Value = EngineConfig> {
    let preferred = prop::collection::vec(1..6u32, 0..3);
    let queue = (0..3u32, any::<bool>(), prop::option::of(1..20u64));
    (1..6u32, preferred, 0..8u64, queue, sizes()).prop_map(
        |(max_batch_size, mut preferred, delay, (priority_levels, reject, timeout), sizes)| {
            preferred.retain(|size| *size <= max_batch_size);
            let config = DynamicConfig {
                max_batch_size,
                preferred_batch_size: preferred,
                max_queue_delay: Duration::from_millis(delay),
                priority_levels,
                default_priority_level: priority_levels,
                timeout_action: if reject { TimeoutAction::Reject } else { TimeoutAction::Delay },
                default_timeout: Duration::from_millis(timeout.unwrap_or(0)),
            };
            engine(PolicyConfig::Dynamic(config), sizes)
        },
    )
}

pub fn orca() -> impl Strategy<Value = EngineConfig> {
    (1..6u32, sizes())
        .prop_map(|(max_num_seqs, sizes)| engine(PolicyConfig::Orca(OrcaConfig { max_num_seqs }), sizes))
}

pub fn sarathi() -> impl Strategy<Value = EngineConfig> {
    (1..6u32, 1..24u32, any::<bool>(), 1..40u32, 1..4u32, sizes()).prop_map(
        |(max_num_seqs, chunk_size, dynamic, max_tokens, stages, sizes)| {
            let config = SarathiConfig {
                max_num_seqs,
                chunk_size,
                enable_dynamic_chunking_schedule: dynamic,
                low_chunk_size: Some(32),
                high_chunk_size: Some(64),
                chunk_schedule_max_tokens: Some(max_tokens),
                chunk_schedule_stages: Some(stages),
            };
            engine(PolicyConfig::Sarathi(config), sizes)
        },
    )
}

pub fn fastgen() -> impl Strategy<Value = EngineConfig> {
    (1..24u32, 1..6u32, 1..6u32, sizes()).prop_map(|(batch, count, tracked, sizes)| {
        let config = FastgenConfig {
            max_ragged_batch_size: batch,
            max_ragged_sequence_count: count,
            max_tracked_sequences: tracked,
        };
        engine(PolicyConfig::Fastgen(config), sizes)
    })
}

pub fn trtllm() -> impl Strategy<Value = EngineConfig> {
    let capacity = prop::sample::select(vec![
        CapacitySchedulerPolicy::GuaranteedNoEvict,
        CapacitySchedulerPolicy::MaxUtilization,
        CapacitySchedulerPolicy::StaticBatch,
    ]);
    (capacity, any::<[bool; 3]>(), 1..6u32, 0..24u32, sizes()).prop_map(
        |(capacity_scheduler_policy, [chunked, even, reuse], max_batch_size, tokens, sizes)| {
            let config = TrtllmConfig {
                capacity_scheduler_policy,
                enable_chunked_context: chunked,
                context_chunking_policy: match even {
                    true => ContextChunkingPolicy::EqualProgress,
                    false => ContextChunkingPolicy::FirstComeFirstServed,
                },
                max_batch_size,
                max_num_tokens: tokens + if chunked { sizes.1 } else { 20 },
                enable_block_reuse: reuse,
            };
            engine(PolicyConfig::Trtllm(config), sizes)
        },
    )
}

pub fn llamacpp() -> impl Strategy<Value = EngineConfig> {
    (1..4u32, 1..30u32, 1..12u32, any::<[bool; 3]>(), 0..6u32, sizes()).prop_map(
        |(n_parallel, n_batch, n_ubatch, [kv_unified, cont_batching, cache_prompt], similarity, sizes)| {
            let config = LlamacppConfig {
                n_parallel,
                kv_unified,
                n_batch,
                n_ubatch,
                cont_batching,
                cache_prompt,
                slot_prompt_similarity: f64::from(similarity) / 10.0,
            };
            engine(PolicyConfig::Llamacpp(config), sizes)
        },
    )
}

pub fn sglang() -> impl Strategy<Value = EngineConfig> {
    (any::<[bool; 4]>(), 1..6u32, 1..30u32, 0..24u32, 0..15u32, sizes()).prop_map(
        |([lpm, mixed, no_cache, chunks], max_running_requests, prefill, chunk, conservativeness, sizes)| {
            let config = SglangConfig {
                schedule_policy: if lpm { SchedulePolicy::Lpm } else { SchedulePolicy::Fcfs },
                max_running_requests,
                max_prefill_tokens: prefill,
                chunked_prefill_size: if chunks { sizes.1 + chunk } else { 0 },
                enable_mixed_chunk: mixed,
                disable_radix_cache: no_cache,
                schedule_conservativeness: f64::from(conservativeness) / 10.0,
            };
            engine(PolicyConfig::Sglang(config), sizes)
        },
    )
}

pub fn own() -> impl Strategy<Value = EngineConfig> {
    (1..6u32, sizes()).prop_map(|(max_num_seqs, sizes)| {
        let knobs = shortest_prompt_first::ShortestPromptFirst { max_num_seqs };
        engine(PolicyConfig::Own(OwnPolicy(Arc::new(knobs))), sizes)
    })
}
