//! The executor on our own kernels and paged cache.

use std::time::Instant;

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_kernels::attention::KvCache;
use llmlab_kernels::{Isa, ThreadPool};
use llmlab_models::{LoadedModel, ModelSpec, WeightSource};

use crate::batch::{Batch, Limits};
use crate::config::{RuntimeConfig, RuntimeError};
use crate::model::llama::{Llama, Workspace};
use crate::sampler::Sampler;
use crate::weights::LlamaWeights;

/// Executes plans on the CPU.
///
/// The logits of a sequence are the same bits whatever else the plans contain and however its prompt was chunked; see
/// the two promises of `llmlab_kernels`.
pub struct CpuExecutor {
    model: Llama,
    kv: KvCache,
    pool: ThreadPool,
    limits: Limits,
    vocab: usize,
    embedding_row_bytes: u64,
    kv_token_bytes: u64,
    batch: Batch,
    work: Workspace,
    sampler: Sampler,
}

/// The bytes a step must move at least, each counted once: the memory side of its roofline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBytes {
    /// Decoder layers, the rows looked up in the embedding, and the output projection if anything is sampled.
    pub weights: u64,
    /// Keys and values of every sequence's positions up to its last new token.
    pub kv_read: u64,
    /// Keys and values of the new tokens.
    pub kv_written: u64,
}

impl CpuExecutor {
    pub fn new(model: &LoadedModel, config: &RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::from_weights(&model.spec, model.weights.as_ref(), config)
    }

    /// As [`CpuExecutor::new`] without a tokenizer and the rest of a loaded model.
    pub fn from_weights(
        spec: &ModelSpec,
        source: &dyn WeightSource,
        config: &RuntimeConfig,
    ) -> Result<Self, RuntimeError> {
        config.validate(spec)?;
        let pool = ThreadPool::try_new(config.threads).map_err(RuntimeError::Threads)?;
        let mut kv = KvCache::new(
            config.kv,
            spec.num_layers as usize,
            config.num_blocks as usize,
            config.block_size as usize,
            spec.num_kv_heads as usize,
            spec.head_dim as usize,
        )
        .map_err(RuntimeError::KvCache)?;
        kv.touch();
        let weights = LlamaWeights::load(spec, source, config.weights, Isa::detect(), &pool)?;
        let kv_rows = 2 * u64::from(spec.num_layers) * u64::from(spec.num_kv_heads);
        Ok(CpuExecutor {
            model: Llama::new(spec, weights, config.max_model_len as usize),
            kv,
            pool,
            limits: Limits::new(spec, config),
            vocab: spec.vocab_size as usize,
            embedding_row_bytes: config.weights.row_bytes(spec.hidden_size as usize) as u64,
            kv_token_bytes: kv_rows * config.kv.bytes_per_row(spec.head_dim as usize) as u64,
            batch: Batch::default(),
            work: Workspace::default(),
            sampler: Sampler::default(),
        })
    }

    /// Packed weights in memory.
    pub fn weight_bytes(&self) -> u64 {
        self.model.weights.bytes()
    }

    /// The whole block pool, used or not.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    pub fn step_bytes(&self, plan: &StepPlan) -> StepBytes {
        let weights = &self.model.weights;
        let rows: u64 = plan.seqs.iter().map(|s| s.tokens.len() as u64 + u64::from(s.padding)).sum();
        let logits = plan.seqs.iter().any(|s| s.sample || s.tokens.is_empty());
        let head = if logits { weights.lm_head().bytes() as u64 } else { 0 };
        let new = plan.new_tokens() as u64;
        let computing = plan.seqs.iter().filter(|s| !s.tokens.is_empty());
        let context: u64 = computing.map(|s| u64::from(s.context)).sum();
        StepBytes {
            weights: weights.layer_bytes() + rows * self.embedding_row_bytes + head,
            kv_read: (context + new) * self.kv_token_bytes,
            kv_written: new * self.kv_token_bytes,
        }
    }

    /// Computes the plan as [`Executor::execute`] does, but returns the logits that it would have sampled from: one row
    /// of the vocabulary for each sampling sequence, in plan order.
    pub fn logits(&mut self, plan: &StepPlan) -> Result<Vec<Vec<f32>>, ExecutorError> {
        self.batch.fill(plan, &self.limits)?;
        let logits = self.model.forward(&self.pool, &self.batch, &mut self.kv, &mut self.work);
        Ok(logits.chunks_exact(self.vocab).take(self.batch.samples).map(<[f32]>::to_vec).collect())
    }
}

impl Executor for CpuExecutor {
    #[allow(clippy::disallowed_methods, reason = "an executor times itself")]
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        let start = Instant::now();
        self.batch.fill(plan, &self.limits)?;
        let logits = self.model.forward(&self.pool, &self.batch, &mut self.kv, &mut self.work);
        let sampled = self.sampler.sample(plan, logits, self.vocab)?;
        Ok(StepOutcome { sampled, elapsed: start.elapsed() })
    }
}
