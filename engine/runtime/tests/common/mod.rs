//! A model small enough for tests, and hand-made plans for it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod fixture;
pub mod serving;

use llmlab_core::request::{RequestId, TokenId};
use llmlab_core::step::{BlockId, SeqStep, StepPlan};
use llmlab_kernels::attention::KvFormat;
use llmlab_models::synthetic::SyntheticWeights;
use llmlab_models::{ModelSpec, Preset};
use llmlab_quant::{WeightFormat, WeightRecipe};
use llmlab_runtime::{CpuExecutor, RuntimeConfig};

pub const FORMATS: [WeightFormat; 4] =
    [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4_0];

pub const MAX_MODEL_LEN: u32 = 128;

/// Two layers, four heads on two KV heads.
pub fn tiny_spec() -> ModelSpec {
    ModelSpec {
        name: "tiny".into(),
        vocab_size: 384,
        hidden_size: 256,
        intermediate_size: 512,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        max_position_embeddings: MAX_MODEL_LEN,
        ..Preset::Llama15m.spec()
    }
    .with_plain_attention(10_000.0)
}

pub fn tiny_weights(spec: &ModelSpec) -> SyntheticWeights {
    SyntheticWeights::new(spec.clone(), 11)
}

pub fn config(
    weights: WeightFormat,
    kv: KvFormat,
    threads: usize,
    num_blocks: u32,
    block_size: u32,
) -> RuntimeConfig {
    RuntimeConfig {
        weights: WeightRecipe::Uniform(weights),
        kv,
        threads,
        num_blocks,
        block_size,
        max_model_len: MAX_MODEL_LEN,
    }
}

pub fn cpu(config: &RuntimeConfig) -> CpuExecutor {
    let spec = tiny_spec();
    CpuExecutor::from_weights(&spec, &tiny_weights(&spec), config).unwrap()
}

/// `n` token ids of the tiny vocabulary.
pub fn prompt(n: usize, seed: u32) -> Vec<TokenId> {
    (0..n as u32).map(|i| (seed * 7919 + i * i * 31 + i * 17) % 384).collect()
}

pub fn seq(id: u64, context: u32, tokens: &[TokenId], blocks: &[u32]) -> SeqStep {
    SeqStep::new(RequestId(id), context, tokens.to_vec(), blocks.iter().copied().map(BlockId).collect())
}

pub fn plan(step: u64, seqs: Vec<SeqStep>) -> StepPlan {
    StepPlan { step, seqs, preempted: Vec::new(), admitted: Vec::new() }
}
