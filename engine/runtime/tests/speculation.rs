//! Speculation changes how many tokens a step brings and not one of them, greedy or sampled.

mod common;

use common::serving::{Tokens, requests, serve_these};
use common::{MAX_MODEL_LEN, config, cpu, tiny_spec, tiny_weights};
use llmlab_core::config::{
    EngineConfig, KvStrategy, PolicyConfig, SpeculativeConfig, SpeculativeMethod, VllmConfig,
};
use llmlab_core::request::{Request, SamplingParams};
use llmlab_core::stats::Stats;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::ModelSpec;
use llmlab_models::synthetic::SyntheticWeights;
use llmlab_quant::WeightFormat;
use llmlab_runtime::{DraftModelExecutor, RuntimeConfig};

fn speculation(method: SpeculativeMethod, drafts: u32) -> SpeculativeConfig {
    SpeculativeConfig { method, num_speculative_tokens: drafts, prompt_lookup_min: 1, prompt_lookup_max: 3 }
}

fn engine(speculation: Option<SpeculativeConfig>, ahead: bool, tokens: u32) -> EngineConfig {
    let policy = VllmConfig {
        max_num_batched_tokens: 40,
        max_num_seqs: 5,
        async_scheduling: ahead,
        speculative_config: speculation,
        ..VllmConfig::default()
    };
    EngineConfig {
        policy: PolicyConfig::Vllm(policy),
        kv: KvStrategy::Paged,
        block_size: 4,
        num_blocks: tokens / 4 + 1,
        max_model_len: MAX_MODEL_LEN,
    }
}

fn runtime(engine: &EngineConfig) -> RuntimeConfig {
    config(WeightFormat::Q8_0, KvFormat::Bf16, 2, engine.num_blocks, engine.block_size)
}

/// Greedy requests and sampled ones, long enough for drafts to matter.
fn mixed() -> Vec<Request> {
    let mut requests = requests();
    for (index, request) in requests.iter_mut().enumerate() {
        request.stop.max_tokens = 24;
        if index % 2 == 1 {
            request.sampling = SamplingParams { temperature: 0.8, top_k: 0, top_p: 0.95, seed: index as u64 };
        }
    }
    requests
}

fn serve_plain(engine: &EngineConfig) -> (Tokens, Stats) {
    serve_these(mixed(), engine, cpu(&runtime(engine)))
}

fn serve_with_draft(engine: &EngineConfig, spec: &ModelSpec, seed: u64, drafts: usize) -> (Tokens, Stats) {
    let runtime = runtime(engine);
    let source = SyntheticWeights::new(spec.clone(), seed);
    let executor = DraftModelExecutor::new(cpu(&runtime), spec, &source, &runtime, drafts).unwrap();
    serve_these(mixed(), engine, executor)
}

#[test]
fn a_draft_model_changes_no_token() {
    let (reference, plain) = serve_plain(&engine(None, false, 1024));
    for (ahead, tokens) in [(false, 1024), (true, 1024), (false, 160), (true, 160)] {
        let engine = engine(Some(speculation(SpeculativeMethod::DraftModel, 4)), ahead, tokens);
        // Itself as draft model: every draft is right, so only the end of a request cuts one off.
        let (same, stats) = serve_with_draft(&engine, &tiny_spec(), 11, 4);
        assert_eq!(same, reference, "ahead {ahead}, {tokens} tokens");
        let accepted = stats.accepted_draft_tokens_total as f64 / stats.draft_tokens_total as f64;
        assert!(accepted > 0.85, "ahead {ahead}, {tokens} tokens: {accepted} {stats:?}");
        assert!(tokens < 1024 || stats.steps_total < plain.steps_total / 2, "{stats:?}");
        assert!(tokens == 1024 || stats.preemptions_total > 0, "{stats:?}");
        // A stranger: nearly every draft is wrong.
        let one_layer = ModelSpec { num_layers: 1, ..tiny_spec() }.with_plain_attention(10_000.0);
        let (same, stats) = serve_with_draft(&engine, &one_layer, 5, 4);
        assert_eq!(same, reference, "ahead {ahead}, {tokens} tokens, wrong drafts");
        assert!(stats.accepted_draft_tokens_total < stats.draft_tokens_total / 2, "{stats:?}");
    }
}

#[test]
fn prompt_lookup_changes_no_token() {
    let (reference, plain) = serve_plain(&engine(None, false, 1024));
    for tokens in [1024, 160] {
        let engine = engine(Some(speculation(SpeculativeMethod::Ngram, 3)), false, tokens);
        let (same, stats) = serve_plain(&engine);
        assert_eq!(same, reference, "{tokens} tokens");
        assert!(stats.draft_tokens_total > 0, "nothing was looked up: {stats:?}");
        assert!(tokens < 1024 || stats.steps_total <= plain.steps_total, "{stats:?}");
    }
}

#[test]
fn planning_ahead_changes_no_token() {
    let reference = serve_plain(&engine(None, false, 1024)).0;
    for tokens in [1024, 160] {
        assert_eq!(serve_plain(&engine(None, true, tokens)).0, reference, "{tokens} tokens");
    }
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let engine = engine(Some(speculation(SpeculativeMethod::DraftModel, 2)), false, 256);
    let spec = ModelSpec { vocab_size: 400, ..tiny_spec() };
    let runtime = runtime(&engine);
    let error = DraftModelExecutor::new(cpu(&runtime), &spec, &tiny_weights(&spec), &runtime, 2).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("400 tokens, the target has 384"), "{message}");
}
